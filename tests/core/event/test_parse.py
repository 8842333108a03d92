"""The rules of events in each format, with the message of each refusal."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pushsvc.errors import Fault, InvalidBatch, InvalidParameter, PushError, TooLarge, UnsupportedMediaType
from pushsvc.event import Event, Limits, ParsedEvents, guess_media_type, parse

NOW = 1_767_225_600_000  # 2026-01-01T00:00Z
JSON, NDJSON, CSV = "application/json", "application/x-ndjson", "text/csv"
CLOUDEVENT, CLOUDEVENTS = "application/cloudevents+json", "application/cloudevents-batch+json"


def read(body: bytes | str, media_type: str = JSON, **columns: str) -> ParsedEvents:
    return parse(body if isinstance(body, bytes) else body.encode(), media_type, now=NOW, columns=columns)


def events(body: bytes | str, media_type: str = JSON, **columns: str) -> list[Event]:
    parsed = read(body, media_type, **columns)
    assert parsed.faults == []
    return parsed.events


def fault(body: bytes | str, media_type: str = JSON, **columns: str) -> Fault:
    """Return the only fault, of one event or of the whole body."""
    try:
        parsed = read(body, media_type, **columns)
    except InvalidBatch as error:
        (found,) = error.faults
        return found
    assert (len(parsed.faults), parsed.events, parsed.rejected, parsed.more) == (1, [], 1, 0), body
    return parsed.faults[0]


def refusal(kind: type[PushError], body: bytes, media_type: str, limits: Limits | None = None) -> PushError:
    """Return the error that refuses the whole body."""
    try:
        parse(body, media_type, now=NOW, limits=limits or Limits())
    except kind as error:
        return error
    raise AssertionError(f"{body[:80]!r} is not refused as {media_type}")


def test_members_that_are_no_attributes_are_data() -> None:
    body = '{"id":"a1","type":"vote","time":"2025-12-31T23:00:00+01:00","key":"pizza","rating":4,"by":"me"}'
    time = NOW - 2 * 3600 * 1000
    assert events(body) == [Event("a1", "vote", time, "pizza", {"rating": 4, "by": "me"})]


def test_an_empty_object_is_an_event_of_type_message() -> None:
    assert events("{}") == [Event()]
    assert events('{"id":null,"type":null,"time":null,"key":null}') == [Event()]


def test_a_number_as_key_becomes_its_text() -> None:
    for sent, key in [("7", "7"), ("7.0", "7.0"), ("7.25", "7.25"), ("-1", "-1"), ('"7"', "7"), ('"\u2028"', "\u2028")]:
        assert events(f'{{"key":{sent}}}')[0].key == key


def test_fields_are_top_level_numbers_without_booleans() -> None:
    body = '{"a":1,"b":2.5,"c":true,"d":false,"e":"3","f":null,"g":{"h":4},"i":[5],"j":18446744073709551615}'
    numbers = events(body)[0].numbers()
    assert numbers == {"a": 1.0, "b": 2.5, "j": 2.0**64}
    assert all(type(value) is float for value in numbers.values())


def test_integers_of_64_bits_are_kept_exactly() -> None:
    event = events('{"most":18446744073709551615,"least":-9223372036854775808,"odd":9007199254740993}')[0]
    assert event.data == {"most": 2**64 - 1, "least": -(2**63), "odd": 2**53 + 1}
    assert Event.decode(event.encode()) == event


def test_the_last_value_of_a_repeated_name_counts() -> None:
    assert events('{"key":"a","x":1,"x":2,"key":"b"}') == [Event(key="b", data={"x": 2})]


def test_times_are_text_or_milliseconds() -> None:
    for time, expected in [
        (str(NOW), NOW),
        (f"{NOW}.75", NOW),
        (f"{NOW / 1000}e3", NOW),
        ('"2026-01-01T00:00:05.000Z"', NOW + 5000),
        ('"2025-12-31t19:00:00.123-05:00"', NOW + 123),
        ('"1950-06-01T00:00:00Z"', -618_105_600_000),
        ("100000000000", 10**11),
    ]:
        assert events(f'{{"time":{time}}}')[0].time == expected


LONG = "x" * 300

REFUSED_EVENTS = [
    ('{"a":NaN}', "a", "NaN is no JSON number"),
    ('{"a":Infinity}', "a", "Infinity is no JSON number"),
    ('{"a":-Infinity}', "a", "-Infinity is no JSON number"),
    ('{"a":1e999}', "a", "1e999 is too large for a number"),
    ('{"a":-1e999}', "a", "-1e999 is too large"),
    ('{"a":{"b":[1e999]}}', "a", "1e999 is too large"),
    ('{"a":18446744073709551616}', "a", "more than 64 bits"),
    ('{"a":-9223372036854775809}', "a", "more than 64 bits"),
    ('{"a":[18446744073709551616]}', "a", "more than 64 bits"),
    ('{"a":' + "9" * 5000 + "}", "a", "an integer of 5000 digits"),
    ('{"a":"\\ud800"}', "a", "half of a surrogate pair"),
    ('{"a":["\\udc00x"]}', "a", "half of a surrogate pair"),
    ('{"key":"\\ud800"}', "key", "half of a surrogate pair"),
    ('{"\\ud800":1}', "\ufffd", "half of a surrogate pair"),
    (f'{{"key":"{LONG}"}}', "key", "300 characters, at most 200"),
    (f'{{"id":"{LONG}"}}', "id", "300 characters, at most 200"),
    (f'{{"type":"{LONG}"}}', "type", "300 characters, at most 100"),
    (f'{{"{LONG}":1}}', LONG[:60], "the name has 300 characters, at most 200"),
    ('{"key":""}', "key", "empty: leave it out instead"),
    ('{"id":""}', "id", "empty: leave it out instead"),
    ('{"key":true}', "key", "true or false, but text is expected"),
    ('{"key":["a"]}', "key", "an array, but text is expected"),
    ('{"key":18446744073709551616}', "key", "more than 64 bits"),
    ('{"key":"__other__"}', "key", "__other__ is reserved"),
    ('{"type":7}', "type", "a number, but text is expected"),
    ('{"type":"a\\nb"}', "type", "a control character"),
    ('{"type":"$stats"}', "type", "begin with $ are reserved"),
    ('{"$offset":1}', "$offset", "begin with $ are reserved"),
    ('{"":1}', "", "a field needs a name"),
    ('{"time":"2090-01-01T00:00:00Z"}', "time", "2090-01-01T00:00:00.000Z is in the future: at most 5 s ahead"),
    ('{"time":3786912000000}', "time", "is in the future"),
    (f'{{"time":{NOW + 5001}}}', "time", "is in the future"),
    ('{"time":1767225600}', "time", "seconds? milliseconds are expected"),
    ('{"time":1767225600.5}', "time", "seconds? milliseconds are expected"),
    ('{"time":0}', "time", "seconds? milliseconds are expected"),
    ('{"time":1767225600000000}', "time", "milliseconds are expected"),
    ('{"time":1e300}', "time", "milliseconds are expected"),
    ('{"time":NaN}', "time", "NaN is no JSON number"),
    ('{"time":true}', "time", "true or false, but RFC 3339 text or epoch milliseconds"),
    ('{"time":"2026-01-01T00:00:00"}', "time", "the time has no offset"),
    ('{"time":"2026-01-01"}', "time", "the time has no offset"),
    ('{"time":"yesterday"}', "time", "not an RFC 3339 time"),
    ('{"time":"0001-01-01T00:00:00+05:00"}', "time", "before 0001-01-02"),
    (json.dumps({f"f{n}": n for n in range(33)}), None, "33 numeric fields, at most 32"),
    ('{"a":' + "[" * 8 + "]" * 8 + "}", "a", "nested too deeply"),
    ("NaN", None, "NaN is no JSON number"),
    ("7", None, "a number, but an event is a JSON object"),
    ('"x"', None, "text, but an event is a JSON object"),
    ("null", None, "null, but an event is a JSON object"),
]


def test_a_fault_has_line_and_field() -> None:
    for body, field, words in REFUSED_EVENTS:
        for sent, media_type in ((f"[{body}]", JSON), (body, JSON), (body + "\n", NDJSON)):
            found = fault(sent, media_type)
            assert (found.line, found.field) == (1, field), sent
            assert words in found.detail


def test_eight_levels_of_nesting_are_allowed() -> None:
    assert events('{"a":{"b":{"c":{"d":{"e":{"f":{"g":{}}}}}}}}')


def test_only_numbers_count_as_fields() -> None:
    for value in ['"a"', "1", "null", "[1]", '{"b":1}']:
        fields = ",".join(f'"f{n}":{n}' for n in range(32))
        assert len(events(f'{{"x":{value if value != "1" else "true"},{fields}}}')[0].numbers()) == 32


WRONG_BODIES = [
    (b"", JSON, 1, "the body is empty"),
    (b" \r\n\t\n", NDJSON, 1, "the body is empty"),
    (b"\xef\xbb\xbf", CSV, 1, "the body is empty"),
    (b"[]", JSON, 1, "the body has no events"),
    (b"[]", CLOUDEVENTS, 1, "the body has no events"),
    (b"a,b\n", CSV, 1, "the body has no events"),
    (b'{"a":1', JSON, 1, "not JSON, at column 7: unexpected end of data"),
    (b"{'a':1}", JSON, 1, "at column 2: unexpected character, expected a string key"),
    (b'{"a":1,}', JSON, 1, "trailing comma"),
    (b'[{"a":1},\n {"a" 2}]', JSON, 2, "at column 7: unexpected character, expected ':'"),
    (b'{"a":1}\n{"a":2}', JSON, 2, "send several events as an array or as NDJSON"),
    (b'{"a":1}{"a":2}', JSON, 1, "send several events as an array or as NDJSON"),
    (b'{"a":"x\ny"}', JSON, 1, "control character"),
    (b"[" * 100_000, JSON, 1, "nested too deeply"),
    (b'{"a":\n"\xff"}', JSON, 2, "not UTF-8"),
    (b"\xff\xfe{\x00}\x00", JSON, 1, "not UTF-8"),
    (b"a\n\xff\n", CSV, 2, "not UTF-8"),
    (b'a,b\n1,2\n"x,3\n4,5\n', CSV, 3, "not CSV: unexpected end of data"),
    (b'a\n"x"y\n', CSV, 2, "not CSV"),
    (b"a,,b\n1,2,3\n", CSV, 1, "a column has no name"),
    (b"\na,a\n1,2\n", CSV, 2, "two columns have this name"),
    (b"a,time\n1,2\n", CSV, 1, "add ?time=time, or rename it"),
    (b'[{"specversion":"1.0"}]', CLOUDEVENT, 1, "send it as application/cloudevents-batch+json"),
    (b'{"specversion":"1.0"}', CLOUDEVENTS, 1, "send a single event as application/cloudevents+json"),
]


def test_an_unreadable_body_raises_with_the_line() -> None:
    for body, media_type, line, words in WRONG_BODIES:
        refused = refusal(InvalidBatch, body, media_type)
        assert isinstance(refused, InvalidBatch)
        assert refused.faults[0].line == line, body
        assert words in refused.detail


def test_valid_events_beside_invalid_ones_are_kept() -> None:
    body = '{"a":1}\r\n\r\n{"a":NaN}\n{"a":\n[1]\n{"a":2}\n'
    parsed = read(body, NDJSON)
    assert [event.data for event in parsed.events] == [{"a": 1}, {"a": 2}]
    assert [(found.line, found.field) for found in parsed.faults] == [(3, "a"), (4, None), (5, None)]
    assert (parsed.rejected, parsed.more) == (3, 0)


def test_at_most_100_faults_are_listed() -> None:
    parsed = read("[" + ",".join(["1"] * 130 + ["{}"]) + "]")
    assert (len(parsed.faults), parsed.more, parsed.rejected, len(parsed.events)) == (100, 30, 130, 1)
    assert parsed.faults[-1].line == 100


def test_a_body_beyond_the_limits_is_too_large() -> None:
    for media_type, body in [
        (JSON, b"[" + b",".join([b"{}"] * 11) + b"]"),
        (NDJSON, b"{}\n" * 11),
        (NDJSON, b"bad\n" * 11),
        (CSV, b"a\n" + b"1\n" * 11),
        (JSON, b" " * 91),
    ]:
        refused = refusal(TooLarge, body, media_type, Limits(batch=10, body=90))
        assert "10 events" in refused.detail or "90" in refused.detail


def test_a_body_at_the_limits_is_allowed() -> None:
    for media_type, body in [
        (JSON, b"[" + b",".join([b"{}"] * 10) + b"]" + b" " * 59),
        (NDJSON, b"{}\n" * 10),
        (CSV, b"a\n" + b"1\n" * 10),
    ]:
        assert len(parse(body, media_type, now=NOW, limits=Limits(batch=10, body=90)).events) == 10


def test_default_limits_of_a_body() -> None:
    assert (Limits().batch, Limits().body) == (10_000, 8_000_000)
    for body in (b"{}\n" * 10_001, b" " * 8_000_001):
        with pytest.raises(TooLarge, match=r"10000 events|8000000"):
            parse(body, NDJSON, now=NOW)


def test_limits_are_configurable() -> None:
    assert parse(b'{"key":"abc"}', JSON, now=NOW, limits=Limits(key=2)).faults[0].field == "key"


def test_a_byte_order_mark_is_skipped() -> None:
    for media_type in [JSON, NDJSON]:
        assert events(b'\xef\xbb\xbf{"a":1}', media_type)[0].data == {"a": 1}


def test_only_line_feeds_separate_events() -> None:
    for separator in ["\u2028", "\u2029", "\x85", "\\r\\n", "\\u000b"]:
        (event,) = events(f'{{"note":"a{separator}b"}}\n', NDJSON)
        assert event.data["note"] == json.loads(f'"a{separator}b"')
        assert b"\n" not in event.encode()


def test_content_types_of_json() -> None:
    for media_type in [
        "",
        "application/x-www-form-urlencoded",
        "Application/JSON ; charset=UTF-8",
        'application/json;charset="utf-8"',
    ]:
        assert events('{"a":1}', media_type)[0].data == {"a": 1}


def test_other_media_types_are_refused() -> None:
    for media_type in ["text/plain", "application/xml", "application/json; charset=latin-1", "*/*"]:
        refusal(UnsupportedMediaType, b"{}", media_type)


def test_guess_media_type_distinguishes_ndjson_from_json() -> None:
    for body, media_type in [
        (b'{"a":1}', JSON),
        (b'{"a":1}\n', JSON),
        (b"[{},\n{}]", JSON),
        (b'{\n "a": 1\n}', JSON),
        (b'\xef\xbb\xbf{"a":1}\r\n{"a":2}\r\n', NDJSON),
    ]:
        assert guess_media_type(body) == media_type


# --- CSV


def test_csv_cells_that_are_json_numbers_are_numbers() -> None:
    header = "int,float,zero,padded,plus,dot,nan,hex,yes,spaced,empty,exp"
    (event,) = events(f"{header}\n1,-2.5,0,007,+1,.5,NaN,0x10,true, 5,,1e3\n", CSV)
    assert event.data == {
        "int": 1, "float": -2.5, "zero": 0, "padded": "007", "plus": "+1", "dot": ".5", "nan": "NaN",
        "hex": "0x10", "yes": "true", "spaced": " 5", "exp": 1000.0,
    }  # fmt: skip


def test_named_csv_columns_become_attributes() -> None:
    body = f"when,carrier,delay,nr,kind\n{NOW},UA,7,0012,vote\n2025-12-31T00:00:00Z,,8,13,\n,7,,,\n"
    assert events(body, CSV, time="when", key="carrier", id="nr", type="kind") == [
        Event("0012", "vote", NOW, "UA", {"delay": 7}),
        Event("13", "message", NOW - 86_400_000, None, {"delay": 8}),
        Event(None, "message", None, "7", {}),
    ]


def test_a_csv_column_may_serve_two_attributes() -> None:
    assert events("nr,key\n5,a\n", CSV, id="nr", key="nr", type="key") == [Event("5", "a", None, "5", {})]


def test_csv_quotes_line_ends_and_separators_inside_cells() -> None:
    body = '\ufeff"a","b, c"\r\n"x ""y""\r\nz",1\r\n\r\nu\u2028v,2\r\n"3",\r\n'
    assert [event.data for event in events(body, CSV)] == [
        {"a": 'x "y"\r\nz', "b, c": 1},
        {"a": "u\u2028v", "b, c": 2},
        {"a": 3},
    ]


def test_csv_faults_have_the_first_line_of_the_row() -> None:
    parsed = read('a,b\n"1\n2",3\n4\n5,6,7\n8,1e999\n9,18446744073709551616\n10,11\n', CSV)
    assert [event.data for event in parsed.events] == [{"a": "1\n2", "b": 3}, {"a": 10, "b": 11}]
    assert [(found.line, found.field) for found in parsed.faults] == [(4, None), (5, None), (6, "b"), (7, "b")]
    assert parsed.faults[0].detail == "1 cell, but the header has 2"
    assert parsed.faults[1].detail == "3 cells, but the header has 2"


def test_a_missing_csv_column_is_an_error_that_lists_the_columns() -> None:
    with pytest.raises(InvalidParameter, match="key: there is no column 'dish'; the columns are 'a', 'b'"):
        read("a,b\n1,2\n", CSV, key="dish")
    with pytest.raises(InvalidParameter, match="not semicolons"):
        read("a;b\n1;2\n", CSV, key="a")


def test_only_csv_has_columns() -> None:
    with pytest.raises(InvalidParameter, match="only text/csv has columns"):
        read("{}", JSON, key="dish")


def test_csv_events_keep_the_same_rules() -> None:
    for body, field, words in [
        ("a\n1e999\n", "a", "1e999 is too large"),
        ("a\n" + "1" * 500 + "\n", "a", "a number of 500 characters"),
        ("$a\n1\n", "$a", "reserved"),
        ("k\n__other__\n", "key", "reserved"),
        (f"k\n{LONG}\n", "key", "300 characters"),
    ]:
        found = fault(body, CSV, **({"key": "k"} if body[0] == "k" else {}))
        assert (found.line, found.field) == (2, field)
        assert words in found.detail


def test_csv_times_keep_the_same_rules() -> None:
    assert fault("when\n1767225600\n", CSV, time="when").detail.endswith("seconds? milliseconds are expected")


# --- CloudEvents


def cloud_event(**members: Any) -> dict[str, Any]:
    return {"specversion": "1.0", "id": "a1", "source": "/kitchen", "type": "dish.rated"} | members


def test_a_cloudevent_is_flattened() -> None:
    sent = cloud_event(
        time="2026-01-01T00:00:00Z", subject="pizza", datacontenttype="application/json", traceparent="00-ab",
        data={"rating": 4, "id": 9, "source": "web", "note": {"x": 1}},
    )  # fmt: skip
    expected = Event(
        "a1", "dish.rated", NOW, "pizza",
        {"source": "/kitchen", "traceparent": "00-ab", "rating": 4, "data.id": 9,
         "data.source": "web", "note": {"x": 1}},
    )  # fmt: skip
    assert events(json.dumps(sent), CLOUDEVENT) == [expected]
    assert events(json.dumps([sent, sent]), CLOUDEVENTS) == [expected, expected]


def test_cloudevent_data_that_is_not_an_object_is_one_field() -> None:
    for data, kept in [(5, {"data": 5}), ("x", {"data": "x"}), ([1], {"data": [1]}), (None, {})]:
        assert events(json.dumps(cloud_event(data=data)), CLOUDEVENT)[0].data == {"source": "/kitchen"} | kept


def test_invalid_cloudevents_are_refused() -> None:
    for member, value, words in [
        ("specversion", "0.3", 'version "1.0"'),
        ("id", None, "require it"),
        ("source", "", "require it"),
        ("type", 7, "require it"),
        ("data_base64", "AAAA", "binary data is not supported"),
        ("subject", "", "empty"),
        ("time", "2090-01-01T00:00:00Z", "is in the future"),
        ("data", {"$x": 1}, "reserved"),
    ]:
        found = fault(json.dumps([cloud_event(**{member: value})]), CLOUDEVENTS)
        assert (found.line, found.field) == (1, {"subject": "key", "data": "$x"}.get(member, member))
        assert words in found.detail


def test_a_cloudevent_cannot_have_two_keys() -> None:
    assert fault(json.dumps(cloud_event(subject="a", key="b")), CLOUDEVENT).field == "key"
    assert events(json.dumps(cloud_event(key="b")), CLOUDEVENT)[0].key == "b"
    assert fault("7", CLOUDEVENT).detail == "a number, but an event is a JSON object"


# --- stored and public form


def test_the_stored_form_has_no_defaults() -> None:
    assert Event(data={"a": 1}).encode() == b'{"a":1}'
    assert Event("i", "t", NOW, "k", {}).encode() == b'{"id":"i","type":"t","time":%d,"key":"k"}' % NOW


def test_the_public_form_has_defaults() -> None:
    assert Event(data={"a": 1}).public("t", 7, NOW) == {
        "$topic": "t", "$offset": 7, "time": "2026-01-01T00:00:00.000Z", "type": "message", "a": 1,
    }  # fmt: skip
    public = Event("i", "vote", NOW - 1, "k", {"a": 1}).public("t", 8, NOW)
    assert list(public) == ["$topic", "$offset", "time", "type", "id", "key", "a"]
    assert public["time"] == "2025-12-31T23:59:59.999Z"


def test_an_accepted_event_is_stored_and_read_unchanged() -> None:
    for value in [None, True, -(2**63), 2**64 - 1, 0.1, 1e-310, "", "\u2028\0é😀", [1, [None]], {"": {}}]:
        sent = {"id": "é", "key": "k\u2028", "time": NOW, "value": value, "größe": 1}
        (event,) = events(json.dumps(sent))
        assert Event.decode(event.encode()) == event
        public = event.public("t", 1, NOW)
        assert public == {"$topic": "t", "$offset": 1, "type": "message", **sent, "time": "2026-01-01T00:00:00.000Z"}
