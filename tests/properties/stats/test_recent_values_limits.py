"""Values of kept events at their limits: memory, numbers of the dictionary, tracked values of a field."""

import dataclasses
import random

import pytest

from pushsvc.event.columns import Columns
from pushsvc.stats.window import Window
from support.reference.open_aggregate import OpenAggregate
from support.reference.values import ALL, BOTH, EXACT, FEW, LAST, NOW, Recorder, T, check, event, rows_of, strict

COLUMNS = ("count", "distinct", "top3", "first", "last", "top", "approximate")
LAST_100 = dataclasses.replace(NOW, windows=(Window.parse("last 100"),))


def statistics_of(recorder, window, key="a", field="v"):
    row = rows_of(recorder.all.snapshot("t", window))[key, field, None]
    return [row[name] for name in COLUMNS]


# -- the events of a window


def test_numbers_among_values_of_kept_events_have_moments():
    recorder = Recorder(LAST)
    recorder.send(T, event(v=4), event(v="text"), event(v=True), event(v=1.5))
    short, long = (rows_of(recorder.all.snapshot("t", name))["a", "v", None] for name in ("last 3", "last 20"))
    assert [short[name] for name in ("count", "sum", "min", "p50", "distinct")] == [3, 1.5, 1.5, 1.5, 3]
    assert [long[name] for name in ("count", "sum", "min", "p50", "distinct")] == [4, 5.5, 1.5, 1.5, 4]
    recorder.send(T, event(v="a"), event(v="b"), event(v="c"))
    row = rows_of(recorder.all.snapshot("t", "last 3"))["a", "v", None]
    assert [row[name] for name in ("count", "sum", "mean", "p50", "first")] == [3, None, None, None, "a"]


def test_evicted_events_have_no_values():
    recorder = Recorder(FEW)
    recorder.send(T, *[event(T - n, v=f"{n}") for n in range(9)])
    assert recorder.all.snapshot("t", "10s").truncated
    check(recorder, "10s")
    assert statistics_of(recorder, "10s")[1] == 6


def test_topic_rebuilt_from_its_last_events_has_the_same_values():
    stayed, rebuilt = Recorder(LAST), Recorder(LAST)
    stayed.send(T, *[event(T - n % 4 * 10**9, v=f"{n % 7}") for n in range(60)])
    rebuilt.all.apply(
        "t", 60, T + 10**6, Columns.from_events([one for _, one in stayed.log[40:]], ("key",), ("v", "w"))
    )
    for window in ("last 3", "last 20"):
        assert statistics_of(rebuilt, window) == statistics_of(stayed, window)


# -- untracked values


def test_kept_events_and_panes_agree_beyond_the_limit():
    settings = dataclasses.replace(NOW, windows=tuple(map(Window.parse, ("1m", "last 1000"))), max_values=30)
    recorder, random_, approximate = Recorder(settings), random.Random(1), []
    for step in range(3):
        values = [random_.randrange(80 * step + 8) for _ in range(40)]
        recorder.send(T + step * 2_000, *[event(key="ab"[n % 2], v=value) for n, value in enumerate(values)])
        panes, events = (rows_of(recorder.all.snapshot("t", window)) for window in ("1m", "last 1000"))
        for place in [(key, "v", None) for key in ("a", "b", None)]:
            assert [panes[place][name] for name in COLUMNS] == [events[place][name] for name in COLUMNS]
            approximate.append(panes[place]["approximate"])
    assert set(approximate) == {True, False}


@pytest.mark.parametrize("settings", [LAST_100, dataclasses.replace(EXACT, clock="event"), BOTH, ALL])
def test_values_that_left_all_windows_make_room(settings):
    """A step of the engine is a second, or a thousand events while the clock stands still."""
    still = settings is LAST_100
    recorder = Recorder(dataclasses.replace(settings, key=("key",), windows=settings.windows[:2], max_values=20))
    for minute in range(4):
        now = T if still else T + minute * 120_000
        recorder.send(now, *[event(now, v=f"{minute}-{n}") for n in range(10)])
        row = rows_of(recorder.all.snapshot("t", settings.windows[0].name))["a", "v", None]
        assert (row["first"], row["distinct"], row["approximate"]) == (f"{minute}-0", 10, False)
        if still:
            recorder.send(now, *[event(now) for _ in range(1_000)])
    assert recorder.all.engine.dictionary.size < 22


def test_value_in_use_keeps_its_number_when_numbers_are_short():
    recorder = Recorder(dataclasses.replace(EXACT, max_values=5))
    recorder.send(T, *[event(v=value) for value in "abc"])
    recorder.send(T + 1_000, event(v="d"))
    recorder.send(T + 2_000, event(v="a"))
    assert statistics_of(recorder, "10s")[1:5] == [4, [["a", 2], ["b", 1], ["c", 1]], "a", "a"]


