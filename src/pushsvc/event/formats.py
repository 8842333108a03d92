"""Parses request bodies in JSON, NDJSON, CSV and CloudEvents to events."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from io import BytesIO
from types import MappingProxyType
from typing import Any

from pushsvc.errors import Fault, InvalidBatch, InvalidParameter, TooLarge, UnsupportedMediaType
from pushsvc.event import csv_rows
from pushsvc.event.model import ATTRIBUTES, Event, Limits
from pushsvc.event.strictjson import NotJson, load
from pushsvc.event.validator import EventValidator, InvalidEvent

MAX_FAULTS = 100  # faults that are listed; further ones are only counted
JSON = "application/json"
NDJSON = "application/x-ndjson"
CSV = "text/csv"
CLOUDEVENT = "application/cloudevents+json"
CLOUDEVENTS = "application/cloudevents-batch+json"

BOM = b"\xef\xbb\xbf"
NO_COLUMNS: Mapping[str, str] = MappingProxyType({})
_LIMITS = Limits()

Items = Iterator[tuple[int, Any]]
"""The line and the value of each event; an InvalidEvent instead of a value that cannot be read."""


@dataclass(slots=True)
class ParsedEvents:
    """The valid events of a body with the line of each, and the faults of ``rejected`` others.

    ``more`` counts the faults beyond the first MAX_FAULTS.
    """

    events: list[Event] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    more: int = 0
    rejected: int = 0

    def refuse(self, fault: Fault) -> None:
        """Add an invalid event."""
        self.rejected += 1
        if len(self.faults) < MAX_FAULTS:
            self.faults.append(fault)
        else:
            self.more += 1


def parse(
    body: bytes, media_type: str, *, now: int, columns: Mapping[str, str] = NO_COLUMNS, limits: Limits = _LIMITS
) -> ParsedEvents:
    """Return the events of a body; ``now`` in ms bounds their times, ``columns`` maps attributes to CSV columns.

    Raise UnsupportedMediaType, TooLarge (bytes or events), InvalidParameter (a missing column) and InvalidBatch (the
    body is empty or unreadable as a whole). An invalid event does not raise: it is in ``ParsedEvents.faults``.
    """
    media_type = plain_media_type(media_type)
    if len(body) > limits.body:
        raise TooLarge(f"a request body has at most {limits.body} bytes: send several requests")
    if columns and media_type != CSV:
        raise InvalidParameter(next(iter(columns)), f"this names a column, but only {CSV} has columns")
    body = body.removeprefix(BOM)
    if not body.strip():
        raise InvalidBatch([Fault(1, None, "the body is empty")])
    if media_type == NDJSON and body.count(b"\n") >= limits.batch:
        _check_lines(body, limits.batch)
    items = csv_rows.read(body, columns) if media_type == CSV else _READERS[media_type](body)
    return _validate_all(items, EventValidator(now, limits))


def guess_media_type(body: bytes) -> str:
    """Return NDJSON or JSON for a body without a media type: the first line of NDJSON is a complete object."""
    first, _, rest = body.removeprefix(BOM).strip().partition(b"\n")
    return NDJSON if rest and first.startswith(b"{") and first.rstrip().endswith(b"}") else JSON


@lru_cache(256)
def plain_media_type(text: str) -> str:
    """Return the media type of a Content-Type header; raise UnsupportedMediaType."""
    media_type, *parameters = (part.strip().lower() for part in text.split(";"))
    charset = next((part[8:].strip('"') for part in parameters if part.startswith("charset=")), "utf-8")
    if charset not in ("utf-8", "utf8", "us-ascii"):
        raise UnsupportedMediaType(f"charset {charset!r} is not supported: send UTF-8")
    if media_type in ("", "application/x-www-form-urlencoded"):
        return JSON  # the default of `curl -d`
    if media_type != CSV and media_type not in _READERS:
        raise UnsupportedMediaType(
            f"{media_type!r} is not a format of events; the formats are {', '.join((*_READERS, CSV))}"
        )
    return media_type


def _validate_all(items: Items, validator: EventValidator) -> ParsedEvents:
    parsed = ParsedEvents()
    events, most = parsed.events, validator.limits.batch
    for line, item in items:
        if len(events) + parsed.rejected == most:
            raise _too_many(most)
        try:
            if type(item) is InvalidEvent:
                raise item
            events.append(validator.validate(item))
            parsed.lines.append(line)
        except InvalidEvent as refused:
            parsed.refuse(Fault(line, refused.field, refused.detail))
    if not events and not parsed.rejected:
        raise InvalidBatch([Fault(1, None, "the body has no events")])
    return parsed


def _check_lines(body: bytes, most: int) -> None:
    """Refuse too many lines before any is read: reporting the faults of all would take long."""
    if sum(not line.isspace() for line in BytesIO(body)) > most:
        raise _too_many(most)


def _too_many(most: int) -> TooLarge:
    return TooLarge(f"more than {most} events in one request: send several requests")


def _load_whole(body: bytes) -> Any:
    try:
        return load(body)
    except NotJson as error:
        raise InvalidBatch([Fault(error.line, None, _not_json(error))]) from None


def _not_json(error: NotJson) -> str:
    return f"not JSON, at column {error.column}: {error.detail}"


def _read_json(body: bytes) -> Items:
    value = _load_whole(body)
    return iter(enumerate(value, 1)) if type(value) is list else iter([(1, value)])


def _read_ndjson(body: bytes) -> Items:
    for number, line in enumerate(BytesIO(body), 1):
        if line := line.strip():
            try:
                yield number, load(line)
            except NotJson as error:
                yield number, InvalidEvent(None, _not_json(error))


def _read_cloudevent(body: bytes) -> Items:
    value = _load_whole(body)
    if type(value) is list:
        raise InvalidBatch([Fault(1, None, f"one event is expected, but this is an array: send it as {CLOUDEVENTS}")])
    yield 1, _flatten(value)


def _read_cloudevents(body: bytes) -> Items:
    value = _load_whole(body)
    if type(value) is not list:
        raise InvalidBatch([Fault(1, None, f"not an array: send a single event as {CLOUDEVENT}")])
    for number, item in enumerate(value, 1):
        yield number, _flatten(item)


_READERS: Mapping[str, Callable[[bytes], Items]] = {
    JSON: _read_json,
    NDJSON: _read_ndjson,
    CLOUDEVENT: _read_cloudevent,
    CLOUDEVENTS: _read_cloudevents,
}


def _flatten(item: Any) -> Any:
    """Return a CloudEvent (v1.0, JSON format) as a flat event, or an InvalidEvent; other values stay as they are."""
    if type(item) is not dict:
        return item
    if item.pop("specversion", None) != "1.0":
        return InvalidEvent("specversion", 'only version "1.0" of CloudEvents is supported')
    for name in ("id", "source", "type"):
        if type(item.get(name)) is not str or not item[name]:
            return InvalidEvent(name, "CloudEvents require it, as text")
    if "data_base64" in item:
        return InvalidEvent("data_base64", "binary data is not supported: send `data` as a JSON object")
    subject, data = item.pop("subject", None), item.pop("data", None)
    if subject is not None:
        if "key" in item:
            return InvalidEvent("key", "the event has a subject too, and both would be the key")
        item["key"] = subject
    # These describe the format of `data`, which is always JSON here.
    item.pop("datacontenttype", None)
    item.pop("dataschema", None)
    return _join(item, data)


def _join(context: dict[str, Any], data: Any) -> dict[str, Any]:
    if type(data) is dict:
        inside = {f"data.{name}" if name in context or name in ATTRIBUTES else name: data[name] for name in data}
        return context | inside
    return context if data is None else context | {"data": data}
