"""Statistics of values in windows that keep their events."""

import dataclasses

from pushsvc.stats.window import Window
from support.accounts.values import EXACT, LAST, NOW, Account, T, event, told

OF_VALUES = ("count", "distinct", "top3", "first", "last", "top", "approximate")
LAST_100 = dataclasses.replace(NOW, windows=(Window.parse("last 100"),))


def said(account, window, key="a", field="v"):
    row = told(account.all.snapshot("t", window))[key, field, None]
    return [row[name] for name in OF_VALUES]


# -- the events of a window


def test_the_last_events_say_first_and_last_by_time_and_equal_times_by_the_log():
    account = Account(LAST)
    account.send(T, event(T + 9, v="out"), event(T, v="1st"), event(T + 5, v="a"), event(T + 5, v="b"))
    assert said(account, "last 3")[:5] == [3, 3, [["1st", 1], ["a", 1], ["b", 1]], "1st", "b"]
    account.send(T, event(T - 10**9, v="a"))
    assert said(account, "last 3")[:5] == [3, 2, [["a", 2], ["b", 1]], "a", "b"]
    account.send(T, event(T - 10**9, v="b"), event(T + 5, v="a"))
    assert said(account, "last 3")[:5] == [3, 2, [["a", 2], ["b", 1]], "a", "a"]


def test_what_is_no_value_takes_a_place_among_the_last_and_a_key_that_left_is_gone():
    account = Account(LAST)
    account.send(T, event(v="x"), event(v=None, n=1), event(key="b", v=[1]))
    assert said(account, "last 3") == [1, 1, [["x", 1]], "x", "x", [["x", 1]], False]
    account.all.flush(T)
    account.send(T, event(key="b", w="y"))
    (left, *_) = account.all.flush(T)
    row = told(left)["a", "v", None]
    assert [row[name] for name in OF_VALUES] == [0, 0, [], None, None, [], False]
    assert said(account, "last 3", key=None) == [0, 0, [], None, None, [], False]


def test_an_exact_window_loses_each_value_at_its_own_millisecond():
    account = Account(EXACT)
    account.send(T, event(v="x"), event(T - 1, v="y"), event(T - 1, v=7), event(T + 2, v="ahead"))
    account.all.advance(T + 9_998)
    assert said(account, "10s")[1:5] == [4, [["ahead", 1], ["x", 1], ["y", 1]], "y", "ahead"]
    account.all.advance(T + 9_999)
    row = told(account.all.snapshot("t", "10s"))["a", "v", None]
    assert (row["distinct"], row["first"], row["sum"]) == (2, "x", None)
    account.all.advance(T + 10_000)
    assert said(account, "10s")[1:5] == [1, [["ahead", 1]], "ahead", "ahead"]
