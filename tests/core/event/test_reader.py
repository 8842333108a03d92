"""The fast path and the validator read the same events."""

from __future__ import annotations

import orjson

from pushsvc.event import Event, Limits, parse
from pushsvc.event.shapes import LEARN_AFTER, TopicShapes
from pushsvc.event.validator import EventValidator
from support.reference.reading import JSON, LIMITS, NDJSON, NOW, USUAL, fast, slow, trained

READER = trained()


def test_the_fast_path_reads_what_the_validator_reads() -> None:
    for body, media_type in [
        (b'{"a":1,"key":"k"}\n{"id":7,"b":2.5,"time":"2026-01-01T00:00:00Z"}\n', NDJSON),
        (b'{"a":\n1}\n{"a":2}{"a":3}', NDJSON),
        (b'{"a":1}{"a":2}', NDJSON),
        (b'{"a":"}\n{"}', NDJSON),
        (b'{"b":{}\n{"a":1}', NDJSON),
        (b'{"key":"a"}\n{"key":"b","key":"__other__"}', NDJSON),
        (b'{"time":"x","time":1767225600000}', NDJSON),
        (b'{"time":1767225605001}\n{"time":1767225605000}', NDJSON),
        (b'{"id":"1"}\n{"id":1}\n{}', NDJSON),
        (b'{"a":-0.0,"b":1e999}\n{"c":18446744073709551616}', NDJSON),
        (b'{"key":"\\ud800"}\n{"key":"' + b"k" * 21 + b'"}', NDJSON),
        (b'{"a":"\xff"}', NDJSON),
        (b"\n{}", NDJSON),
        (b'{"a":1}\n{"a":2}', JSON),
        (b'[{"a":1},{"key":7,"c":"text"}]', JSON),
        (b'[{"a":1},1]', JSON),
        (b"\x0b[{}]", JSON),
    ]:
        assert fast(READER, body, media_type) == slow(body, media_type), body


def test_a_number_as_id_or_key_has_the_limit_of_its_text() -> None:
    for name in ["id", "key"]:
        limits = Limits(id=2, key=2)
        reader = trained(limits, b'{"id":"i","key":"k"}')
        for value, refused in (("99", 0), ("-1", 0), ("100", 1), ("-10", 1)):
            assert reader.read("t", f'{{"{name}":{value}}}'.encode(), NDJSON, now=NOW).rejected == refused


def shapes(*bodies: bytes) -> TopicShapes:
    found = TopicShapes(LIMITS)
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


def test_a_body_of_known_names_is_read_by_the_fast_path() -> None:
    found = shapes(USUAL, b'{"b":[true]}')
    for body, media_type, stored in FAST:
        batch = found.read("t", body, EventValidator(NOW, LIMITS), lines=media_type == NDJSON)
        assert batch is not None, body
        assert batch.data == stored


def test_any_other_body_is_left_to_the_parser() -> None:
    found = shapes(USUAL, b'{"b":[1]}', b'{"b":[1]}')
    for body in [
        b'{"d":1}',
        b'{"a":[1]}',
        b'{"b":[[[1]]]}',
        b'{"b":[18446744073709551616]}',
        b'{"b":18446744073709551616}',
        b'{"a":1}\n\n{"a":2}',
        b'{"key":null}',
        b'{"a":18446744073709551615}',
        b'{"a":{"b":[[]]}}',
        b"{}\n" * 21,
    ]:
        assert found.read("t", body, EventValidator(NOW, LIMITS), lines=True) is None, body


def test_an_event_with_too_many_values_is_left_to_the_parser() -> None:
    limits = Limits(values=100)
    for nested in (b"[%b]", b'{"x":[[%b]]}'):
        reader = trained(limits, b'{"a":%b}' % (nested % b"1"))
        event = b'{"a":%b}' % (nested % b",".join([b"1"] * 101))
        few = b'{"a":%b}' % (nested % b",".join([b"1"] * 90))
        for body, media_type, rejected in [
            (event, JSON, 1),
            (event + b"\n{}", NDJSON, 1),
            (b"\n".join([few] * 3), NDJSON, 0),
        ]:
            assert reader.read("t", body, media_type, now=NOW).rejected == rejected


