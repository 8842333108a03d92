"""What is read the fast way is what the judge would have said, event for event; whatever it refuses is refused."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pushsvc.errors import PushError
from pushsvc.event import Batch, Event, Limits, Reader, parse
from pushsvc.event.columns import ColumnReader
from pushsvc.event.judge import Judge
from pushsvc.event.shapes import LEARN_AFTER, Shapes

NOW = 1_767_225_600_000  # 2026-01-01T00:00Z
JSON, NDJSON = "application/json", "application/x-ndjson"
LIMITS = Limits(batch=20, key=20, id=20, type=10, name=10, fields=4, depth=3, body=20_000)
USUAL = b'{"id":"i","type":"vote","key":"k","time":1767225600000,"a":1,"b":2,"c":3}'


def trained(limits: Limits = LIMITS, line: bytes = USUAL) -> Reader:
    """Return a reader that knows how the events of the topic ``t`` look."""
    reader = Reader(limits)
    for _ in range(LEARN_AFTER):
        reader.read("t", line, NDJSON, now=NOW)
    return reader


def seen(batch: Batch, lines: Any) -> Any:
    """Return all that readers of the log get to see of a batch, types and bits included."""
    events = [Event.decode(line) for line in batch.data.split(b"\n")] if batch.count else []
    public = [orjson.dumps(event.public("t", 1, NOW), option=orjson.OPT_SORT_KEYS) for event in events]
    columns = ColumnReader().read(batch.data) if batch.count else None
    fields = {
        name: (None if column.positions is None else column.positions.tolist(), column.values.tobytes())
        for name, column in (columns.fields if columns else {}).items()
    }
    times = None if batch.times is None else list(batch.times)
    return public, batch.count, batch.ids, times, list(lines), columns and columns.keys, fields


def fast(reader: Reader, body: bytes, media_type: str) -> Any:
    try:
        reading = reader.read("t", body, media_type, now=NOW)
    except PushError as error:
        return type(error), error.detail, error.members()
    return seen(reading.batch, reading.lines), reading.faults, reading.more, reading.rejected


def slow(body: bytes, media_type: str) -> Any:
    try:
        parsed = parse(body, media_type, now=NOW, limits=LIMITS)
    except PushError as error:
        return type(error), error.detail, error.members()
    return seen(Batch.of(parsed.events), parsed.lines), parsed.faults, parsed.more, parsed.rejected


# Bodies as text: what a generator of JSON values would never write is what matters here.
TEXTS = [
    '"x"', '""', '"\\u0041"', '"a\\nb"', '"a\\tb"', '"\x7f"', '"\x01"', '"\\ud83d\\ude00"', '"\\ud800"', '"\\udc00x"',
    '"😀"', '"\u2028"', '"\x85"', '"__other__"', '"\\u005f_other__"', '"$x"', '"' + "k" * 20 + '"',
    '"' + "k" * 21 + '"',
    '"' + "é" * 20 + '"', '"\\""', '"\\/"', '"}\\n{"', '"message"', '"i1"', '"i2"', '"a\nb"', '"unfinished', "'x'",
]  # fmt: skip
NUMBERS = [
    "0", "1", "-1", "7", "-0", "-0.0", "1.0", "1.5", "1e5", "1E+5", "1e-7", "1e16", "1e999", "-1e999", "1e-999", "01",
    "1.", ".5", "+1", "0x1", "NaN", "Infinity", "-Infinity", "9223372036854775807", "9223372036854775808",
    "18446744073709551615", "18446744073709551616", "-9223372036854775808", "-9223372036854775809", "9" * 400,
    "0.1000000000000000055511151231257827", "123456789012345678901234567890.5", "5e-324", "2.2250738585072011e-308",
    "1.7976931348623157e308", "1" * 30 + ".0",
]  # fmt: skip
TIMES = [
    "1767225600000", "1767225605000", "1767225605001", "1767225600", "100000000000", "99999999999", "1767225600000.75",
    "1767225600000000", '"2026-01-01T00:00:00Z"', '"2026-01-01T00:00:05.0009+00:00"', '"2026-01-01T00:00:05.001Z"',
    '"2026-01-01 00:00:00Z"', '"2026-01-01T00:00:00"', '"2026-01-01"', '"20260101T000000Z"', '"yesterday"',
    '"0001-01-01T00:00:00+05:00"', '"2025-12-31t23:00:00.5-01:00"', "-1767225600000",
]  # fmt: skip
OTHERS = [
    "null", "true", "false", "[]", "{}", "[1]", '["a",null]', "[[1]]", "[[[1]]]", '{"x":{"y":1}}', '{"x":[{"y":1}]}',
    '{"$":1,"":2}', '{"\\ud800":1}', '[{"x":1e999}]', "[18446744073709551616]", '{"x":1,"x":"2"}',
    "nul", "[1,]", "{x:1}",
]  # fmt: skip
NAMES = [
    '"a"', '"b"', '"c"', '"d"', '"\\u0061"', '"$a"', '""', '"' + "n" * 11 + '"', '"\\ud800"', '"a b"', '"id"', '"key"',
    '"time"', '"type"', '"\\u006bey"', '"ID"', "a",
]  # fmt: skip

usual = st.sampled_from([
    ('"a"', "1"), ('"b"', "2.5"), ('"c"', '"text"'), ('"b"', "null"), ('"c"', "[1]"), ('"key"', '"k"'), ('"key"', "7"),
    ('"id"', '"i1"'), ('"id"', "12"), ('"time"', TIMES[0]), ('"time"', TIMES[8]), ('"type"', '"vote"'),
])  # fmt: skip
unusual = st.tuples(st.sampled_from(NAMES), st.sampled_from(TEXTS + NUMBERS + TIMES + OTHERS))
spaces = st.sampled_from(["", "", "", "", " ", "\t", "\r", "\n"])


@st.composite
def objects(draw: st.DrawFn) -> str:
    pairs = draw(st.lists(usual, max_size=4)) + draw(st.lists(unusual, max_size=1))
    space = draw(spaces)
    return "{" + ",".join(f"{space}{name}{space}:{space}{value}" for name, value in pairs) + space + "}"


lines = st.one_of(
    objects(), objects(), objects(), objects(), st.sampled_from(["", " ", "7", "null", "[{}]", "{}{}", "}", "{"])
)
ends = st.sampled_from(["\n", "\n", "\n", "\n", "\r\n", "\n\n", " \n", "\n ", "\r", "", ","])


@st.composite
def ndjson(draw: st.DrawFn) -> bytes:
    parts = draw(st.lists(lines, min_size=1, max_size=6)) * draw(st.sampled_from([1, 1, 1, 1, 5]))
    end = draw(ends)
    body = (
        draw(st.sampled_from(["", "", "\ufeff", "\n", " "])) + end.join(parts) + draw(st.sampled_from(["", end, " "]))
    )
    return body.encode()


@st.composite
def json(draw: st.DrawFn) -> bytes:
    parts = draw(st.lists(lines, min_size=1, max_size=6))
    body = parts[0] if draw(st.booleans()) else "[" + draw(spaces).join([",".join(parts)]) + "]"
    return (draw(spaces) + body + draw(spaces)).encode()


@st.composite
def damaged(draw: st.DrawFn, bodies: st.SearchStrategy[bytes]) -> bytes:
    """Return a body with one byte too many, or in place of another."""
    body = draw(bodies)
    at, byte = draw(st.integers(0, len(body))), draw(st.binary(min_size=1, max_size=1))
    return body[:at] + byte + body[at + draw(st.integers(0, 1)) :]


READER = trained()


@given(ndjson() | damaged(ndjson()))
@example(b'{"a":\n1}\n{"a":2}{"a":3}')
@example(b'{"a":1}{"a":2}')
@example(b'{"a":"}\n{"}')
@example(b'{"b":{}\n{"a":1}')
@example(b'{"key":"a"}\n{"key":"b","key":"__other__"}')
@example(b'{"time":"x","time":1767225600000}')
@example(b'{"id":"1"}\n{"id":1}\n{}')
@example(b"\n{}")
def test_ndjson_is_read_as_the_judge_reads_it(body: bytes) -> None:
    assert fast(READER, body, NDJSON) == slow(body, NDJSON)


@given(json() | damaged(json()))
@example(b'{"a":1}\n{"a":2}')
@example(b'[{"a":1},1]')
@example(b"\x0b[{}]")
def test_json_is_read_as_the_judge_reads_it(body: bytes) -> None:
    assert fast(READER, body, JSON) == slow(body, JSON)


@pytest.mark.parametrize("name", ["id", "type", "key", "time", "a"])
def test_every_value_of_every_attribute_is_read_as_the_judge_reads_it(name: str) -> None:
    for value in TEXTS + NUMBERS + TIMES + OTHERS:
        for body in (f'{{"{name}":{value}}}', f'{{"a":1}}\n{{"{name}":{value}}}'):
            assert fast(READER, body.encode(), NDJSON) == slow(body.encode(), NDJSON), body


@pytest.mark.parametrize("name", ["id", "key"])
def test_a_number_is_no_longer_than_its_text_may_be(name: str) -> None:
    limits = Limits(id=2, key=2)
    reader = trained(limits, b'{"id":"i","key":"k"}')
    for value, refused in (("99", 0), ("-1", 0), ("100", 1), ("-10", 1)):
        assert reader.read("t", f'{{"{name}":{value}}}'.encode(), NDJSON, now=NOW).rejected == refused


@given(st.lists(ndjson(), max_size=5))
def test_learning_changes_nothing_that_is_read(bodies: list[bytes]) -> None:
    reader = Reader(LIMITS)
    for body in bodies:
        for _ in range(2):
            assert fast(reader, body, NDJSON) == slow(body, NDJSON)


def shapes(*bodies: bytes) -> Shapes:
    found = Shapes(LIMITS)
    for body in bodies:
        found.learn("t", parse(body, NDJSON, now=NOW, limits=LIMITS).events * LEARN_AFTER)
    return found


FAST = [
    (b'{"a":1}\n{"a":2,"key":"x"}\n', NDJSON, b'{"a":1}\n{"a":2,"key":"x"}'),
    (b'{"a": 1, "b" :[true]}\r\n{}', NDJSON, b'{"a": 1, "b" :[true]}\n{}'),
    (b'{"c":"\\u00e9","b":null}', NDJSON, b'{"c":"\\u00e9","b":null}'),
    (b'{"a":1,"a":2}', NDJSON, b'{"a":1,"a":2}'),
    (b'{"time":1767225600000}', NDJSON, b'{"time":1767225600000}'),
    (b'{"time":"2026-01-01T00:00:00Z","a":1}', NDJSON, b'{"time":1767225600000,"a":1}'),
    (b'{"key":7,"a":1}\n{"id":8}', NDJSON, b'{"key":"7","a":1}\n{"id":"8"}'),
    (b' {"a":1.5}\n', JSON, b'{"a":1.5}'),
    (b'{\n"a":1.50}', JSON, b'{"a":1.5}'),
    (b'[{"a":1},\n{"b":null}]', JSON, b'{"a":1}\n{"b":null}'),
]


@pytest.mark.parametrize(("body", "media_type", "stored"), FAST)
def test_what_is_as_usual_is_read_in_one_pass(body: bytes, media_type: str, stored: bytes) -> None:
    batch = shapes(USUAL).read("t", body, Judge(NOW, LIMITS), lines=media_type == NDJSON)
    assert batch is not None
    assert batch.data == stored


@pytest.mark.parametrize(
    "body",
    [
        b'{"d":1}',
        b'{"a":1}\n\n{"a":2}',
        b'{"key":null}',
        b'{"a":18446744073709551615}',
        b'{"a":{"b":[[]]}}',
        b"{}\n" * 21,
    ],
)
def test_all_else_is_left_to_the_judge(body: bytes) -> None:
    assert shapes(USUAL).read("t", body, Judge(NOW, LIMITS), lines=True) is None


def test_a_shape_is_learned_per_topic_after_some_events_and_grows() -> None:
    judge, line = Judge(NOW, LIMITS), [Event(data={"a": 1})]
    found = Shapes(LIMITS)
    found.learn("t", line * (LEARN_AFTER - 1))
    assert found.read("t", b'{"a":1}', judge, lines=True) is None
    found.learn("t", line)
    assert found.read("t", b'{"a":1}', judge, lines=True) is not None
    assert found.read("u", b'{"a":1}', judge, lines=True) is None
    assert found.read("t", b'{"b":1}', judge, lines=True) is None
    found.learn("t", [Event(data={"b": 1})] * LEARN_AFTER)
    assert found.read("t", b'{"b":1,"a":2}', judge, lines=True) is not None


def test_an_attribute_that_leaves_no_trace_is_learned_too() -> None:
    body = b'{"a":1,"type":"message"}'
    found = shapes(body, body)
    assert found.read("t", body, Judge(NOW, LIMITS), lines=True) is not None


@pytest.mark.parametrize("names", [[f"n{n}" for n in range(5)], ['"'], ["\\"], ["\x7f"]])
def test_names_that_make_no_type_are_not_learned(names: list[str]) -> None:
    found = shapes(USUAL)
    found.learn("t", [Event(data=dict.fromkeys(names, 1))] * LEARN_AFTER)
    assert found.read("t", USUAL, Judge(NOW, LIMITS), lines=True) is not None
    body = orjson.dumps(dict.fromkeys(names, 1))
    assert found.read("t", body, Judge(NOW, LIMITS), lines=True) is None


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pushsvc.event.shapes.MOST_TOPICS", 50)
    found = Shapes(LIMITS)
    for number in range(60):
        found.learn(f"t{number}", [Event(data={f"n{number}": 1})] * LEARN_AFTER)
        assert found.read(f"t{number}", b"{}", Judge(NOW, LIMITS), lines=True) is not None
    assert found.read("t0", b"{}", Judge(NOW, LIMITS), lines=True) is None
    assert max(map(len, (found._names, found._unknown, found._shapes))) == 50