def test_untracked_value_in_use_is_tracked_when_there_is_room():
    recorder = Recorder(dataclasses.replace(LAST_100, max_values=2))
    for _ in range(3):
        recorder.send(T, *[event(v=value) for value in "abcde"], *[event() for _ in range(45)])
        recorder.all.engine.dictionary.sweep(recorder.all.engine.values_in_use(), 1)
    assert recorder.all.engine.dictionary.used == 6  # including UNTRACKED
    assert statistics_of(recorder, "last 100")[5:] == [[["a", 2], ["b", 2]], True]
    recorder.send(T, *[event(v="d") for _ in range(1_000)])
    recorder.send(T, event(v="d"))
    recorder.send(T, *[event(v=value) for value in "dc" * 60])
    assert statistics_of(recorder, "last 100")[1:] == [
        2,
        [["c", 50], ["d", 50]],
        "d",
        "c",
        [["c", 50], ["d", 50]],
        False,
    ]


@pytest.mark.parametrize("ends", [("first",), ()])
def test_untracked_text_is_kept_only_for_first_and_last(ends):
    settings = dataclasses.replace(LAST_100, max_values=10, statistics=("distinct", "top", *ends))
    recorder = Recorder(settings)
    recorder.send(T, *[event(v=f"{n}") for n in range(100)])
    recorder.all.engine.dictionary.sweep(recorder.all.engine.values_in_use(), 1)
    assert recorder.all.engine.dictionary.used == (101 if ends else 11)
    row = rows_of(recorder.all.snapshot("t", "last 100"))["a", "v", None]
    assert (row["distinct"], row["approximate"], len(row["top"])) == (pytest.approx(100, abs=5), True, 10)
    assert not ends or row["first"] == "0"


# -- memory and dropped topics


@pytest.mark.parametrize("settings", [LAST_100, EXACT, BOTH])
def test_no_new_value_is_tracked_beyond_the_memory_limit(settings):
    recorder = Recorder(dataclasses.replace(settings, key=("key",)))
    window = settings.windows[-1].name
    recorder.all.limit_memory(200 * 100)
    recorder.send(T, *[event(T - 100 + n, v=f"value {n}") for n in range(100)])
    recorder.send(T + 1_000, event(v="one more"), event(v="value 99"))
    row = rows_of(recorder.all.snapshot("t", window))["a", "v", None]
    assert (row["approximate"], row["top3"][0]) == (True, ["value 99", 2])
    recorder.all.limit_memory(10_000_000)
    for second in (70, 71):
        recorder.send(T + second * 1_000, *[event(v="one more") for _ in range(60)])
    recorder.send(T + 72_000, event(v="one more"), event(v="and more"))
    row = rows_of(recorder.all.snapshot("t", window))["a", "v", None]
    assert (row["distinct"], row["approximate"]) == (2, False)


@pytest.mark.parametrize("settings", [LAST, BOTH, ALL])
def test_deleted_topic_leaves_no_values_to_its_successor(settings):
    settings = dataclasses.replace(settings, windows=settings.windows[:2])  # one of each kind
    recorder = Recorder(settings)
    recorder.all.open("u", T)
    for name in ("t", "u"):
        columns = Columns.from_events([event(T + 3_000, v=name, k2="q"), event(v=name)], settings.key, settings.values)
        recorder.all.apply(name, 2, T, columns)
    recorder.all.close("t")
    assert recorder.all.engine.dictionary.owners == 1
    recorder.topic = recorder.all.open("t", T)
    recorder.log.clear()
    recorder.send(T + 100, event(v="new", k2="p"))
    recorder.all.advance(T + 5_000)
    for window in settings.windows:
        check(recorder, window.name)
    recorder.all.close("t")
    recorder.all.close("u")
    assert (recorder.all.engine.dictionary.used, recorder.all.engine.dictionary.owners) == (1, 0)
    assert OpenAggregate.restore(settings, b"".join(recorder.all.save())).save() == recorder.all.save()


def test_key_in_a_reused_row_has_none_of_the_former_values():
    recorder = Recorder(dataclasses.replace(LAST_100, windows=(Window.parse("last 2"),), max_keys=3))
    for number in range(5):
        recorder.send(T + number * 1_000, event(key=f"key {number}", v=number))
        for _ in ("zero", "gone"):
            recorder.all.flush(T)
        assert strict(statistics_of(recorder, "last 2", key=f"key {number}")[1:5]) == strict(
            [1, [[number, 1]], number, number]
        )
