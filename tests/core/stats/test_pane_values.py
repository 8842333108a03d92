"""Statistics of values in windows of panes, rule by rule."""

import dataclasses

import pytest

from pushsvc.event import Event
from pushsvc.event.columns import ColumnReader, Columns
from support.reference.values import EVENT_CLOCK, NOW, STATISTICS, Recorder, T, check, event, rows_of, strict

MINUTE = dataclasses.replace(NOW, windows=NOW.windows[1:])


# -- the contract


def test_frame_has_columns_of_values():
    recorder = Recorder(MINUTE)
    recorder.send(T, event(v="x", n=1), event(v="y", n=2), event(v="x"), event(key="b", v=7, w=True))
    assert recorder.all.snapshot("t", "1m").columns == (
        "key", "field", "count", "rate", "sum", "mean", "min", "max", "std", *STATISTICS, "approximate"
    )  # fmt: skip
    rows = recorder.rows()
    assert rows.keys() == {
        (key, field, None)
        for key, field in [
            (None, None), ("a", None), ("b", None), (None, "n"), ("a", "n"), (None, "v"), ("a", "v"), ("b", "v"),
            (None, "w"), ("b", "w"),
        ]
    }  # fmt: skip
    total = rows[None, "v", None]
    assert (total["count"], total["rate"], total["sum"], total["mean"], total["p50"]) == (4, 4 / 60, 7.0, 7.0, 7.0)
    assert (total["distinct"], total["top"]) == (3, [["x", 2], ["y", 1], [7, 1]])
    assert (total["first"], total["last"], total["approximate"]) == ("x", 7, False)
    text = rows["a", "v", None]
    assert [text[name] for name in ("sum", "mean", "min", "max", "std", "p50")] == [None] * 6
    assert rows["b", "w", None]["top"] == [[True, 1]]
    assert {rows[None, field, None][name] for field in (None, "n") for name in STATISTICS[1:]} == {None}
    assert rows[None, "n", None]["approximate"] is False


def test_empty_row_is_sent_once_and_then_gone():
    recorder = Recorder()
    recorder.send(T, event(v="x"))
    recorder.all.flush(T)
    recorder.all.advance(T + 20_000)
    first, second = recorder.all.flush(T + 20_000), recorder.all.flush(T + 20_000)
    row = rows_of(first[0])["a", "v", None]
    assert [row[name] for name in ("count", "sum", *STATISTICS, "approximate")] == [
        0, None, None, 0, [], None, None, [], False
    ]  # fmt: skip
    assert set(second[0].gone) == {("a", None), ("a", "v")}
    assert rows_of(recorder.all.snapshot("t", "10s"))[None, "v", None]["distinct"] == 0


@pytest.mark.parametrize("statistics", [("first",), ("last", "p50"), ("distinct",), ("top5", "first")])
def test_frame_has_only_the_chosen_statistics(statistics):
    recorder = Recorder(dataclasses.replace(MINUTE, statistics=statistics))
    recorder.send(T, event(v="x"), event(v="y"))
    exact = set(statistics) <= {"first", "last", "p50"}
    assert recorder.settings.columns[9:] == (*statistics, *(() if exact else ("approximate",)))
    row, expected = (
        recorder.rows()["a", "v", None],
        {"first": "x", "last": "y", "distinct": 2, "top5": [["x", 1], ["y", 1]]},
    )
    assert [row[name] for name in statistics] == [expected.get(name) for name in statistics]


# -- the rules of values


SAME = [
    ([1, 1.0, "1", True], [[1, 2], ["1", 1], [True, 1]]),
    ([0.0, -0.0, 0, False], [[0, 3], [False, 1]]),
    ([2**53, 2**53 + 1, float(2**53)], [[2**53, 2], [2**53 + 1, 1]]),
    ([2**64 - 1, -(2**63), 1e300], [[-(2**63), 1], [2**64 - 1, 1], [1e300, 1]]),
    ([None, "null", "", [], ""], [["", 2], ["null", 1]]),
    (["é", "e\u0301", "É"], [["e\u0301", 1], ["É", 1], ["é", 1]]),
    ([0.5, 5e-1, "0.5"], [[0.5, 2], ["0.5", 1]]),
]


