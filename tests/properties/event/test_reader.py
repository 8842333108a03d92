"""The fast path accepts only what the validator accepts, with the same events."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pushsvc.event import EventReader
from support.reference.reading import JSON, LIMITS, NDJSON, fast, slow, trained

# Bodies are generated as text: a generator of JSON values would not write the cases that matter.
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
    """Return a body with one byte inserted or replaced."""
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
def test_ndjson_is_read_as_the_validator_reads_it(body: bytes) -> None:
    assert fast(READER, body, NDJSON) == slow(body, NDJSON)


@given(json() | damaged(json()))
@example(b'{"a":1}\n{"a":2}')
@example(b'[{"a":1},1]')
@example(b"\x0b[{}]")
def test_json_is_read_as_the_validator_reads_it(body: bytes) -> None:
    assert fast(READER, body, JSON) == slow(body, JSON)


@pytest.mark.parametrize("name", ["id", "type", "key", "time", "a"])
def test_every_value_of_every_attribute_is_read_as_the_validator_reads_it(name: str) -> None:
    for value in TEXTS + NUMBERS + TIMES + OTHERS:
        for body in (f'{{"{name}":{value}}}', f'{{"a":1}}\n{{"{name}":{value}}}'):
            assert fast(READER, body.encode(), NDJSON) == slow(body.encode(), NDJSON), body


@given(st.lists(ndjson(), max_size=5))
def test_learning_does_not_change_the_events_of_a_body(bodies: list[bytes]) -> None:
    reader = EventReader(LIMITS)
    for body in bodies:
        for _ in range(2):
            assert fast(reader, body, NDJSON) == slow(body, NDJSON)
