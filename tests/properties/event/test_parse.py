"""A valid event is stored and read unchanged; any bytes are events or are refused."""

from __future__ import annotations

import json
import string
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pushsvc.clock import format_time
from pushsvc.errors import InvalidBatch
from pushsvc.event import OVERFLOW_KEY, Event, parse

NOW = 1_767_225_600_000  # 2026-01-01T00:00Z
JSON, NDJSON, CSV = "application/json", "application/x-ndjson", "text/csv"
CLOUDEVENT, CLOUDEVENTS = "application/cloudevents+json", "application/cloudevents-batch+json"

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
keys = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=200).filter(OVERFLOW_KEY.__ne__)
names = st.text(string.ascii_letters, min_size=5, max_size=8)


@given(keys, keys, st.integers(10**11, NOW), st.dictionaries(names, values, max_size=5))
def test_an_accepted_event_is_stored_and_read_unchanged(id_: str, key: str, time: int, data: dict[str, Any]) -> None:
    sent = {"id": id_, "key": key, "time": time, **data}
    parsed = parse(json.dumps(sent).encode(), JSON, now=NOW)
    assert parsed.faults == []
    (event,) = parsed.events
    assert Event.decode(event.encode()) == event
    public = event.public("t", 1, NOW)
    assert public == {"$topic": "t", "$offset": 1, "type": "message", **sent, "time": format_time(time)}


@given(st.binary(max_size=60), st.sampled_from([JSON, NDJSON, CSV, CLOUDEVENT, CLOUDEVENTS]))
def test_any_body_is_parsed_or_refused(body: bytes, media_type: str) -> None:
    try:
        parsed = parse(body, media_type, now=NOW)
    except InvalidBatch:
        return
    for event in parsed.events:
        assert Event.decode(event.encode()) == event
