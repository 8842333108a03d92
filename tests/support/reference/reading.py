"""A body as the reader reads it, and as the parser alone reads it."""

from __future__ import annotations

from typing import Any

import orjson

from pushsvc.errors import PushError
from pushsvc.event import Batch, Event, EventReader, Limits, parse
from pushsvc.event.columns import ColumnReader
from pushsvc.event.shapes import LEARN_AFTER

NOW = 1_767_225_600_000  # 2026-01-01T00:00Z
JSON, NDJSON = "application/json", "application/x-ndjson"
LIMITS = Limits(batch=20, key=20, id=20, type=10, name=10, fields=4, depth=3, body=20_000)
USUAL = b'{"id":"i","type":"vote","key":"k","time":1767225600000,"a":1,"b":2,"c":3}'


def trained(limits: Limits = LIMITS, line: bytes = USUAL) -> EventReader:
    """Return a reader that has learned the events of the topic ``t``."""
    reader = EventReader(limits)
    for _ in range(LEARN_AFTER):
        reader.read("t", line, NDJSON, now=NOW)
    return reader


def seen(batch: Batch, lines: Any) -> Any:
    """Return all that readers of the log see of a batch, with exact types and bits."""
    events = [Event.decode(line) for line in batch.data.split(b"\n")] if batch.count else []
    public = [orjson.dumps(event.public("t", 1, NOW), option=orjson.OPT_SORT_KEYS) for event in events]
    columns = ColumnReader().read(batch.data) if batch.count else None
    fields = {
        name: (None if column.positions is None else column.positions.tolist(), column.values.tobytes())
        for name, column in (columns.fields if columns else {}).items()
    }
    times = None if batch.times is None else list(batch.times)
    return public, batch.count, batch.ids, times, list(lines), columns and columns.keys, fields


def fast(reader: EventReader, body: bytes, media_type: str) -> Any:
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
    return seen(Batch.from_events(parsed.events), parsed.lines), parsed.faults, parsed.more, parsed.rejected