def test_equal_json_values_are_one_value():
    recorder = Recorder(MINUTE)
    for number, (values, _) in enumerate(SAME):
        recorder.send(T, event(key=f"{number}", n=1), *[event(key=f"{number}", v=value) for value in values])
    rows = recorder.rows()
    for number, (values, top) in enumerate(SAME):
        assert rows[f"{number}", None, None]["count"] == len(values) + 1
        row = rows[f"{number}", "v", None]
        assert strict(row["top"]) == strict(top)
        assert row["count"] == sum(count for _, count in top)
        assert row["distinct"] == len(top)


def test_null_arrays_and_objects_are_no_values():
    recorder = Recorder(MINUTE)
    recorder.send(T, event(n=1), *[event(v=value) for value in (None, [1], {"x": 1})])
    rows = recorder.rows()
    assert rows["a", None, None]["count"] == 4
    assert ("a", "v", None) not in rows
    assert (None, "v", None) not in rows


def test_numbers_among_values_have_moments_and_booleans_have_none():
    recorder = Recorder(MINUTE)
    recorder.send(T, event(v="text"), event(v=True), event(v=2**53 + 1), event(v=3), event(v=None))
    row = recorder.rows()["a", "v", None]
    assert [row[name] for name in ("count", "sum", "min", "max", "distinct")] == [4, 2.0**53 + 4, 3, 2.0**53, 4]
    assert (row["first"], row["last"]) == ("text", 3)
    recorder.all.advance(T + 30_000)
    recorder.send(T + 30_000, event(v="more"))
    recorder.all.advance(T + 61_000)
    row = recorder.rows()["a", "v", None]
    assert [row[name] for name in ("count", "sum", "min", "first")] == [1, None, None, "more"]


def test_long_text_is_shortened_but_compared_completely():
    recorder = Recorder(MINUTE)
    one, other, edge = "x" * 300 + "1", "x" * 300 + "2", "x" * 200
    recorder.send(T, *[event(v=value) for value in (one, other, one, edge)])
    row = recorder.rows()["a", "v", None]
    assert row["distinct"] == 3
    assert row["top"] == [["x" * 200 + "…", 2], [edge, 1], ["x" * 200 + "…", 1]]
    assert (row["first"], row["last"]) == ("x" * 200 + "…", edge)


def test_log_order_decides_among_equal_times():
    recorder = Recorder(MINUTE)
    recorder.send(T + 5_000, event(T, v="1st"), event(T, v="2nd"))
    recorder.send(
        T + 5_000, event(T, v="3rd"), event(T - 1, v="before"), event(T + 5_000, v="end"), event(v="very end")
    )
    recorder.send(T + 5_000, event(T - 1, v="too late"))
    row = recorder.rows()["a", "v", None]
    assert (row["first"], row["last"]) == ("before", "very end")
    recorder.all.advance(T + 60_000 - 1)
    assert [recorder.rows()["a", "v", None][name] for name in ("first", "distinct")] == ["1st", 5]


def test_attributes_can_be_values():
    recorder = Recorder(dataclasses.replace(MINUTE, values=("key", "type")))
    recorder.send(T, event(), event(key=None), Event(type="vote", key="b"))
    rows = recorder.rows()
    assert rows[None, "key", None]["top"] == [["a", 1], ["b", 1]]
    assert rows[None, "type", None]["top"] == [["message", 2], ["vote", 1]]


# -- limits


def test_rows_are_approximate_until_untracked_values_expire():
    recorder = Recorder(dataclasses.replace(NOW, max_values=3))
    recorder.send(T, *[event(v=value) for value in "aabcde"], event(key="b", v="a"), *[event(w=n) for n in range(3)])
    rows = recorder.rows()
    flagged = rows["a", "v", None]
    assert (flagged["approximate"], flagged["distinct"], flagged["count"]) == (True, 5, 6)
    assert flagged["top"] == [["a", 2], ["b", 1], ["c", 1]]
    assert (flagged["first"], flagged["last"]) == ("a", "e")
    assert (rows["b", "v", None]["approximate"], rows["b", "v", None]["distinct"]) == (False, 1)
    assert (rows[None, "w", None]["approximate"], rows[None, "w", None]["distinct"]) == (False, 3)
    recorder.send(T + 20_000, event(v="e"), event(v="d"))
    recorder.send(T + 59_000, event(v="e"))
    assert recorder.rows("10s")["a", "v", None]["approximate"]
    recorder.send(T + 61_000, event(v="f"))
    recorder.all.advance(T + 81_000)
    recorder.send(T + 81_500, event(v="g"))
    row = recorder.rows()["a", "v", None]
    assert (row["distinct"], row["first"], row["last"]) == (3, "e", "g")


