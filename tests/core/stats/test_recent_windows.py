"""Windows of the last N events and exact windows, rule by rule."""

import dataclasses
import json

import pytest

from pushsvc.event.columns import Columns
from support.reference.numbers import T, event, rows_of, state, topic
from support.reference.recent import ALL, BOTH, EXACT, FEW, LAST_3


def two(options):
    """Keep one window of each kind."""
    return dataclasses.replace(options, windows=options.windows[:2])


# -- exact windows


def counts_over_time(aggregate, now):
    """Advance the clock from wake-up to wake-up; return (ms after T, count of all events) of each frame of 10s."""
    found = []
    while now is not None:
        aggregate.advance(now)
        for frame in aggregate.due(now):
            if frame.window == "10s":
                found.append((now - T, rows_of(frame)[None, None][0] if frame.rows else "gone"))
        now = aggregate.wake_at()
    return found


def test_exact_window_moves_by_the_millisecond_without_events():
    aggregate = topic(EXACT)
    aggregate.apply(3, T, [event(x=1), event(T - 9_999, x=2), event(T - 10_000, x=4)])
    frame = aggregate.snapshot("10s")
    assert (frame.start, frame.end, frame.truncated) == (T - 9_999, T + 1, False)
    assert rows_of(frame)["a", "x"][:3] == [2, 0.2, 3.0]
    aggregate.flush(T)
    assert aggregate.wake_at() == T + 1
    assert counts_over_time(aggregate, T) == [(1, 1), (10_000, 0), (10_000, "gone")]
    assert state(aggregate, "10s") == {(None, None): [0, 0.0, *[None] * 8], (None, "x"): [0, 0.0, 0.0, *[None] * 7]}


def test_early_event_enters_an_exact_window_at_its_time():
    aggregate = topic(EXACT)
    aggregate.apply(2, T, [event(T + 4_321, x=1), event(T + 10_001, x=1)])
    aggregate.flush(T)
    assert aggregate.ahead == 1
    assert aggregate.wake_at() == T + 4_321
    assert counts_over_time(aggregate, T)[:1] == [(4_321, 1)]


def test_late_event_enters_the_exact_windows_that_contain_its_time():
    aggregate = topic(EXACT)
    aggregate.apply(1, T, [event(x=1)])
    aggregate.flush(T)
    aggregate.apply(4, T + 1, [event(T - 9_999, x=5), event(T - 9_998, x=7), event(T - 59_999, x=9)])
    assert [(f.window, rows_of(f)["a", "x"][2]) for f in aggregate.flush(T + 1)] == [("10s", 8.0), ("1m", 13.0)]
    assert (aggregate.late, aggregate.late_by_window) == (1, {"10s": 2, "1m": 1})


def test_cadence_limits_the_updates_of_an_exact_window():
    aggregate = topic(dataclasses.replace(EXACT, idle_cadence=500))
    aggregate.apply(100, T, [event(T - 9_000 + n, x=n) for n in range(100)])
    assert len(aggregate.due(T)) == 2
    aggregate.advance(T + 1_001)
    assert [frame.end for frame in aggregate.due(T + 1_001)] == [T + 1_002]
    assert aggregate.wake_at() == T + 1_501


def test_frame_beyond_the_event_limit_is_truncated():
    aggregate = topic(FEW)
    aggregate.apply(4, T, [event(T - 3_000 + n * 1_000, x=n) for n in range(4)])
    frame = aggregate.snapshot("10s")
    assert (frame.start, frame.truncated) == (T - 9_999, False)
    assert b"truncated" not in frame.to_json(T)
    aggregate.apply(5, T, [event(x=9)])
    (frame, _) = aggregate.flush(T)
    body = json.loads(frame.to_json(T))
    assert (frame.start, body["truncated"]) == (T - 2_999, True)
    assert rows_of(frame)["a", "x"][:3] == [4, 0.4, 15.0]
    aggregate.apply(6, T, [event(T - 3_000, x=100)])
    assert rows_of(aggregate.snapshot("10s"))["a", "x"][0] == 4
    aggregate.advance(T + 7_000)
    frame = aggregate.snapshot("10s")
    assert (frame.start, frame.truncated) == (T - 2_999, False)


