"""A series against an engine with all rows and windows that gets entry after entry and is asked for snapshots."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from pushsvc.aggregate.aggregate import Aggregate
from pushsvc.aggregate.series import SeriesQuery, series_of
from pushsvc.event import Event
from pushsvc.event.columns import Columns
from pushsvc.settings import TopicSettings
from pushsvc.stats.window import Window

BEGIN = 1_700_000_000_000
MOMENTS = ("count", "rate", "sum", "mean", "min", "max", "std")
NAMES = (*MOMENTS, "p50", "p95")  # an engine is asked for these, while moments alone are merged
SETTINGS = {
    "wall": TopicSettings(windows=tuple(map(Window.parse, ("10s", "1m")))),
    "event": TopicSettings(windows=tuple(map(Window.parse, ("10s", "1m"))), clock="event"),
    "exact": TopicSettings(windows=tuple(map(Window.parse, ("10s", "1m"))), exact=True),
    "groupings": TopicSettings(windows=(Window.parse("10s"),), key=("kind", "key")),
    "distinct": TopicSettings(windows=(Window.parse("10s"),), values=("x",), statistics=("p50", "p95", "distinct")),
}


def some_entries(chance: Random, count: int) -> list[tuple[int, list[Event]]]:
    """Return entries with their arrivals; some events come late, early, or without key or field."""
    entries, now = [], BEGIN
    for _ in range(count):
        now += chance.choice((0, 3, 400, 2_000, 9_000))
        events = []
        for _ in range(chance.randrange(1, 5)):
            time = now + chance.choice((0, -700, -8_000, -40_000, -90_000, 4_000)) if chance.random() < 0.5 else None
            data = {"x": chance.choice((0.1, 0.2, 1e9, chance.random()))} if chance.random() < 0.8 else {}
            data["kind"] = chance.choice(("p", "q"))
            events.append(Event(time=time, key=chance.choice((None, "a", "b")), data=data))
        entries.append((now, events))
    return entries


def asked(settings: TopicSettings, entries, query: SeriesQuery, times) -> list[list[float | None]]:
    """Return what the snapshots of an engine say at each time. Its clock is that of the wall or of the events."""
    engine, pending, offset = Aggregate(settings, BEGIN - 200_000), list(entries), 0
    engine.open("t", BEGIN)
    found = []
    for time in times:
        while pending and pending[0][0] < time:
            arrival, events = pending.pop(0)
            offset += len(events)
            engine.apply("t", offset, arrival, Columns.from_events(events, settings.key, settings.values))
        engine.advance(time - 1)
        frame = engine.snapshot("t", query.window.name)
        by = frame.columns.index("by") if "by" in frame.columns else None
        rows = [row for row in frame.rows if row[:2] == (query.key, query.field)]
        if by is not None and query.key is not None:
            rows = [row for row in rows if row[by] == settings.key[query.grouping]]
        row = rows[0] if rows and rows[0][frame.columns.index("count")] else None
        found.append([None if row is None else row[frame.columns.index(name)] for name in query.names])
    return found


def series(settings: TopicSettings, entries, query: SeriesQuery, times, size: int):
    """Return the times and the values of a series that gets ``size`` entries at a time."""
    made = series_of(settings, query, times)
    for begin in range(0, len(entries), size):
        piece = entries[begin : begin + size]
        events = [event for _, events in piece for event in events]
        arrivals = np.repeat([arrival for arrival, _ in piece], [len(events) for _, events in piece])
        made.add(Columns.from_events(events, settings.key, settings.values), arrivals)
    found, values = made.finish(times[-1])
    return list(found), [[None if value != value else value for value in row] for row in values.T.tolist()]


@pytest.mark.parametrize("names", [MOMENTS, NAMES], ids=["moments", "all"])
@pytest.mark.parametrize("kind", ["wall", "exact", "groupings", "distinct"])
@pytest.mark.parametrize("seed", range(4))
def test_series_equals_the_snapshots_of_an_engine(kind, names, seed):
    settings, chance = SETTINGS[kind], Random(seed)
    entries = some_entries(chance, 60)
    names += ("distinct",) if kind == "distinct" and names is NAMES else ()
    for window in settings.windows:
        step = 1_000 * chance.choice((2, 5, 12))
        first = -(-(BEGIN + 1) // step) * step
        times = range(first, entries[-1][0] + 20_000, step)
        for key, grouping in ((None, 0), ("a", len(settings.key) - 1), ("nobody", 0)):
            query = SeriesQuery(window, names, "x", key, grouping)
            found = series(settings, entries, query, times, chance.randrange(1, 60))
            assert found == (list(times), asked(settings, entries, query, times))


@pytest.mark.parametrize("names", [MOMENTS, NAMES], ids=["moments", "all"])
@pytest.mark.parametrize("seed", range(4))
def test_series_by_the_clock_of_events_equals_snapshots_between_single_events(seed, names):
    settings, chance = SETTINGS["event"], Random(seed)
    events = [event for _, events in some_entries(chance, 60) for event in events if event.time is not None]
    clock, clocked = 0, []
    for event in events:
        clock = max(clock, event.time)
        clocked.append((clock, [event]))
    step = 1_000
    for window, key in ((settings.windows[0], None), (settings.windows[1], "a")):
        query = SeriesQuery(window, names, "x", key)
        times = range(-(-(clocked[0][0] + 1) // step) * step, clock + 1, step)
        wall = TopicSettings(windows=settings.windows)
        found = series(settings, [(0, events)], query, times, 1)
        assert found == (list(times), asked(wall, clocked, query, times))


def test_times_that_the_clock_of_events_did_not_pass_have_no_value():
    settings = SETTINGS["event"]
    made = series_of(settings, SeriesQuery(settings.windows[0], ("count",)), range(BEGIN, BEGIN + 60_000, 1_000))
    made.add(Columns.from_events([Event(time=BEGIN + 2_500)]), np.array([BEGIN]))
    times, values = made.finish(BEGIN + 60_000)
    assert list(times) == [BEGIN, BEGIN + 1_000, BEGIN + 2_000]
    assert np.isnan(values).all()
    assert not made.done


def test_many_late_events_are_merged_in_pieces(monkeypatch):
    """Each is late for another time, so each has a partial of its own."""
    monkeypatch.setattr("pushsvc.aggregate.series._MERGED", 50)
    settings, chance = SETTINGS["wall"], Random(1)
    entries = [
        (BEGIN + 10 * n, [Event(time=BEGIN + chance.randrange(n + 1) * 10, data={"x": chance.random()})])
        for n in range(2_000)
    ]
    query = SeriesQuery(settings.windows[0], MOMENTS, "x")
    times = range(BEGIN, BEGIN + 40_000, 1_000)
    found = series(settings, entries, query, times, 100)
    assert found == (list(times), asked(settings, entries, query, times))


def test_events_of_other_keys_move_the_clock_of_events():
    settings = SETTINGS["event"]
    made = series_of(
        settings, SeriesQuery(settings.windows[0], ("count",), key="a"), range(BEGIN, BEGIN + 4_000, 1_000)
    )
    made.add(
        Columns.from_events([Event(time=BEGIN - 1, key="a"), Event(time=BEGIN + 1_000, key="b")]), np.zeros(2, int)
    )
    times, values = made.finish(0)
    assert (list(times), values.tolist()) == ([BEGIN, BEGIN + 1_000], [[1.0, 1.0]])