def test_expired_values_make_room():
    recorder = Recorder(dataclasses.replace(MINUTE, max_values=10))
    for minute in range(6):
        now = T + minute * 120_000
        recorder.send(now, *[event(v=f"{minute}-{n}") for n in range(10)])
        row = recorder.rows()["a", "v", None]
        assert (row["distinct"], row["approximate"]) == (10, False), minute
    assert recorder.all.engine.dictionary.size < 40


def test_sweep_comes_even_if_the_clock_stands_still():
    """A replay whose events all have one time never moves its head."""
    recorder = Recorder(dataclasses.replace(EVENT_CLOCK, max_values=10))
    for entry in range(13):
        recorder.send(T, *[event(T, v=f"{entry}-{n}") for n in range(1_000)])
    assert recorder.all.engine.dictionary.used < 5_000
    row = recorder.rows()["a", "v", None]
    assert row["distinct"] == pytest.approx(13_000, rel=0.07)
    assert (row["first"], row["last"], row["approximate"]) == ("0-0", "12-999", True)


def test_deleted_topic_leaves_no_values_to_its_successor():
    recorder = Recorder()
    recorder.all.open("u", T)
    for name in ("t", "u"):
        recorder.all.apply(name, 1, T, Columns.from_events([event(T + 3_000, v=name), event(v=name)], ("key",), ("v",)))
    recorder.all.close("t")
    recorder.all.advance(T + 50)
    recorder.topic = recorder.all.open("t", T)
    recorder.log.clear()
    recorder.send(T + 100, event(v="new"))
    recorder.all.advance(T + 5_000)
    check(recorder, "10s")
    check(recorder, "1m")
    assert rows_of(recorder.all.snapshot("u", "1m"))["a", "v", None]["top"] == [["u", 2]]


def test_keys_beyond_the_limit_share_their_values():
    recorder = Recorder(dataclasses.replace(MINUTE, max_keys=1))
    recorder.send(T, *[event(key=key, v=value) for key, value in ("ax", "bx", "cy", "bx")])
    rows = recorder.rows()
    assert rows["__other__", "v", None]["top"] == [["x", 2], ["y", 1]]
    assert rows[None, "v", None]["top"] == [["x", 3], ["y", 1]]


def test_no_new_value_is_tracked_beyond_the_memory_limit():
    recorder = Recorder(MINUTE)
    before = recorder.all.engine.bytes
    recorder.send(T, *[event(v=f"value {n}") for n in range(300)])
    recorder.rows()
    assert recorder.all.engine.bytes > before + 300 * 200
    recorder.all.limit_memory(1)
    recorder.send(T + 1_000, event(v="one more"), event(v="value 7"))
    row = recorder.rows()["a", "v", None]
    assert row["approximate"]
    assert row["distinct"] == pytest.approx(301, rel=0.05)
    assert row["top3"][0] == ["value 7", 2]


def test_fields_beyond_the_limit_are_ignored():
    recorder = Recorder(dataclasses.replace(MINUTE, max_fields=1))
    recorder.send(T, event(v="x", w=3), event(v="y", w="z"))
    assert {field for _, field, _ in recorder.rows()} == {None, "w"}
    assert recorder.topic.ignored == 2


def test_learned_schema_counts_as_the_slow_path_does():
    settings, reader = MINUTE, ColumnReader(NOW.key, NOW.values)
    learned, slow = Recorder(settings), Recorder(settings)
    batches = [
        [{"v": "x"}],
        [{"v": "y", "w": 1}],
        [{"v": True}, {"v": 1}],
        [{"w": "z", "v": [1]}],
        [{"v": None}, {"v": 2.5}],
    ]
    for number, batch in enumerate([*batches, *batches], 1):
        events = [Event(key="a", data=one) for one in batch]
        slow.send(T + number, *events)
        learned.all.apply("t", len(slow.log), T + number, reader.read(b"\n".join(one.encode() for one in events)))
    assert learned.rows() == slow.rows()
    check(slow, "1m")