def test_each_topic_learns_its_schema_after_some_events() -> None:
    validator, line = EventValidator(NOW, LIMITS), [Event(data={"a": 1})]
    found = TopicShapes(LIMITS)
    found.learn("t", line * (LEARN_AFTER - 1))
    assert found.read("t", b'{"a":1}', validator, lines=True) is None
    found.learn("t", line)
    assert found.read("t", b'{"a":1}', validator, lines=True) is not None
    assert found.read("u", b'{"a":1}', validator, lines=True) is None
    assert found.read("t", b'{"b":1}', validator, lines=True) is None
    found.learn("t", [Event(data={"b": 1})] * LEARN_AFTER)
    assert found.read("t", b'{"b":1,"a":2}', validator, lines=True) is not None


def test_topics_that_differ_in_their_last_segment_share_what_they_learn() -> None:
    validator, line = EventValidator(NOW, LIMITS), [Event(data={"a": 1})]
    found = TopicShapes(LIMITS)
    for number in range(LEARN_AFTER):
        assert found.read(f"user.{number}", b'{"a":1}', validator, lines=True) is None
        found.learn(f"user.{number}", line)
    assert found.read("user.new", b'{"a":1}', validator, lines=True) is not None
    assert found.read("user.new", b'{"b":1}', validator, lines=True) is None
    for other in ("user", "user.a.new", "order.new", "new"):
        assert found.read(other, b'{"a":1}', validator, lines=True) is None
    found.learn("user.own", [Event(data={"b": 1})] * LEARN_AFTER)
    assert found.read("user.own", b'{"b":1}', validator, lines=True) is not None
    assert found.read("user.new", b'{"a":1}', validator, lines=True) is not None


def test_an_attribute_with_a_default_value_is_learned_too() -> None:
    body = b'{"a":1,"type":"message"}'
    found = shapes(body, body)
    assert found.read("t", body, EventValidator(NOW, LIMITS), lines=True) is not None


def test_names_that_msgspec_cannot_decode_are_not_learned() -> None:
    for names in [[f"n{n}" for n in range(5)], ['"'], ["\\"], ["\x7f"]]:
        found = shapes(USUAL)
        found.learn("t", [Event(data=dict.fromkeys(names, 1))] * LEARN_AFTER)
        assert found.read("t", USUAL, EventValidator(NOW, LIMITS), lines=True) is not None
        body = orjson.dumps(dict.fromkeys(names, 1))
        assert found.read("t", body, EventValidator(NOW, LIMITS), lines=True) is None


def test_the_number_of_kept_schemas_is_bounded() -> None:
    found = TopicShapes(LIMITS, max_topics=5, max_shapes=4)
    for number in range(8):
        found.learn(f"t{number}", [Event(data={f"n{number}": 1})] * LEARN_AFTER)
        assert found.read(f"t{number}", b"{}", EventValidator(NOW, LIMITS), lines=True) is not None
    assert found.read("t0", b"{}", EventValidator(NOW, LIMITS), lines=True) is None
    known = [n for n in range(8) if found.read(f"t{n}", b"{}", EventValidator(NOW, LIMITS), lines=True) is not None]
    assert known == [3, 4, 5, 6, 7]


def test_the_number_of_topics_that_are_about_to_be_learned_is_bounded() -> None:
    found = TopicShapes(LIMITS, max_topics=5)
    for number in range(6):
        found.learn(f"t{number}", [Event(data={"n": 1})] * (LEARN_AFTER - 1))
    for name in ("t5", "t0"):
        found.learn(name, [Event(data={"n": 1})])
    assert found.read("t5", b"{}", EventValidator(NOW, LIMITS), lines=True) is not None
    assert found.read("t0", b"{}", EventValidator(NOW, LIMITS), lines=True) is None, "it was forgotten"
