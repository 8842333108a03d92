"""Frames against an independent account of the events; nothing of pushsvc.stats is used to compute what is expected."""

import copy
import dataclasses
import json
from math import sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushsvc.aggregate import Aggregate, Topic
from pushsvc.event import Event
from pushsvc.event.columns import Column, Columns
from pushsvc.settings import TopicSettings
from pushsvc.stats.freeze import NotFrozen
from pushsvc.stats.window import Window

T = 1_700_000_000_000
SHORT = TopicSettings(windows=(Window.parse("10s"), Window.parse("1m")))
NOW = dataclasses.replace(SHORT, cadence=0, idle_cadence=0)
EVENT_CLOCK = dataclasses.replace(NOW, clock="event")


class One:
    """An aggregate with one topic."""

    def __init__(self, options, since):
        self.all = Aggregate(options, since)
        self.topic = self.all.open("t", since)

    def apply(self, offset, arrival, events):
        self.all.apply("t", offset, arrival, Columns.of(events, self.all._settings.key))

    def snapshot(self, window):
        return self.all.snapshot("t", window)

    def watch(self, window, watched):
        self.all.watch("t", window, watched)

    def __getattr__(self, name):
        return getattr(self.topic if name in Topic.__slots__ else self.all, name)

    def __deepcopy__(self, memo):
        same = object.__new__(One)
        same.all = copy.deepcopy(self.all, memo)
        same.topic = same.all.topics["t"]
        return same


def topic(options=NOW, since=T):
    return One(options, since)


def event(time=None, key="a", **data):
    return Event(time=time, key=key, data=data)


class Producer:
    """Applies events one entry at a time and remembers them with their times, in the order of the log."""

    def __init__(self, aggregate):
        self.aggregate = aggregate
        self.log = []

    def send(self, arrival, *events):
        self.log += [(e.time if e.time is not None else arrival, e.key, e.data) for e in events]
        self.aggregate.apply(len(self.log), arrival, events)


class Reader:
    """Keeps rows by (key, field) as a page does."""

    def __init__(self):
        self.windows = {}

    def take(self, frames):
        for frame in frames:
            said = json.loads(frame.to_json(T))
            rows = self.windows.setdefault(said["window"], {})
            if frame.kind == "snapshot":
                rows.clear()
            rows.update({(row[0], row[1]): row[2:] for row in said["data"]})
            for key, field in said["gone"]:
                del rows[key, field]

    def rows(self, window):
        """Return what is not zero, and totals."""
        return {name: row for name, row in self.windows.get(window, {}).items() if row[0] or name[0] is None}


def rows_of(frame):
    return {(row[0], row[1]): list(row[2:]) for row in frame.rows}


def state(aggregate, window):
    """Return the rows that a snapshot would say, without taking one."""
    return rows_of(copy.deepcopy(aggregate).snapshot(window))


def expected(log, frame, seconds):
    """Compute the rows of a frame's interval from the log; std and mean are exact, rounded once."""
    groups = {(None, None): []}
    for time, key, data in log[: frame.offset]:
        inside = frame.start <= time < frame.end
        numbers = {name: v for name, v in data.items() if isinstance(v, int | float) and not isinstance(v, bool)}
        for owner in {key, None}:
            for field, value in [(None, None), *numbers.items()]:
                group = groups.setdefault((owner, field), [])
                group += [value] * inside
    return {name: figures(name[1], values, seconds) for name, values in groups.items() if values or name[0] is None}