def test_events_of_one_millisecond_are_evicted_together():
    aggregate = topic(FEW)
    aggregate.apply(6, T, [event(T - 1, x=1), event(x=1), event(x=1), event(x=1), event(x=1), event(x=1)])
    frame = aggregate.snapshot("1m")
    assert (frame.start, frame.end, frame.truncated) == (T + 1, T + 1, True)
    assert rows_of(frame) == {(None, None): [0, 0.0, *[None] * 8], (None, "x"): [0, 0.0, 0.0, *[None] * 7]}


def test_exact_windows_keep_no_more_events_beyond_the_memory_limit():
    aggregate = topic(dataclasses.replace(EXACT, windows=EXACT.windows[1:]), most_bytes=100_000)
    hundred = Columns.from_events([event(key=f"k{n}", x=1) for n in range(100)])
    for second in range(30):
        aggregate.all.apply("t", second * 100 + 100, T + second * 1_000, hundred)
    frame = aggregate.snapshot("1m")
    assert frame.truncated
    assert frame.end == T + 29_001
    seconds = (frame.end - frame.start) // 1_000
    assert 10 <= seconds < 30
    assert rows_of(frame)[None, "x"][0] == 100 * seconds
    assert aggregate.engine.bytes < 400_000


def test_event_clock_judges_lateness_by_earlier_events():
    aggregate = topic(dataclasses.replace(EXACT, clock="event"))
    aggregate.apply(4, T, [event(1_000_000), event(1_010_000), event(1_000_001), event(1_000_000)])
    assert aggregate.late_by_window == {"10s": 1, "1m": 0}
    frame = aggregate.snapshot("10s")
    assert (frame.start, frame.end, rows_of(frame)["a", None][0]) == (1_000_001, 1_010_001, 2)


# -- the last events


def test_count_window_follows_the_order_of_the_log():
    aggregate = topic(LAST_3)
    frame = aggregate.snapshot("last 3")
    assert (frame.start, frame.end, frame.rows) == (None, None, [])
    assert b'"from":null,"to":null' in frame.to_json(T)
    aggregate.apply(2, T, [event(T - 10**9, x=1), event(T + 5_000, key="b", x=2)])
    (frame,) = aggregate.flush(T)
    assert (frame.start, frame.end) == (T - 10**9, T + 5_001)
    aggregate.apply(4, T, [event(key="c", x=4), event(key="c", x=8)])
    (frame,) = aggregate.flush(T)
    assert rows_of(frame)[None, "x"] == [3, None, 14.0, 14 / 3, 2.0, 8.0, pytest.approx(3.0550504633), 4.0, 8.0, 8.0]
    assert (rows_of(frame)["a", "x"][:3], frame.gone) == ([0, None, 0.0], [])
    (frame,) = aggregate.flush(T)
    assert (frame.rows, frame.gone) == ([], [("a", None), ("a", "x")])
    assert {key for key, _ in state(aggregate, "last 3")} == {None, "b", "c"}
    assert aggregate.wake_at() is None


def test_totals_rank_events_with_and_without_keys_together():
    aggregate = topic(LAST_3)
    aggregate.apply(3, T, [event(x=4), event(key=None, x=1), event(x=2)])
    rows = rows_of(aggregate.snapshot("last 3"))
    assert (rows[None, "x"][4:6], rows[None, "x"][7:]) == ([1.0, 4.0], [2.0, 4.0, 4.0])
    assert (rows["a", "x"][4:6], rows["a", "x"][7:]) == ([2.0, 4.0], [2.0, 4.0, 4.0])


