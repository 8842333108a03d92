"""Frames of one topic, against rows computed from its log."""

import copy
import dataclasses
import json
from fractions import Fraction

import pytest

from pushsvc.aggregate.aggregate import ENGINE_BYTES
from pushsvc.aggregate.row_updates import TopicCounts
from pushsvc.event import Event
from pushsvc.event.columns import Columns
from pushsvc.settings import TopicSettings
from pushsvc.stats.window import Window
from support.reference.moments import std_of
from support.reference.open_aggregate import OpenAggregate

T = 1_700_000_000_000
SHORT = TopicSettings(windows=(Window.parse("10s"), Window.parse("1m")))
NOW = dataclasses.replace(SHORT, cadence=0, idle_cadence=0)
EVENT_CLOCK = dataclasses.replace(NOW, clock="event")


class TopicAggregate:
    """An aggregate with one topic."""

    def __init__(self, options, since, most_bytes=ENGINE_BYTES):
        self.options = options
        self.all = OpenAggregate(options, since, most_bytes)
        self.topic = self.all.open("t", since)

    def apply(self, offset, arrival, events):
        self.all.apply("t", offset, arrival, Columns.from_events(events, self.options.key, self.options.values))

    def snapshot(self, window):
        return self.all.snapshot("t", window)

    def watch(self, window, watched):
        self.all.watch("t", window, watched)

    def __getattr__(self, name):
        return getattr(self.topic if name in TopicCounts.__slots__ else self.all, name)

    def __deepcopy__(self, memo):
        return self._with(copy.deepcopy(self.all, memo))

    def saved_and_restored(self):
        """Return an aggregate restored from the saved state."""
        return self._with(OpenAggregate.restore(self.options, b"".join(self.all.save())))

    def _with(self, aggregate):
        same = object.__new__(TopicAggregate)
        same.options, same.all, same.topic = self.options, aggregate, aggregate.topics["t"]
        return same


def topic(options=NOW, since=T, **limits):
    return TopicAggregate(options, since, **limits)


def event(time=None, key="a", **data):
    return Event(time=time, key=key, data=data)


class Producer:
    """Applies entries, and keeps their events with their times in the order of the log."""

    def __init__(self, aggregate):
        self.aggregate = aggregate
        self.log = []

    def send(self, arrival, *events):
        self.log += [(e.time if e.time is not None else arrival, e.key, e.data) for e in events]
        self.aggregate.apply(len(self.log), arrival, events)


class Reader:
    """Keeps rows by (key, field), as a client does."""

    def __init__(self):
        self.windows = {}

    def take(self, frames):
        for frame in frames:
            body = json.loads(frame.to_json(T))
            rows = self.windows.setdefault(body["window"], {})
            if frame.kind == "snapshot":
                rows.clear()
            rows.update({(row[0], row[1]): row[2:] for row in body["data"]})
            for key, field in body["gone"]:
                del rows[key, field]

    def rows(self, window):
        """Return the rows that are not empty, and totals."""
        return {name: row for name, row in self.windows.get(window, {}).items() if row[0] or name[0] is None}


def rows_of(frame):
    return {(row[0], row[1]): list(row[2:]) for row in frame.rows}


def state(aggregate, window):
    """Return the rows of a snapshot of a copy."""
    return rows_of(copy.deepcopy(aggregate).snapshot(window))


def expected(log, frame, seconds):
    """Compute the rows of a frame's interval from the log."""
    groups = {(None, None): []}
    for time, key, data in log[: frame.offset]:
        inside = frame.start <= time < frame.end
        numbers = {name: v for name, v in data.items() if isinstance(v, int | float) and not isinstance(v, bool)}
        for owner in {key, None}:
            for field, value in [(None, None), *numbers.items()]:
                group = groups.setdefault((owner, field), [])
                group += [value] * inside
    return {
        name: statistics_of(name[1], values, seconds) for name, values in groups.items() if values or name[0] is None
    }


def statistics_of(field, values, seconds):
    """Compute a row in integers, as values are multiples of 1/64; a quotient of integers is rounded once."""
    n, rate = len(values), len(values) / seconds
    if field is None:
        return [n, rate, *[None] * 8]
    if not n:
        return [0, 0.0, 0.0, *[None] * 7]
    whole = [int(value * 64) for value in values]
    total, squares = sum(whole), sum(k * k for k in whole)
    std = std_of(Fraction(n * squares - total * total, n * 64 * 64), n) if n > 1 else None
    ordered = sorted(values)
    ranked = [float(ordered[-(-percent * n // 100) - 1]) for percent in (50, 95, 99)]
    return [n, rate, total / 64, total / (64 * n), float(min(values)), float(max(values)), std, *ranked]


def assert_same(rows, wanted, exact=16):
    """Assert that rows are bit-equal but for quantiles of more than ``exact`` values (1/128)."""
    assert rows.keys() == wanted.keys()
    for name, row in rows.items():
        want = wanted[name]
        assert row[:7] == want[:7], name
        few = row[0] <= exact or name[1] is None
        assert row[7:] == (want[7:] if few else [pytest.approx(value, rel=1 / 128, abs=0) for value in want[7:]]), name