def figures(field, values, seconds):
    """Values are multiples of 1/64, so everything is computed in integers; a quotient of integers is rounded once."""
    n, rate = len(values), len(values) / seconds
    if field is None:
        return [n, rate, *[None] * 8]
    if not n:
        return [0, 0.0, 0.0, *[None] * 7]
    whole = [int(value * 64) for value in values]
    total, squares = sum(whole), sum(k * k for k in whole)
    std = sqrt((n * squares - total * total) / (n * (n - 1))) / 64 if n > 1 else None
    ordered = sorted(values)
    ranked = [float(ordered[-(-percent * n // 100) - 1]) for percent in (50, 95, 99)]
    return [n, rate, total / 64, total / (64 * n), float(min(values)), float(max(values)), std, *ranked]


def assert_same(rows, wanted, exact=16):
    """Everything is bit-equal but std, good to 1e-14, and quantiles of more than ``exact`` values, good to 1/128."""
    assert rows.keys() == wanted.keys()
    for name, row in rows.items():
        want = wanted[name]
        assert row[:6] == want[:6], name
        assert row[6] == (None if want[6] is None else pytest.approx(want[6], rel=1e-14, abs=0)), name
        few = row[0] <= exact or name[1] is None
        assert row[7:] == (want[7:] if few else [pytest.approx(value, rel=1 / 128, abs=0) for value in want[7:]]), name


# -- the contract


def test_a_frame_as_json():
    aggregate = topic(TopicSettings())
    aggregate.apply(7, T + 5, [event(x=1.5), event(key=None, x=2.5, label="no number", flag=True)])
    update = json.loads(aggregate.due(T + 6)[0].to_json(T + 9))
    count, rate = 2, 2 / 60
    assert update == {
        "topic": "t",
        "window": "1m",
        "from": "2023-11-14T22:12:21.000Z",
        "to": "2023-11-14T22:13:21.000Z",
        "offset": 7,
        "since": "2023-11-14T22:13:20.000Z",
        "at": T + 9,
        "cadence_ms": 1_000,
        "columns": ["key", "field", "count", "rate", "sum", "mean", "min", "max", "std", "p50", "p95", "p99"],
        "data": [
            [None, None, count, rate, *[None] * 8],
            [None, "x", count, rate, 4.0, 2.0, 1.5, 2.5, sqrt(0.5), 1.5, 2.5, 2.5],
            ["a", None, 1, 1 / 60, *[None] * 8],
            ["a", "x", 1, 1 / 60, 1.5, 1.5, 1.5, 1.5, None, 1.5, 1.5, 1.5],
        ],
        "gone": [],
    }
    assert list(update["columns"]) == list(SHORT.columns)


def test_a_topic_without_events_has_no_rows_and_asks_for_nothing():
    aggregate = topic()
    aggregate.advance(T + 100_000)
    assert aggregate.snapshot("10s").rows == []
    assert aggregate.due(T + 100_000) == []
    assert aggregate.wake_at() is None


def test_a_quiet_topic_decays_to_zero_and_its_keys_go_all_by_themselves():
    aggregate, reader, said = topic(), Reader(), []
    aggregate.apply(1, T + 100, [event(x=1), event(T - 3_000, x=3)])
    now = T + 100
    while now is not None:
        aggregate.advance(now)
        frames = aggregate.due(now)
        reader.take(frames)
        said += [(now - T, f.window, len(f.rows), f.gone) for f in frames]
        now = aggregate.wake_at()
    gone = [("a", None), ("a", "x")]
    assert said == [
        (100, "10s", 4, []),
        (100, "1m", 4, []),
        (7_000, "10s", 4, []),
        (10_000, "10s", 4, []),
        (10_000, "10s", 0, gone),
        (57_000, "1m", 4, []),
        (60_000, "1m", 4, []),
        (60_000, "1m", 0, gone),
    ]
    assert reader.rows("10s") == {(None, None): [0, 0.0, *[None] * 8], (None, "x"): [0, 0.0, 0.0, *[None] * 7]}
    assert rows_of(aggregate.snapshot("1m")) == reader.rows("1m")


def test_a_row_of_zero_may_revive_before_and_after_it_is_gone():
    aggregate, reader = topic(), Reader()
    aggregate.apply(1, T, [event(x=1)])
    reader.take(aggregate.flush(T))
    aggregate.advance(T + 20_000)
    reader.take(aggregate.flush(T + 20_000))
    assert reader.windows["10s"]["a", "x"] == [0, 0.0, 0.0, *[None] * 7]
    aggregate.apply(2, T + 20_000, [event(x=2)])
    (frame, _) = aggregate.flush(T + 20_000)
    assert (rows_of(frame)["a", "x"][0], frame.gone) == (1, [])
    aggregate.advance(T + 40_000)
    aggregate.flush(T + 40_000)
    assert aggregate.flush(T + 40_000)[0].gone == [("a", None), ("a", "x")]
    aggregate.apply(3, T + 40_000, [event(x=3)])
    assert rows_of(aggregate.flush(T + 40_000)[0])["a", "x"][2] == 3


def test_a_row_that_came_and_went_between_two_frames_is_not_mentioned():
    aggregate = topic()
    aggregate.apply(1, T, [event(key="b")])
    aggregate.flush(T)
    aggregate.apply(2, T, [event(x=1)])
    aggregate.advance(T + 20_000)
    frame = aggregate.flush(T + 20_000)[0]
    assert rows_of(frame).keys() == {(None, None), ("b", None), (None, "x")}


def test_a_late_event_is_merged_where_its_pane_still_is():
    aggregate = topic()
    aggregate.apply(1, T, [event(x=1)])
    aggregate.flush(T)
    aggregate.apply(2, T + 1, [event(T - 9_000, x=5)])
    assert [rows_of(frame)["a", "x"][2] for frame in aggregate.flush(T)] == [6, 6]
    aggregate.apply(3, T + 1, [event(T - 10_000, x=7), event(T - 59_000, x=7), event(T - 60_000, x=9)])
    assert [(f.window, rows_of(f)["a", "x"][2]) for f in aggregate.flush(T)] == [("1m", 20)]
    assert (aggregate.late, aggregate.late_by_window) == (1, {"10s": 3, "1m": 1})


def test_an_event_ahead_enters_with_its_pane():
    aggregate = topic()
    aggregate.apply(1, T, [event(T + 4_999, x=1)])
    assert [rows_of(frame) for frame in aggregate.flush(T)] == [
        {(None, None): [0, 0.0, *[None] * 8], (None, "x"): [0, 0.0, 0.0, *[None] * 7]}
    ] * 2
    assert aggregate.wake_at() == T + 4_000
    aggregate.advance(T + 4_000)
    assert [f.window for f in aggregate.flush(T + 4_000)] == ["1m"]
    assert aggregate.wake_at() == T + 4_750
    aggregate.advance(T + 4_750)
    assert rows_of(aggregate.flush(T + 4_750)[0])["a", "x"][:3] == [1, 0.1, 1]


def test_what_is_further_ahead_than_the_ring_is_counted_and_left_out():
    aggregate = topic()
    aggregate.apply(2, T, [event(T + 10_000), event(T + 10_001), event(T + 10**12)])
    assert aggregate.ahead == 2
    aggregate.advance(T + 10_000)
    assert rows_of(aggregate.snapshot("10s"))["a", None][0] == 1


def test_a_long_silence_empties_everything_at_once():
    aggregate = topic()
    aggregate.apply(2, T, [event(x=1), event(T + 5_000, x=2)])
    aggregate.flush(T)
    aggregate.apply(3, T + 10**10, [event(x=3)])
    assert all(rows_of(f)["a", "x"][:3:2] == [1, 3] for f in aggregate.flush(T + 10**10))


def test_the_head_never_goes_back():
    aggregate = topic()
    aggregate.apply(1, T + 5_000, [event()])
    aggregate.advance(T)
    aggregate.apply(2, T, [event()])
    assert aggregate.snapshot("10s").end == T + 5_250


# -- cadence


def test_the_first_change_goes_at_once_then_one_per_cadence_and_the_last_state_always():
    aggregate = topic(SHORT)
    aggregate.watch("10s", True)
    aggregate.apply(1, T, [event()])
    assert [f.window for f in aggregate.due(T)] == ["10s", "1m"]
    aggregate.apply(2, T + 1, [event()])
    assert aggregate.due(T + 1) == []
    assert aggregate.wake_at() == T + 100
    assert aggregate.due(T + 99) == []
    (frame,) = aggregate.due(T + 100)
    assert (frame.window, frame.offset, frame.cadence) == ("10s", 2, 100)
    assert aggregate.wake_at() == T + 1_000
    (frame,) = aggregate.due(T + 1_000)
    assert (frame.window, frame.offset, frame.cadence) == ("1m", 2, 1_000)
    aggregate.watch("1m", True)
    aggregate.apply(3, T + 1_200, [event()])
    assert [f.window for f in aggregate.due(T + 1_200)] == ["10s", "1m"]


def test_cadence_zero_is_every_time():
    aggregate = topic()
    for offset in range(5):
        aggregate.apply(offset, T, [event()])
        assert len(aggregate.due(T)) == 2
        assert aggregate.due(T) == []


def test_large_updates_stretch_the_cadence_to_two_megabytes_a_second():
    aggregate = topic()
    aggregate.apply(1, T, [event(key=f"key-{n}", x=n / 3) for n in range(200)])
    frame = aggregate.due(T)[0]
    assert frame.cadence == int(frame.size / 1_000) > 10
    aggregate.apply(2, T + 1, [event()])
    assert aggregate.due(T + frame.cadence - 1) == []
    assert aggregate.due(T + frame.cadence)[0].cadence == 0


def test_flush_does_not_wait_and_a_snapshot_takes_the_changes():
    aggregate = topic(SHORT)
    aggregate.apply(1, T, [event()])
    aggregate.due(T)
    aggregate.apply(2, T, [event()])
    assert rows_of(aggregate.snapshot("10s"))["a", None][0] == 2
    assert [f.window for f in aggregate.flush(T)] == ["1m"]


# -- the event clock


def test_only_event_times_move_the_event_clock():
    aggregate = topic(EVENT_CLOCK)
    aggregate.apply(2, T, [event(1_000_000, x=1), event(1_009_000, x=2)])
    aggregate.advance(T + 10**9)
    assert [(f.window, f.end, rows_of(f)["a", "x"][0]) for f in aggregate.flush(T)] == [
        ("10s", 1_009_250, 2),
        ("1m", 1_010_000, 2),
    ]
    assert aggregate.wake_at() is None
    aggregate.apply(3, T, [event(1_030_000, x=3)])
    assert [rows_of(f)["a", "x"][0] for f in aggregate.flush(T)] == [1, 3]


def test_late_on_the_event_clock_is_who_comes_behind_a_newer_one():
    events = [event(0, w=1), event(30_000, x=1), event(15_000, y=1), event(90_000), event(31_000)]
    whole, single = topic(EVENT_CLOCK), topic(EVENT_CLOCK)
    whole.apply(5, T, events)
    for offset, one in enumerate(events, 1):
        single.apply(offset, T, [one])
    assert (whole.late, whole.late_by_window) == (single.late, single.late_by_window) == (0, {"10s": 2, "1m": 0})
    assert rows_of(whole.snapshot("1m")) == rows_of(single.snapshot("1m"))


# -- groupings

FLIGHTS = dataclasses.replace(NOW, key=("carrier", "origin", "carrier+origin"))


def grouped(frame):
    return {(row[0], row[1], row[-1]): row[2] for row in frame.rows}


def test_several_groupings_count_apart_and_together_once():
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


def test_keys_of_groupings_are_zero_and_gone_with_what_they_are_by():
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


def test_each_grouping_has_an_other_of_its_own():
    aggregate = topic(dataclasses.replace(FLIGHTS, max_keys=4))
    aggregate.apply(3, T, [Event(data={"carrier": c, "origin": "o"}) for c in ("a", "b", "__other__")])
    assert grouped(aggregate.snapshot("1m")) == {
        (None, None, None): 3, ("a", None, "carrier"): 1, ("b", None, "carrier"): 1, ("__other__", None, "carrier"): 1,
        ("o", None, "origin"): 3, ("a+o", None, "carrier+origin"): 1, ("__other__", None, "carrier+origin"): 2,
    }  # fmt: skip


# -- caps


def test_keys_beyond_the_cap_are_folded_and_places_are_used_again():
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


def test_a_key_that_got_its_place_while_folded_events_of_it_may_count_is_partial():
    aggregate = topic(dataclasses.replace(NOW, max_keys=1))
    aggregate.apply(3, T, [event(key=key, x=1) for key in "abb"])
    assert "partial" not in json.loads(aggregate.snapshot("1m").body)
    aggregate.advance(T + 11_000)
    aggregate.apply(4, T + 30_000, [event(key="b", x=1)])
    aggregate.all._rolling.rows.topics[0]._max_keys = 2
    aggregate.apply(5, T + 31_000, [event(key="b", x=1)])
    said = {frame.window: json.loads(frame.body) for frame in aggregate.flush(T + 31_000)}
    assert [row[:3] for row in said["1m"]["data"] if row[0] == "b"] == [["b", None, 1], ["b", "x", 1]]
    assert said["1m"]["partial"] == said["10s"]["partial"] == ["b"]
    aggregate.apply(6, T + 41_000, [event(key="b", x=1)])
    assert ["partial" in json.loads(frame.body) for frame in aggregate.flush(T + 41_000)] == [False, True]
    aggregate.apply(7, T + 91_000, [event(key="b", x=1)])
    assert "partial" not in json.loads(aggregate.snapshot("1m").body)


def hundred_keys(second):
    return Columns([[f"k{second}-{n}" for n in range(100)]], None, {"x": Column(None, np.ones(100))})


def test_beyond_the_memory_of_an_engine_new_keys_are_folded_and_totals_stay_exact():
    aggregate = topic()
    aggregate.all._most_bytes = 500_000
    for second in range(18):
        aggregate.all.apply("t", second, T + second * 1_000, hundred_keys(second))
    rows = rows_of(aggregate.snapshot("1m"))
    assert 0 < aggregate.folded < 1_800
    assert rows[None, "x"][:3] == [1_800, 30.0, 1_800.0]
    assert (
        rows["__other__", "x"][0]
        == aggregate.folded
        == 1_800 - sum(row[0] for (key, field), row in rows.items() if field and key not in (None, "__other__"))
    )


def test_keys_of_events_that_are_too_late_take_no_place():
    aggregate = topic(dataclasses.replace(NOW, max_keys=3))
    aggregate.apply(5, T, [event(T - 90_000, key=f"late-{n}", x=1) for n in range(5)])
    aggregate.apply(6, T, [event(key="now", x=1)])
    assert (aggregate.late, aggregate.folded) == (5, 0)
    assert {name[0] for name in rows_of(aggregate.snapshot("1m"))} == {None, "now"}


def test_a_topic_that_is_closed_takes_its_late_events_along_and_no_others():
    aggregate = topic()
    aggregate.all.open("other", T)
    for second in range(0, 60, 6):
        now = T + second * 1_000
        for name, ahead in (("t", -25_000), ("other", 0)):
            late = Columns.of([event(now + ahead, x=1.0)])
            aggregate.all.apply(name, second + 1, now, late)
    aggregate.flush(now)
    aggregate.all.close("t")
    assert rows_of(aggregate.all.snapshot("other", "1m"))["a", "x"][:3] == [10, 10 / 60, 10.0]
    assert [frame.topic for frame in aggregate.flush(T + 60_000)] == []


def test_the_least_time_that_is_taken_can_be_written():
    aggregate = topic(dataclasses.replace(EVENT_CLOCK, windows=(Window.parse("24h"),)))
    aggregate.apply(1, T, [event(-62_135_596_800_000 + 86_400_000, x=1)])
    assert b'"from":"0001-01-01T00:' in aggregate.snapshot("24h").to_json(T)


def test_a_replay_without_frames_frees_keys_as_well():
    aggregate = topic(dataclasses.replace(NOW, max_keys=5))
    for second in range(0, 1_800, 120):
        aggregate.apply(second, T + second * 1_000, [event(key=f"key-{second}", x=1)])
    assert aggregate.folded == 0


def test_fields_beyond_the_cap_are_ignored_and_counted():
    aggregate = topic(dataclasses.replace(NOW, max_fields=2))
    aggregate.apply(2, T, [event(x=1, y=2, z=3), event(x=1, z=3)])
    assert rows_of(aggregate.snapshot("1m")).keys() == {(k, f) for k in (None, "a") for f in (None, "x", "y")}
    assert aggregate.ignored == 2


# -- numbers


def test_what_leaves_the_range_of_doubles_is_null_until_it_has_left_the_window():
    aggregate = topic()
    aggregate.apply(2, T, [event(x=1.7e308), event(x=1.7e308)])
    assert rows_of(aggregate.snapshot("10s"))["a", "x"][2:7] == [None, None, 1.7e308, 1.7e308, None]
    aggregate.apply(4, T + 30_000, [event(x=2**63), event(x=1)])
    assert rows_of(aggregate.snapshot("10s"))["a", "x"][2:5] == [2.0**63, 2.0**62, 1.0]


def test_after_a_jump_has_left_the_window_std_is_that_of_what_is_in_it():
    producer = Producer(topic())
    for step in range(30):
        level = 1e9 if 10 <= step < 20 else 0.0
        spike = 1e15 if step == 15 else 0.0
        producer.send(T + step * 2_000, event(x=level + spike + (step * 37 % 64) / 64))
        if step % 5 == 4:
            frame = producer.aggregate.snapshot("10s")
            assert_same(rows_of(frame), expected(producer.log, frame, 10))


# -- state


def frames_of(aggregate, now):
    return [frame.to_json(now) for frame in aggregate.due(now) + aggregate.flush(now)]


def thawed(aggregate):
    same = object.__new__(One)
    same.all = Aggregate.restore(NOW if aggregate.all._wall else EVENT_CLOCK, b"".join(aggregate.all.save()))
    same.topic = same.all.topics["t"]
    return same


def test_a_state_of_other_settings_or_versions_is_refused():
    data = b"".join(topic(NOW).all.save())
    for settings, state in ((SHORT, data), (NOW, data[:-1]), (NOW, b""), (NOW, b"\x93\x01\x02\x03"), (NOW, data[1:])):
        with pytest.raises(NotFrozen):
            Aggregate.restore(settings, state)


# -- any series of events

keys = st.sampled_from(["a", "b", "c", None])
eighths = st.integers(-(2**30), 2**30).map(lambda k: k / 8)
data = st.dictionaries(st.sampled_from(["x", "y"]), eighths, max_size=2)
shifts = st.one_of(st.none(), st.integers(-3_000, 5_000), st.integers(-70_000, 5_000))
batches = st.lists(st.tuples(shifts, keys, data), min_size=1, max_size=12)
gaps = st.sampled_from([0, 1, 250, 999, 4_000, 11_000, 61_000])
steps = st.lists(st.tuples(gaps, st.one_of(st.just([]), batches), st.booleans()), min_size=1, max_size=12)


def play(aggregate, series, wall=True):
    """Apply a series of (gap, batch, watched); yield the producer, the time, and whether somebody looks, after each."""
    producer, now = Producer(aggregate), T + 17
    for gap, batch, look in series:
        now += gap
        if batch:
            producer.send(now, *[Event(time=None if d is None else now + d, key=k, data=v) for d, k, v in batch])
        elif wall:
            aggregate.advance(now)
        yield producer, now, look


@given(steps, st.sampled_from([NOW, EVENT_CLOCK]))
def test_every_frame_is_exact_for_its_own_offset_and_interval(series, options):
    for producer, now, look in play(topic(options), series):
        if not look:
            continue
        producer.aggregate.flush(now)
        for window in options.windows:
            frame = producer.aggregate.snapshot(window.name)
            assert frame.end - frame.start == window.length
            assert frame.offset == len(producer.log)
            if producer.log:
                assert_same(rows_of(frame), expected(producer.log, frame, window.length / 1_000))


@given(steps, st.sampled_from([SHORT, NOW, EVENT_CLOCK]))
def test_a_reader_of_updates_has_what_a_snapshot_says(series, options):
    reader, aggregate = Reader(), topic(options)
    for _, now, look in play(aggregate, series):
        if look:
            reader.take(aggregate.due(now))
            reader.take(aggregate.flush(now))
            for window in options.windows:
                assert reader.rows(window.name) == state(aggregate, window.name)


@given(steps, st.data(), st.sampled_from([NOW, EVENT_CLOCK]))
def test_an_entry_counts_the_same_in_any_split(series, draws, options):
    whole, split = topic(options), topic(options)
    for producer, now, look in play(whole, series):
        split.advance(now)
        missing = [Event(time=time, key=key, data=numbers) for time, key, numbers in producer.log[split.offset :]]
        while missing:
            size = draws.draw(st.integers(1, len(missing)))
            split.apply(split.offset + size, now, missing[:size])
            missing = missing[size:]
            if draws.draw(st.booleans()):
                split.flush(now)
        if look:
            whole.flush(now)
    assert (split.offset, split.late_by_window, split.late) == (whole.offset, whole.late_by_window, whole.late)
    for window in options.windows:
        a, b = whole.snapshot(window.name), split.snapshot(window.name)
        assert (a.start, a.end) == (b.start, b.end)
        assert_same(rows_of(a), rows_of(b), exact=10**9)


@given(steps, st.integers(0, 11), st.sampled_from([NOW, EVENT_CLOCK]))
def test_a_restored_aggregate_says_the_same_bytes(series, stop, options):
    stayed = topic(options)
    restored = None
    for number, (producer, now, _) in enumerate(play(stayed, series)):
        if restored is not None:
            missing = [Event(time=time, key=key, data=data) for time, key, data in producer.log[restored.offset :]]
            if missing:
                restored.apply(len(producer.log), now, missing)
            else:
                restored.advance(now)
            assert frames_of(restored, now) == frames_of(stayed, now)
            assert restored.wake_at() == stayed.wake_at()
        else:
            frames_of(stayed, now)
        if number == stop:
            restored = thawed(stayed)
    assert thawed(stayed).all.save() == stayed.all.save()
    for window in options.windows:
        assert thawed(stayed).snapshot(window.name) == stayed.snapshot(window.name)
