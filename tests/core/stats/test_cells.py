"""The bound of the cells that all engines of a process hold together."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import numpy as np
import orjson
import pytest

from pushsvc.aggregate.aggregate import Aggregate
from pushsvc.event import Event
from pushsvc.event.columns import Columns
from pushsvc.settings import TopicSettings
from pushsvc.stats.cells import CELL_BYTES, CellLedger
from pushsvc.stats.rows import OTHER
from pushsvc.stats.serialize import InvalidState
from pushsvc.stats.window import Window

T = 1_700_000_000_000
SETTINGS = TopicSettings(windows=(Window.parse("1m"),), statistics=())


def put(aggregate: Aggregate, topic: str, events: list[tuple[str, dict[str, float]]], arrival: int = T) -> None:
    counts = aggregate.topics.get(topic) or aggregate.open(topic, T)
    columns = Columns.from_events([Event(key=key, data=data) for key, data in events], SETTINGS.key)
    aggregate.apply(topic, counts.offset + len(events), arrival, columns)


def snapshot(aggregate: Aggregate, topic: str, now: int = T) -> dict[str, Any]:
    frame: dict[str, Any] = orjson.loads(aggregate.snapshot(topic, "1m").to_json(now))
    return frame


def sums(frame: dict[str, Any]) -> dict[tuple[str | None, str | None], tuple[int, float | None]]:
    columns = frame["columns"]
    at = [columns.index(name) for name in ("key", "field", "count", "sum")]
    return {(row[at[0]], row[at[1]]): (row[at[2]], row[at[3]]) for row in frame["data"]}


def test_one_topic_leaves_room_for_those_that_come_later() -> None:
    ledger = CellLedger(10_000)
    aggregate = Aggregate(SETTINGS, T, cells=ledger)
    held = []
    for number in range(4):
        before = ledger.held
        put(aggregate, f"t{number}", [(f"k{key}", {"x": 1}) for key in range(20_000)])
        held.append(ledger.held - before)
    assert ledger.held <= ledger.limit
    assert held == sorted(held, reverse=True)
    assert 8_000 < held[0] < 9_000
    assert held[3] >= 10
    for number in range(4):
        frame = snapshot(aggregate, f"t{number}")
        assert frame["full"] is True
        assert sums(frame)[None, "x"] == (20_000, 20_000)
    assert ledger.refused > 0


def test_cells_of_closed_topics_and_ended_aggregates_are_given_back() -> None:
    ledger = CellLedger(10_000)
    first, second = Aggregate(SETTINGS, T, cells=ledger), Aggregate(SETTINGS, T, cells=ledger)
    put(first, "a", [("k", {"x": 1})])
    put(first, "b", [("k", {"x": 1})])
    put(second, "a", [("k", {"x": 1})])
    assert ledger.held == 12
    first.close("a")
    assert ledger.held == 8
    first.release_cells()
    first.release_cells()
    assert ledger.held == 4
    first.close("b")
    assert ledger.held == 4


def test_a_saved_aggregate_that_does_not_fit_is_refused() -> None:
    aggregate = Aggregate(SETTINGS, T)
    put(aggregate, "a", [(f"k{key}", {"x": 1}) for key in range(100)])
    state = b"".join(aggregate.save())
    ledger = CellLedger(204)  # 100 keys of two rows, two totals, and two that ``__other__`` may need
    assert sums(snapshot(Aggregate.restore(SETTINGS, state, cells=ledger), "a")) == sums(snapshot(aggregate, "a"))
    assert ledger.held == 202
    with pytest.raises(InvalidState):
        Aggregate.restore(SETTINGS, state, cells=ledger)
    assert ledger.held == 202


def test_fields_without_room_are_not_counted_and_the_events_are() -> None:
    ledger = CellLedger(40)
    aggregate = Aggregate(SETTINGS, T, cells=ledger)
    for number in range(10):
        put(aggregate, f"t{number}", [("k", {f"f{field}": 1 for field in range(32)})])
    # A topic always has rows of its events: all keys together, and ``__other__``.
    assert ledger.held <= 40 + 20
    assert aggregate.topics["t9"].ignored == 32
    assert all(snapshot(aggregate, f"t{number}")["data"][0][2] == 1 for number in range(10))


@pytest.mark.parametrize("seed", range(30))
def test_rows_that_exist_are_exact_and_nothing_is_lost(seed: int) -> None:
    """Random topics, expiry and restarts under one bound. Each row has what its key got since the row was opened, all
    the rest is under ``__other__``, and totals have everything."""
    chance = random.Random(seed)
    ledger = CellLedger(chance.choice([150, 400, 1_000]))
    aggregate, now, partial = Aggregate(SETTINGS, T, cells=ledger), T, Counter[str]()
    events: dict[str, list[tuple[int, str, dict[str, float]]]] = {f"t{number}": [] for number in range(3)}
    for name in events:
        aggregate.open(name, T)
    for _ in range(40):
        now += chance.choice([0, 100, 5_000, 70_000])
        name = chance.choice(list(events))
        fields = chance.sample("xyz", chance.randint(0, 3))
        batch = [
            (f"k{chance.randrange(150)}", {field: chance.randrange(100) for field in fields})
            for _ in range(chance.randint(1, 80))
        ]
        put(aggregate, name, batch, now)
        events[name] += [(now, key, data) for key, data in batch]
        if chance.random() < 0.1:
            state = b"".join(aggregate.save())
            aggregate.release_cells()
            aggregate = Aggregate.restore(SETTINGS, state, cells=ledger)
        assert ledger.held <= ledger.limit + 3 * 8  # each topic always has its own totals and ``__other__``
        held = sum(int(np.count_nonzero(topic.table.table >= 0)) for topic in aggregate.topics.values())
        assert ledger.held == held == sum(topic.table.held for topic in aggregate.topics.values())
        aggregate.flush(now)
        taken = aggregate.snapshot(name, "1m")
        frame = orjson.loads(taken.to_json(now))
        start, end = taken.start or 0, taken.end or 0
        found, oracle = sums(frame), Counter[tuple[str | None, str | None]]()
        counts = Counter[tuple[str | None, str | None]]()
        for time, key, data in events[name]:
            if start <= time < end:
                for one in (key, None):
                    counts[one, None] += 1
                    for field, value in data.items():
                        oracle[one, field] += int(value)
                        counts[one, field] += 1
        complete = {row for row in found if row[0] not in (OTHER, *frame.get("partial", ()))}
        for row in complete:
            assert found[row][0] == counts[row]
            if row[1] is not None and counts[row]:
                assert found[row][1] == oracle[row]
        for field in {row[1] for row in found}:
            assert sum(count for (key, one), (count, _) in found.items() if key and one == field) == counts[None, field]
        partial.update(frame.get("partial", ()))


KEEPING = {
    "exact": TopicSettings(windows=(Window.parse("1m"),), exact=True, statistics=()),
    "last": TopicSettings(windows=(Window.parse("last 50000"),), statistics=()),
    "values": TopicSettings(windows=(Window.parse("1m"),), statistics=("distinct",), values=("v",), max_values=60_000),
}


def keep(aggregate: Aggregate, settings: TopicSettings, topic: str, first: int, number: int, at: int) -> None:
    counts = aggregate.topics.get(topic) or aggregate.open(topic, T)
    events = [Event(key="k", data={"v": f"value {n}", "x": 1.0}) for n in range(first, first + number)]
    columns = Columns.from_events(events, settings.key, settings.values)
    aggregate.apply(topic, counts.offset + number, at, columns)
    aggregate.advance(at + 1)


@pytest.mark.parametrize("kind", KEEPING)
def test_kept_events_and_values_count_as_cells(kind: str) -> None:
    """They were bounded for each engine alone: 64 partitions with several settings could keep 512 MB each."""
    ledger, settings = CellLedger(5_000), KEEPING[kind]
    aggregates = [Aggregate(settings, T, cells=ledger) for _ in range(4)]
    for step in range(20):
        for number, aggregate in enumerate(aggregates):
            keep(aggregate, settings, f"t{number}", 1_000 * step, 1_000, T + 1_100 * step)
    assert ledger.limited > 0
    assert ledger.kept > 0
    assert ledger.held >= ledger.kept // CELL_BYTES
    unswept = len(aggregates) * 1_000 * 400  # values that are forgotten with the next sweep
    assert ledger.kept <= 2 * ledger.limit * CELL_BYTES + unswept
    frame = orjson.loads(aggregates[-1].snapshot("t3", settings.windows[0].name).to_json(T + 30_000))
    rows = {(row[0], row[1]): dict(zip(frame["columns"], row, strict=True)) for row in frame["data"]}
    if kind == "values":
        assert rows[None, "v"]["approximate"] is True
        assert rows[None, None]["count"] == 20_000
    else:
        assert frame["truncated"] is True
        assert 1_000 <= rows[None, None]["count"] < 20_000
    for aggregate in aggregates:
        aggregate.release_cells()
    assert (ledger.held, ledger.kept, ledger.pledged) == (0, 0, 0)


def test_first_and_last_values_of_rows_are_bounded() -> None:
    """Each row kept its first value of every pane, and its last one, however many these were."""
    settings = TopicSettings(windows=(Window.parse("1m"),), statistics=("first", "last"), values=("v",))
    ledger, keys = CellLedger(2_000), 200
    aggregate = Aggregate(settings, T, cells=ledger)
    counts = aggregate.open("t", T)
    shown = []
    for second in range(60):
        events = [Event(key=f"k{key}", data={"v": f"value {second} of {key}"}) for key in range(keys)]
        columns = Columns.from_events(events, settings.key, settings.values)
        aggregate.apply("t", counts.offset + keys, T + 1_000 * second, columns)
        aggregate.advance(T + 1_000 * second + 1)
        frame = orjson.loads(aggregate.snapshot("t", "1m").to_json(T))
        rows = {(row[0], row[1]): dict(zip(frame["columns"], row, strict=True)) for row in frame["data"]}
        shown.append((rows["k7", "v"]["first"], rows["k7", "v"]["last"]))
    assert ledger.limited > 0
    unswept = 2_000 * 400  # values that are forgotten with the next sweep
    assert ledger.kept <= ledger.limit * CELL_BYTES + unswept
    assert shown[0] == ("value 0 of 7", "value 0 of 7")
    assert shown[-1] == ("value 0 of 7", None), "a value that is not kept is unknown; the others stay"
    for second, (first, last) in enumerate(shown):
        assert first == "value 0 of 7"
        assert last in (f"value {second} of 7", None)


def test_a_part_of_a_ledger_is_bounded_and_counts_in_the_whole() -> None:
    whole = CellLedger(10_000)
    parts = [CellLedger(4_000, whole) for _ in range(4)]
    aggregates = [Aggregate(SETTINGS, T, cells=part) for part in parts]
    for number, aggregate in enumerate(aggregates):
        put(aggregate, f"t{number}", [(f"k{key}", {"x": 1}) for key in range(20_000)])
    assert all(0 < part.held <= part.limit for part in parts)
    assert parts[0].held > 3_000
    assert whole.held == sum(part.held for part in parts) <= whole.limit
    assert parts[3].held < parts[0].held, "the whole has less room than the part"
    aggregates[0].release_cells()
    assert parts[0].held == 0
    assert whole.held == sum(part.held for part in parts)
