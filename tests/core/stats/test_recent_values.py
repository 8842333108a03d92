"""Statistics of values in windows that keep their events."""

import dataclasses

from pushsvc.stats.window import Window
from support.reference.values import EXACT, LAST, NOW, Recorder, T, event, rows_of

COLUMNS = ("count", "distinct", "top3", "first", "last", "top", "approximate")
LAST_100 = dataclasses.replace(NOW, windows=(Window.parse("last 100"),))


def statistics_of(recorder, window, key="a", field="v"):
    row = rows_of(recorder.all.snapshot("t", window))[key, field, None]
    return [row[name] for name in COLUMNS]


# -- the events of a window


def test_first_and_last_are_by_time_then_by_log_order():
    recorder = Recorder(LAST)
    recorder.send(T, event(T + 9, v="out"), event(T, v="1st"), event(T + 5, v="a"), event(T + 5, v="b"))
    assert statistics_of(recorder, "last 3")[:5] == [3, 3, [["1st", 1], ["a", 1], ["b", 1]], "1st", "b"]
    recorder.send(T, event(T - 10**9, v="a"))
    assert statistics_of(recorder, "last 3")[:5] == [3, 2, [["a", 2], ["b", 1]], "a", "b"]
    recorder.send(T, event(T - 10**9, v="b"), event(T + 5, v="a"))
    assert statistics_of(recorder, "last 3")[:5] == [3, 2, [["a", 2], ["b", 1]], "a", "a"]


def test_event_without_a_value_takes_a_place_in_a_count_window():
    recorder = Recorder(LAST)
    recorder.send(T, event(v="x"), event(v=None, n=1), event(key="b", v=[1]))
    assert statistics_of(recorder, "last 3") == [1, 1, [["x", 1]], "x", "x", [["x", 1]], False]
    recorder.all.flush(T)
    recorder.send(T, event(key="b", w="y"))
    (left, *_) = recorder.all.flush(T)
    row = rows_of(left)["a", "v", None]
    assert [row[name] for name in COLUMNS] == [0, 0, [], None, None, [], False]
    assert statistics_of(recorder, "last 3", key=None) == [0, 0, [], None, None, [], False]


def test_exact_window_loses_each_value_at_its_millisecond():
    recorder = Recorder(EXACT)
    recorder.send(T, event(v="x"), event(T - 1, v="y"), event(T - 1, v=7), event(T + 2, v="ahead"))
    recorder.all.advance(T + 9_998)
    assert statistics_of(recorder, "10s")[1:5] == [4, [["ahead", 1], ["x", 1], ["y", 1]], "y", "ahead"]
    recorder.all.advance(T + 9_999)
    row = rows_of(recorder.all.snapshot("t", "10s"))["a", "v", None]
    assert (row["distinct"], row["first"], row["sum"]) == (2, "x", None)
    recorder.all.advance(T + 10_000)
    assert statistics_of(recorder, "10s")[1:5] == [1, [["ahead", 1]], "ahead", "ahead"]
