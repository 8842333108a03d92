"""The keys and fields that events count under: groupings, limits, and events beyond them."""

import dataclasses
import json

import numpy as np

from pushsvc.event import Event
from pushsvc.event.columns import Columns, NumberColumn
from support.reference.numbers import NOW, SHORT, T, event, rows_of, topic

# -- groupings

FLIGHTS = dataclasses.replace(NOW, key=("carrier", "origin", "carrier+origin"))


def grouped(frame):
    return {(row[0], row[1], row[-1]): row[2] for row in frame.rows}


def test_each_grouping_has_its_keys_and_the_totals_count_once():
    aggregate = topic(FLIGHTS)
    flights = [("UA", "EWR", 5), ("UA", "JFK", 7), ("AA", "JFK", 1), (None, "JFK", 3), ("JFK", None, 4)]
    events = [Event(data={"carrier": c, "origin": o, "delay": d}) for c, o, d in flights]
    aggregate.apply(5, T, events)
    frame = json.loads(aggregate.snapshot("1m").to_json(T))
    assert frame["columns"] == [*SHORT.columns, "by"]
    counts = {(row[0], row[-1]): row[2] for row in frame["data"] if row[1] == "delay"}
    assert counts == {
        (None, None): 5,
        ("UA", "carrier"): 2, ("AA", "carrier"): 1, ("JFK", "carrier"): 1,
        ("EWR", "origin"): 1, ("JFK", "origin"): 3,
        ("UA+EWR", "carrier+origin"): 1, ("UA+JFK", "carrier+origin"): 1, ("AA+JFK", "carrier+origin"): 1,
    }  # fmt: skip
    sums = {(row[0], row[-1]): row[4] for row in frame["data"] if row[1] == "delay"}
    assert (sums[None, None], sums["JFK", "origin"]) == (20.0, 11.0)


def test_zero_and_gone_rows_have_their_grouping():
    aggregate = topic(FLIGHTS)
    aggregate.apply(1, T, [Event(data={"carrier": "UA", "origin": "EWR"})])
    aggregate.flush(T)
    aggregate.advance(T + 15_000)
    first, second = aggregate.flush(T + 15_000), aggregate.flush(T + 15_000)
    assert grouped(first[0]) == {
        (None, None, None): 0, ("UA", None, "carrier"): 0, ("EWR", None, "origin"): 0,
        ("UA+EWR", None, "carrier+origin"): 0,
    }  # fmt: skip
    assert sorted(second[0].gone) == [
        ("EWR", None, "origin"), ("UA", None, "carrier"), ("UA+EWR", None, "carrier+origin")
    ]  # fmt: skip


def test_each_grouping_has_its_own_other():
    aggregate = topic(dataclasses.replace(FLIGHTS, max_keys=4))
    aggregate.apply(3, T, [Event(data={"carrier": c, "origin": "o"}) for c in ("a", "b", "__other__")])
    assert grouped(aggregate.snapshot("1m")) == {
        (None, None, None): 3, ("a", None, "carrier"): 1, ("b", None, "carrier"): 1, ("__other__", None, "carrier"): 1,
        ("o", None, "origin"): 3, ("a+o", None, "carrier+origin"): 1, ("__other__", None, "carrier+origin"): 2,
    }  # fmt: skip


# -- limits


def test_keys_beyond_the_limit_are_folded_and_free_places_are_reused():
    aggregate = topic(dataclasses.replace(NOW, max_keys=2))
    aggregate.apply(5, T, [event(key=key, x=1) for key in "abcda"])
    counts = {name[0]: row[0] for name, row in rows_of(aggregate.snapshot("1m")).items() if name[1] is None}
    assert counts == {None: 5, "a": 2, "b": 1, "__other__": 2}
    assert aggregate.folded == 2
    aggregate.advance(T + 90_000)
    for _ in range(3):
        aggregate.flush(T + 90_000)
    aggregate.apply(7, T + 90_000, [event(key="e", x=1), event(key="f", x=1)])
    assert {name[0] for name in rows_of(aggregate.snapshot("1m"))} == {None, "e", "f"}
    assert aggregate.folded == 2


def test_a_key_is_partial_while_folded_events_of_it_may_be_in_the_window():
    aggregate = topic(dataclasses.replace(NOW, max_keys=1))
    aggregate.apply(3, T, [event(key=key, x=1) for key in "abb"])
    assert "partial" not in json.loads(aggregate.snapshot("1m").body)
    aggregate.advance(T + 11_000)
    aggregate.apply(4, T + 55_000, [event(key="b", x=1)])
    aggregate.advance(T + 61_000)
    for _ in range(3):  # its readers learn that the other key has left all windows
        aggregate.flush(T + 61_000)
    aggregate.apply(5, T + 61_000, [event(key="b", x=1)])
    found = {frame.window: json.loads(frame.body) for frame in aggregate.flush(T + 61_000)}
    assert {row[1]: row[2] for row in found["1m"]["data"] if row[0] == "b"} == {None: 1, "x": 1}
    assert found["1m"]["partial"] == found["10s"]["partial"] == ["b"]
    aggregate.apply(6, T + 71_000, [event(key="b", x=1)])
    assert ["partial" in json.loads(frame.body) for frame in aggregate.flush(T + 71_000)] == [False, True]
    aggregate.apply(7, T + 121_000, [event(key="b", x=1)])
    assert "partial" not in json.loads(aggregate.snapshot("1m").body)


def thirty_keys(second):
    return Columns([[f"k{second}-{n}" for n in range(30)]], None, {"x": NumberColumn(None, np.ones(30))})


def test_beyond_the_memory_of_an_engine_new_keys_are_folded_and_totals_stay_exact():
    aggregate = topic(most_bytes=200_000)
    for second in range(9):
        aggregate.all.apply("t", second, T + second * 1_000, thirty_keys(second))
    rows = rows_of(aggregate.snapshot("1m"))
    assert 0 < aggregate.folded < 270
    assert rows[None, "x"][:3] == [270, 4.5, 270.0]
    assert (
        rows["__other__", "x"][0]
        == aggregate.folded
        == 270 - sum(row[0] for (key, field), row in rows.items() if field and key not in (None, "__other__"))
    )


def test_keys_of_late_events_take_no_place():
    aggregate = topic(dataclasses.replace(NOW, max_keys=3))
    aggregate.apply(5, T, [event(T - 90_000, key=f"late-{n}", x=1) for n in range(5)])
    aggregate.apply(6, T, [event(key="now", x=1)])
    assert (aggregate.late, aggregate.folded) == (5, 0)
    assert {name[0] for name in rows_of(aggregate.snapshot("1m"))} == {None, "now"}


def test_a_replay_without_frames_frees_keys():
    aggregate = topic(dataclasses.replace(NOW, max_keys=5))
    for second in range(0, 960, 120):
        aggregate.apply(second, T + second * 1_000, [event(key=f"key-{second}", x=1)])
    assert aggregate.folded == 0


def test_numbers_of_fields_beyond_the_limit_are_counted_as_ignored():
    aggregate = topic(dataclasses.replace(NOW, max_fields=2))
    aggregate.apply(2, T, [event(x=1, y=2, z=3), event(x=1, z=3)])
    assert rows_of(aggregate.snapshot("1m")).keys() == {(k, f) for k in (None, "a") for f in (None, "x", "y")}
    assert aggregate.ignored == 2
