"""Entries between which no clock moves have the same statistics together as one by one."""

import dataclasses
import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from properties.series import batches
from pushsvc.event import Event
from pushsvc.event.columns import Columns
from pushsvc.settings import TopicSettings
from pushsvc.stats.window import Window
from support.reference.numbers import EVENT_CLOCK, NOW, T, topic

VALUES = dataclasses.replace(
    NOW, values=("x",), statistics=(*TopicSettings().statistics, "distinct", "top", "first", "last", "p50")
)
EXACT = dataclasses.replace(NOW, exact=True)
LAST = dataclasses.replace(NOW, windows=(Window.parse("last 10"), Window.parse("10s")))
FEW = dataclasses.replace(NOW, max_keys=2, max_fields=1)

gaps = st.sampled_from([0, 0, 1, 1, 3, 40, 400, 999, 11_000, 61_000])
entries = st.lists(st.tuples(gaps, batches), min_size=1, max_size=25)


def log_of(series):
    """Return entries as (last offset, arrival, events)."""
    found, offset, now = [], 0, T + 17
    for gap, batch in series:
        now += gap
        offset += len(batch)
        events = [Event(time=None if shift is None else now + shift, key=key, data=data) for shift, key, data in batch]
        found.append((offset, now, events))
    return found


def frames_of(aggregate, options, now):
    """Return its frames with sorted rows: two new rows come in any order. The last digits of a std depend on the
    order in which moments were merged."""
    frames = aggregate.flush(now) + [aggregate.snapshot(window.name) for window in options.windows]
    found = [json.loads(frame.to_json(now)) for frame in frames]
    for frame in found:
        std = frame["columns"].index("std")
        for row in frame["data"]:
            row[std] = row[std] and float(f"{row[std]:.12g}")
        for rows in ("data", "gone"):
            frame[rows] = sorted(frame.get(rows, ()), key=repr)
    return found


@given(st.lists(entries, min_size=1, max_size=3), st.sampled_from([NOW, VALUES, EXACT, LAST, FEW, EVENT_CLOCK]))
def test_entries_counted_together_have_the_frames_of_entries_counted_in_turn(reads, options):
    each, runs = topic(options), topic(options)
    log = log_of([entry for read in reads for entry in read])
    for read in reads:
        own, log = log[: len(read)], log[len(read) :]
        for offset, arrival, events in own:
            each.apply(offset, arrival, events)
        at = 0
        while at < len(own):
            until, run = runs.all.reach(own[at][1]), []
            while at < len(own) and own[at][1] <= until:
                run.append(own[at])
                at += 1
            events = [event for _, _, some in run for event in some]
            arrivals = np.repeat([arrival for _, arrival, _ in run], [len(some) for _, _, some in run])
            columns = Columns.from_events(events, options.key, options.values)
            runs.all.apply("t", run[-1][0], arrivals, columns)
        now = own[-1][1]
        assert frames_of(runs, options, now) == frames_of(each, options, now)
        for name in ("offset", "late", "late_by_window", "ahead", "folded", "ignored"):
            assert getattr(runs, name) == getattr(each, name), name
        assert runs.wake_at() == each.wake_at()


def test_the_entries_of_a_second_are_one_run():
    aggregate = topic(dataclasses.replace(NOW, windows=(Window.parse("1m"),)))
    assert aggregate.all.reach(T + 17) >= T + 900
    assert topic(EXACT).all.reach(T + 17) == topic(EVENT_CLOCK).all.reach(T + 17) == T + 17
