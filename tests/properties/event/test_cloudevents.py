"""A CloudEvent is the same event in both modes; any headers and body are an event or are refused."""

from __future__ import annotations

import json
import string
from typing import Any
from urllib.parse import quote

from hypothesis import given
from hypothesis import strategies as st

from pushsvc.errors import InvalidBatch
from pushsvc.event import Event, parse
from pushsvc.event.formats import CLOUDEVENT, JSON, parse_binary

NOW = 1_767_225_600_000  # 2026-01-01T00:00Z
REQUIRED = {"ce-specversion": "1.0", "ce-id": "a", "ce-source": "s", "ce-type": "t"}

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
attributes = st.dictionaries(
    st.sampled_from(["id", "source", "type", "subject", "key", "time", "dataschema"])
    | st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=10),
    texts,
    max_size=6,
)
bodies = st.none() | st.integers(-9, 9) | texts | st.dictionaries(texts, st.integers(-9, 9) | texts, max_size=4)


@given(attributes, bodies, st.booleans())
def test_both_modes_give_the_same_event(given_: dict[str, str], data: Any, quoted: bool) -> None:
    sent = {"specversion": "1.0", "id": "a", "source": "s", "type": "t"} | given_ | {"data": data}
    headers = {f"ce-{name}": quote(value, safe="/:") for name, value in sent.items() if name != "data"}
    if quoted:
        headers = {name: f'"{value}"' for name, value in headers.items()}
    structured = parse(json.dumps(sent).encode(), CLOUDEVENT, now=NOW)
    binary = parse_binary(json.dumps(data).encode(), JSON, headers, now=NOW)
    assert binary.events == structured.events
    assert [fault.detail for fault in binary.faults] == [fault.detail for fault in structured.faults]


@given(
    st.dictionaries(st.text(max_size=9).map("ce-{}".format), st.text(max_size=30), max_size=5), st.binary(max_size=30)
)
def test_any_headers_are_read_or_refused(headers: dict[str, str], body: bytes) -> None:
    try:
        parsed = parse_binary(body, JSON, REQUIRED | headers, now=NOW)
    except InvalidBatch:
        return
    assert len(parsed.events) + len(parsed.faults) == 1
    for event in parsed.events:
        assert Event.decode(event.encode()) == event
