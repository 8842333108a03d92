"""CloudEvents in binary mode: headers to attributes, with the message of each refusal."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pushsvc.errors import Fault, InvalidBatch, TooLarge, UnsupportedMediaType
from pushsvc.event import Event, EventReader, Limits, parse
from pushsvc.event.formats import CLOUDEVENT, JSON, parse_binary

NOW = 1_767_225_600_000  # 2026-01-01T00:00Z
REQUIRED = {"ce-specversion": "1.0", "ce-id": "a1", "ce-source": "/kitchen", "ce-type": "dish.rated"}


def event(body: str = "{}", media_type: str = JSON, **attributes: str) -> Event:
    headers = REQUIRED | {f"ce-{name}": value for name, value in attributes.items()}
    parsed = parse_binary(body.encode(), media_type, headers, now=NOW)
    assert (parsed.faults, parsed.lines) == ([], [1])
    return parsed.events[0]


def fault(headers: dict[str, str], body: str = "{}") -> Fault:
    parsed = parse_binary(body.encode(), JSON, headers, now=NOW)
    assert (len(parsed.faults), parsed.events, parsed.rejected) == (1, [], 1)
    return parsed.faults[0]


@pytest.mark.parametrize("data", [{"rating": 4, "id": 9, "source": "web", "subject": "s"}, [{"x": 1}], "text", 5, None])
def test_an_event_is_the_same_in_both_modes(data: Any) -> None:
    attributes = {"time": "2026-01-01T00:00:00Z", "subject": "pizza", "traceparent": "00-ab", "dataschema": "/s"}
    sent = {"specversion": "1.0", "id": "a1", "source": "/kitchen", "type": "dish.rated", **attributes, "data": data}
    structured = parse(json.dumps(sent).encode(), CLOUDEVENT, now=NOW).events
    assert [event(json.dumps(data), **attributes)] == structured
    assert structured[0].key == "pizza"


def test_an_event_may_have_no_data() -> None:
    for body in ("", " \r\n", "\ufeff"):
        assert event(body).data == {"source": "/kitchen"}


@pytest.mark.parametrize(
    "media_type",
    ["", JSON, "application/json; charset=utf-8", "text/json", "application/vnd.shop.order+json; v=2",
     "application/x-www-form-urlencoded"],
)  # fmt: skip
def test_data_is_json(media_type: str) -> None:
    assert event('{"rating":4}', media_type).data["rating"] == 4


@pytest.mark.parametrize("media_type", ["text/plain", "application/xml", "text/csv", "application/x-ndjson", "json"])
def test_other_data_is_refused(media_type: str) -> None:
    with pytest.raises(UnsupportedMediaType, match="Content-Type"):
        event("{}", media_type)
    with pytest.raises(UnsupportedMediaType, match="charset"):
        event("{}", "application/json; charset=latin-1")


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),
        ("a%2520b", "a%20b"),
        ("%61%c3%a4", "aä"),
        ('"two words"', "two words"),
        (r'"a \"quote\" and a \\"', r'a "quote" and a \ '.rstrip()),
        ('"50%25 off"', "50% off"),
        ("a+b,c;d", "a+b,c;d"),
        ('a"b', 'a"b'),
    ],
)
def test_header_values_are_decoded(sent: str, read: str) -> None:
    assert event(subject=sent).key == read
    assert event(shop=sent).data["shop"] == read


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        ("%C0%A0", "not UTF-8"),
        ("%ED%A0%80", "not UTF-8"),
        ("50%", "encode a percent sign as %25"),
        ("%zz", "encode a percent sign as %25"),
        ("%+1", "encode a percent sign as %25"),
        ('"open', "without its end"),
        ('"', "without its end"),
        ('"a"b', "without its end"),
        ('"a\\"', "without its end"),
        ("\xe4", "not ASCII"),
        ("\xb2", "not ASCII"),
    ],
)
def test_an_ambiguous_header_value_is_refused(sent: str, words: str) -> None:
    for name in ("ce-id", "ce-shop"):
        found = fault(REQUIRED | {name: sent})
        assert found.field == name
        assert words in found.detail


@pytest.mark.parametrize(
    ("header", "value", "named", "words"),
    [
        ("ce-specversion", None, "ce-specversion", "require it"),
        ("ce-specversion", "0.3", "ce-specversion", 'version "1.0"'),
        ("ce-id", None, "ce-id", "require it"),
        ("ce-id", "", "ce-id", "require it"),
        ("ce-source", None, "ce-source", "require it"),
        ("ce-type", None, "ce-type", "require it"),
        ("ce-id", "x" * 201, "ce-id", "201 characters"),
        ("ce-id", "a%00b", "ce-id", "control character"),
        ("ce-type", "$x", "ce-type", "reserved"),
        ("ce-time", "yesterday", "ce-time", "RFC 3339"),
        ("ce-time", "2090-01-01T00:00:00Z", "ce-time", "in the future"),
        ("ce-subject", "", "ce-subject", "empty"),
        ("ce-subject", "x" * 201, "ce-subject", "201 characters"),
        ("ce-key", "__other__", "ce-key", "reserved"),
        ("ce-data", "{}", "ce-data", "the body is the data"),
        ("ce-$x", "1", "ce-$x", "reserved"),
        ("ce-", "1", "ce-", "needs a name"),
    ],
)
def test_a_fault_names_its_header(header: str, value: str | None, named: str, words: str) -> None:
    headers = {name: text for name, text in (REQUIRED | {header: value}).items() if text is not None}
    found = fault(headers)
    assert found.field == named
    assert words in found.detail


def test_a_fault_of_the_data_names_its_member() -> None:
    assert fault(REQUIRED, '{"$x":1}').field == "$x"
    assert fault(REQUIRED, '{"specversion":1e999}').field == "specversion"
    assert fault(REQUIRED, '{"id":1e999}').field == "data.id"
    with pytest.raises(InvalidBatch, match="not JSON"):
        parse_binary(b"{", JSON, REQUIRED, now=NOW)
    with pytest.raises(TooLarge):
        parse_binary(b"{}", JSON, REQUIRED, now=NOW, limits=Limits(body=1))


def test_the_body_wins_in_structured_mode() -> None:
    """The binding allows copies of the attributes in the headers; only the body counts."""
    sent = {"specversion": "1.0", "id": "body", "source": "s", "type": "t", "data": {"n": 1}}
    for media_type in (CLOUDEVENT, "Application/CloudEvents+JSON; charset=utf-8"):
        parsed = EventReader().read("t", json.dumps(sent).encode(), media_type, now=NOW, ce_headers=REQUIRED)
        assert parsed.batch.ids == ["body"]
    with pytest.raises(UnsupportedMediaType):
        EventReader().read("t", b"{}", "application/cloudevents+avro", now=NOW, ce_headers=REQUIRED)
