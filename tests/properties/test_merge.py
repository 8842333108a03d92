"""Rows of engines that each count some of the events, merged, against those of one engine."""

import dataclasses
from fractions import Fraction
from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from properties.series import steps
from pushsvc.event import Event
from support.reference.numbers import NOW, T, assert_same, rows_of, topic

EXACT = dataclasses.replace(NOW, exact=True)
SHARDS = 3
wall = st.sampled_from([NOW, EXACT])


def of_key(number, key):
    return sum(map(ord, key or "")) % SHARDS


def of_number(number, key):
    return number % SHARDS


def shards_of(series, options, choose):
    """Play a series to one engine and to several; yield them whenever frames are read."""
    whole, shards, now, number = topic(options), [topic(options) for _ in range(SHARDS)], T + 17, 0
    for gap, batch, read in series:
        now += gap
        parts = [[] for _ in shards]
        for shift, key, data in batch:
            event = Event(time=None if shift is None else now + shift, key=key, data=data)
            parts[choose(number, key)].append(event)
            number += 1
        if batch:
            events = [Event(None, "message", None if s is None else now + s, key, data) for s, key, data in batch]
            whole.apply(whole.offset + len(batch), now, events)
        whole.advance(now)
        for shard, part in zip(shards, parts, strict=True):
            shard.advance(now)
            if part:
                shard.apply(shard.offset + len(part), now, part)
        if read:
            yield whole, shards


def merged(rows):
    """Merge rows of one name: counts and sums add up, spreads merge as in Chan, Golub and LeVeque (1979)."""
    rows = [row for row in rows if row is not None]
    count, rate = sum(row[0] for row in rows), sum(Fraction(row[1]) for row in rows)
    full = [row for row in rows if row[0] and row[2] is not None]
    if not full:
        return [count, rate, 0.0 if rows[0][2] is not None else None, None, None, None, None]
    total, n, mean, spread = Fraction(0), 0, Fraction(0), Fraction(0)
    for row in full:
        own, own_mean = row[0], Fraction(row[2]) / row[0]
        away, both = own_mean - mean, n + own
        spread += Fraction(row[6] or 0) ** 2 * (own - 1) + away * away * n * own / both
        mean, n, total = (mean * n + own_mean * own) / both, both, total + Fraction(row[2])
    std = sqrt(spread / (n - 1)) if n > 1 else None
    return [count, rate, float(total), float(mean), min(r[4] for r in full), max(r[5] for r in full), std]


def assert_merged(whole, shards):
    for name, row in whole.items():
        want = merged([shard.get(name) for shard in shards])
        assert [row[0], *row[2:6]] == [want[0], *want[2:6]], name
        assert row[1] == pytest.approx(float(want[1]), rel=1e-15), name
        assert row[6] == (None if want[6] is None else pytest.approx(want[6], rel=1e-14, abs=0)), name
    assert set().union(*shards) == whole.keys()


@given(steps, wall, st.sampled_from([of_key, of_number]))
def test_the_merge_of_shards_is_the_whole(series, options, choose):
    for whole, shards in shards_of(series, options, choose):
        for window in options.windows:
            frames = [one.snapshot(window.name) for one in (whole, *shards)]
            assert len({(frame.start, frame.end) for frame in frames}) == 1
            whole_rows, *rows = map(rows_of, frames)
            assert_merged(whole_rows, [shard for shard in rows if shard])
            if choose is of_key:
                for shard in rows:
                    own = {name: row for name, row in shard.items() if name[0] is not None}
                    assert_same(own, {name: whole_rows[name] for name in own}, exact=10**9)