def test_no_event_is_late_for_a_count_window():
    aggregate = topic(BOTH)
    aggregate.apply(1, T, [event(T - 10**9, x=1)])
    assert (aggregate.late, aggregate.late_by_window) == (0, {"10s": 1, "last 5": 0, "1m": 1, "last 20": 0})
    counts = {frame.window: rows_of(frame)[None, "x"][0] for frame in aggregate.flush(T)}
    assert counts == {"10s": 0, "last 5": 1, "1m": 0, "last 20": 1}


def test_refused_event_takes_a_place_in_a_count_window():
    aggregate = topic(LAST_3)
    aggregate.apply(4, T, [event(x=1), event(x=2), event(T + 10_001, x=4), event(x=8)])
    assert rows_of(aggregate.snapshot("last 3"))["a", "x"][2] == 10.0


def test_keys_that_left_all_windows_make_room():
    aggregate = topic(dataclasses.replace(BOTH, windows=BOTH.windows[:3], max_keys=6))
    for number in range(9):
        aggregate.apply(number + 1, T + number * 40_000, [event(key=f"key-{number}", x=number)])
    assert aggregate.folded == 0
    totals = rows_of(aggregate.snapshot("last 5"))
    assert totals[None, "x"][:3] == [5, None, float(4 + 5 + 6 + 7 + 8)]


def test_keys_that_left_a_count_window_make_room_while_the_clock_stands():
    aggregate = topic(dataclasses.replace(LAST_3, max_keys=1_100))
    for number in range(3):
        aggregate.apply(1_000 * number + 1_000, T, [event(key=f"{number}-{n}") for n in range(1_000)])
    assert aggregate.folded == 0


def test_key_with_events_under_other_is_partial():
    aggregate = topic(dataclasses.replace(LAST_3, max_keys=1))
    aggregate.apply(4, T, [event(key=key) for key in "abbb"])
    aggregate.apply(5, T + 1_000, [event(key="b")])  # the other key has left the window
    assert json.loads(aggregate.snapshot("last 3").body)["partial"] == ["b"]
    aggregate.apply(8, T + 2_000, [event(key="b"), event(key="b"), event(key="b")])
    assert "partial" not in json.loads(aggregate.snapshot("last 3").body)


@pytest.mark.parametrize("options", [EXACT, LAST_3, two(ALL), two(BOTH)])
def test_closed_topic_leaves_nothing(options):
    lone, shared = topic(options), topic(options)
    for number, aggregate in enumerate((lone, shared)):
        for second in (0, 8):
            now = T + second * 1_000
            aggregate.apply(second + 1, now, [event(now + 4_000, x=1)])
            if number:
                if not second:
                    aggregate.all.open("other", T)
                aggregate.all.apply(
                    "other", second + 1, now, Columns.from_events([event(now + 4_000, key=f"{second}", x=2)])
                )
            aggregate.flush(now)
    shared.all.close("other")
    for window in options.windows:
        assert rows_of(shared.snapshot(window.name)) == rows_of(lone.snapshot(window.name))
    assert [frame.topic for frame in shared.flush(T + 60_000)] == ["t"] * len(lone.flush(T + 60_000))
    shared.all.close("t")
    assert shared.flush(T + 60_000) == []
    for name in ("t", "other"):  # they get the rows of those that were closed
        shared.all.open(name, T + 60_000)
    if options != two(BOTH):  # windows of panes wake once more, for a pane whose topic is gone
        assert shared.all.wake_at() is None
    assert shared.flush(T + 60_000) == []
    for name in ("t", "other"):
        shared.all.apply(name, 1, T + 60_000, Columns.from_events([event(T + 60_000, key="0", x=3)]))
    fresh = topic(options)
    fresh.apply(1, T + 60_000, [event(T + 60_000, key="0", x=3)])
    for window in options.windows:
        assert rows_of(shared.snapshot(window.name)) == rows_of(fresh.snapshot(window.name))
