"""Statistics of values of one topic, computed from its log."""

import dataclasses
import json
from collections import Counter

import pytest

from pushsvc.event import Event
from pushsvc.event.columns import Columns
from pushsvc.settings import TopicSettings
from pushsvc.stats.window import Window
from support.reference.open_aggregate import OpenAggregate

T = 1_700_000_000_000
STATISTICS = ("p50", "distinct", "top3", "first", "last", "top")
NOW = TopicSettings(
    windows=tuple(map(Window.parse, ("10s", "1m"))),
    statistics=STATISTICS,
    values=("v", "w"),
    cadence=0,
    idle_cadence=0,
)
EVENT_CLOCK = dataclasses.replace(NOW, clock="event")
GROUPED = dataclasses.replace(NOW, key=("key", "k2", "key+k2"))
LAST = dataclasses.replace(NOW, windows=tuple(map(Window.parse, ("last 3", "last 20"))))
EXACT = dataclasses.replace(NOW, exact=True)
FEW = dataclasses.replace(EXACT, max_events=6)
BOTH = dataclasses.replace(GROUPED, windows=tuple(map(Window.parse, ("10s", "last 5", "1m", "last 20"))))
ALL = dataclasses.replace(BOTH, exact=True, clock="event")
RECENT = [LAST, EXACT, FEW, BOTH, ALL, dataclasses.replace(BOTH, clock="event", key=("key",))]
"""Settings whose windows keep their events, some beside windows of panes."""

EXACT_COLUMNS = ("count", "distinct", "top3", "first", "last", "top", "approximate")


class Recorder:
    """An aggregate with topic ``t``, and the log of its events: (time, event)."""

    def __init__(self, settings=NOW):
        self.settings = settings
        self.all = OpenAggregate(settings, T)
        self.topic = self.all.open("t", T)
        self.log = []

    def send(self, arrival, *events):
        self.log += [(arrival if event.time is None else event.time, event) for event in events]
        self.all.apply(
            "t", len(self.log), arrival, Columns.from_events(events, self.settings.key, self.settings.values)
        )

    def rows(self, window="1m"):
        return rows_of(self.all.snapshot("t", window))


def rows_of(frame):
    """Return (key, field, by) -> column -> value."""
    rows = [dict(zip(frame.columns, row, strict=True)) for row in json.loads(frame.body)["data"]]
    return {(row["key"], row["field"], row.get("by")): row for row in rows}


def event(time=None, key="a", **data):
    return Event(time=time, key=key, data=data)


def identity(value):
    """Return equal objects for equal values; a boolean equals no number."""
    return (type(value) is bool, value)


def written(value):
    """Return a value as frames contain it."""
    whole = type(value) is float and value.is_integer() and -(2**63) <= value < 2**64
    return int(value) if whole else value


def keys_of(settings, one):
    """Return (key, by) of the rows in which an event counts."""
    keys = [(None, None)]
    for grouping in settings.key:
        parts = [one.key if name == "key" else one.data.get(name) for name in grouping.split("+")]
        if None not in parts:
            keys.append(("+".join(parts), grouping if len(settings.key) > 1 else None))
    return keys


def expected(recorder, frame):
    """Compute from the log the rows of fields whose values are kept."""
    found, last = {}, recorder.settings.window(frame.window).events
    for offset, (time, one) in enumerate(recorder.log[: frame.offset], 1):
        inside = offset > frame.offset - last if last else frame.start <= time < frame.end
        for name in recorder.settings.values:
            value = one.data.get(name)
            if value is None or isinstance(value, list | dict):
                continue
            for key, by in keys_of(recorder.settings, one):
                group = found.setdefault((key, name, by), [])
                group += [(time, value)] * inside
    return {name: statistics_of(values) for name, values in found.items() if values or name[0] is None}


def statistics_of(values):
    counts = Counter(identity(value) for _, value in values)
    names = {identity(value): written(value) for _, value in values}
    ranked = sorted(counts, key=lambda one: (-counts[one], json.dumps(names[one], ensure_ascii=False).encode()))
    top = [[names[one], counts[one]] for one in ranked]
    ordered = sorted(values, key=lambda one: one[0])
    first, last = (None, None) if not values else (written(ordered[0][1]), written(ordered[-1][1]))
    return {
        "count": len(values), "distinct": len(counts), "top3": top[:3], "top": top[:10],
        "first": first, "last": last, "approximate": False, "all": top,
    }  # fmt: skip


def strict(value):
    """Return a text that is equal only for values of equal types."""
    return json.dumps(value)


def exact(rows):
    """Return the columns of rows that must be equal bit for bit."""
    return {place: strict({name: row[name] for name in EXACT_COLUMNS}) for place, row in rows.items()}


def check(recorder, window):
    frame = recorder.all.snapshot("t", window)
    wanted = expected(recorder, frame)
    found = {name: row for name, row in rows_of(frame).items() if name[1] in recorder.settings.values}
    assert exact(found) == exact(wanted), (frame.window, frame.offset)


def check_approximate(recorder, window):
    """Check that rows are exact unless flagged as approximate, else within bounds; return how many are flagged."""
    frame = recorder.all.snapshot("t", window)
    wanted, approximate = expected(recorder, frame), 0
    for name, row in rows_of(frame).items():
        if name[1] not in recorder.settings.values:
            continue
        if row["approximate"]:
            approximate += 1
            assert [row[one] for one in ("count", "first", "last")] == [
                wanted[name][one] for one in ("count", "first", "last")
            ]  # fmt: skip
            assert row["distinct"] == pytest.approx(wanted[name]["distinct"], abs=2)
            true = {identity(value): count for value, count in wanted[name]["all"]}
            assert all(count <= true[identity(value)] for value, count in row["top"])
        else:
            assert exact({name: row}) == exact({name: wanted[name]}), name
    return approximate
