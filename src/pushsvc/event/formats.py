"""Parses request bodies in JSON, NDJSON, CSV and CloudEvents to events."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from io import BytesIO
from types import MappingProxyType
from typing import Any

from pushsvc.errors import Fault, InvalidBatch, InvalidParameter, TooLarge, UnsupportedMediaType
from pushsvc.event import csv_rows
from pushsvc.event.cloudevents import flatten, header_of, join, read_headers
from pushsvc.event.model import Event, Limits
from pushsvc.event.strictjson import (
    MOST_SLOW,
    MOST_WHOLE,
    NotJson,
    at_most_values,
    has_more_values,
    load,
    load_elements,
)
from pushsvc.event.validator import EventValidator, InvalidEvent
from pushsvc.pause import Pause, no_pause

MAX_FAULTS = 100  # faults that are listed; further ones are only counted
JSON = "application/json"
NDJSON = "application/x-ndjson"
CSV = "text/csv"
CLOUDEVENT = "application/cloudevents+json"
CLOUDEVENTS = "application/cloudevents-batch+json"

_UNNAMED = frozenset({"", "application/x-www-form-urlencoded"})
"""What `curl -d` sends if no Content-Type is given. It is read as JSON."""

BOM = b"\xef\xbb\xbf"
NO_COLUMNS: Mapping[str, str] = MappingProxyType({})
NO_HEADERS: Mapping[str, str] = MappingProxyType({})
_LIMITS = Limits()

Items = Iterator[tuple[int, Any]]
"""The line and the value of each event; an InvalidEvent instead of a value that cannot be read."""

Take = Callable[[Event], None]


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
    body: bytes, media_type: str, *, now: int, columns: Mapping[str, str] = NO_COLUMNS, limits: Limits = _LIMITS,
    pause: Pause = no_pause, take: Take | None = None,
) -> ParsedEvents:  # fmt: skip
    """Return the events of a body; ``now`` in ms bounds their times, ``columns`` maps attributes to CSV columns.

    With ``take`` each event is passed to it as it is read, and ``ParsedEvents.events`` stays empty.
    ``pause`` is called at least once for each event. Raise UnsupportedMediaType, TooLarge (bytes, events or values),
    InvalidParameter (a missing column) and InvalidBatch (the body is empty or unreadable as a whole). An invalid event
    does not raise: it is in ``ParsedEvents.faults``.
    """
    media_type = plain_media_type(media_type)
    _check_size(body, limits)
    if columns and media_type != CSV:
        raise InvalidParameter(next(iter(columns)), f"this names a column, but only {CSV} has columns")
    body = body.removeprefix(BOM)
    if not body.strip():
        raise InvalidBatch([Fault(1, None, "the body is empty")])
    if media_type in (NDJSON, CSV) and body.count(b"\n") + body.count(b"\r") > limits.request_values:
        raise TooLarge(f"more than {limits.request_values} lines in one request: send several requests")
    if media_type == NDJSON and body.count(b"\n") >= limits.batch:
        _check_lines(body, limits.batch, pause)
    items = (
        csv_rows.read(body, columns, limits, pause) if media_type == CSV else _READERS[media_type](body, limits, pause)
    )
    return _validate_all(items, EventValidator(now, limits), pause, take)


def parse_binary(
    body: bytes, media_type: str, headers: Mapping[str, str], *, now: int, limits: Limits = _LIMITS,
    pause: Pause = no_pause,
) -> ParsedEvents:  # fmt: skip
    """Return the event of a CloudEvent in binary mode: ``headers`` are its attributes, the body is its data.

    The errors are those of ``parse``. The field of a fault is the header if the fault is in a header.
    """
    _check_data_type(media_type)
    _check_size(body, limits)
    parsed = ParsedEvents()
    try:
        context = read_headers(headers)
        body = body.removeprefix(BOM)
        data = _load_whole(body, limits, pause) if body.strip() else None
        if type(data) is InvalidEvent:
            raise data
        try:
            event = EventValidator(now, limits).validate(join(context, data))
        except InvalidEvent as refused:
            raise InvalidEvent(header_of(refused.field, context, headers), refused.detail) from None
        parsed.events.append(event)
        parsed.lines.append(1)
    except InvalidEvent as refused:
        parsed.refuse(Fault(1, refused.field, refused.detail))
    return parsed


def guess_media_type(body: bytes) -> str:
    """Return NDJSON or JSON for a body without a media type: the first line of NDJSON is a complete object."""
    first, _, rest = body.removeprefix(BOM).strip().partition(b"\n")
    return NDJSON if rest and first.startswith(b"{") and first.rstrip().endswith(b"}") else JSON


@lru_cache(256)
def plain_media_type(text: str) -> str:
    """Return the media type of a Content-Type header; raise UnsupportedMediaType."""
    media_type = _utf8_media_type(text)
    if media_type in _UNNAMED:
        return JSON
    if media_type != CSV and media_type not in _READERS:
        raise UnsupportedMediaType(
            f"{media_type!r} is not a format of events; the formats are {', '.join((*_READERS, CSV))}"
        )
    return media_type


def _utf8_media_type(text: str) -> str:
    """Return the media type of a Content-Type header without parameters; refuse every charset but UTF-8."""
    media_type, *parameters = (part.strip().lower() for part in text.split(";"))
    charset = next((part[8:].strip('"') for part in parameters if part.startswith("charset=")), "utf-8")
    if charset not in ("utf-8", "utf8", "us-ascii"):
        raise UnsupportedMediaType(f"charset {charset!r} is not supported: send UTF-8")
    return media_type


def _check_data_type(text: str) -> None:
    """Refuse the Content-Type of a CloudEvent in binary mode whose data is not JSON."""
    media_type = _utf8_media_type(text)
    if media_type not in _UNNAMED and not media_type.endswith(("/json", "+json")):
        raise UnsupportedMediaType(
            f"Content-Type {media_type!r}: the data of a CloudEvent must be JSON, such as {JSON}; "
            "the headers ce-* make this request a CloudEvent"
        )


def _check_size(body: bytes, limits: Limits) -> None:
    if len(body) > limits.body:
        raise TooLarge(f"a request body has at most {limits.body} bytes: send several requests")


def _validate_all(items: Items, validator: EventValidator, pause: Pause, take: Take | None) -> ParsedEvents:
    parsed = ParsedEvents()
    lines, most = parsed.lines, validator.limits.batch
    take = take or parsed.events.append
    for line, item in items:
        pause()
        if len(lines) + parsed.rejected == most:
            raise _too_many(most)
        try:
            if type(item) is InvalidEvent:
                raise item
            take(validator.validate(item))
            lines.append(line)
        except InvalidEvent as refused:
            parsed.refuse(Fault(line, refused.field, refused.detail))
    if not lines and not parsed.rejected:
        raise InvalidBatch([Fault(1, None, "the body has no events")])
    return parsed


def _check_lines(body: bytes, most: int, pause: Pause) -> None:
    """Refuse too many lines before any is read: reporting the faults of all would take long."""
    lines = 0
    for line in BytesIO(body):
        pause()
        lines += not line.isspace()
        if lines > most:
            raise _too_many(most)


def _too_many(most: int) -> TooLarge:
    return TooLarge(f"more than {most} events in one request: send several requests")


def _too_many_values(limits: Limits) -> TooLarge:
    return TooLarge(f"more than {limits.request_values} values in one request: send several requests")


def _load_event(raw: bytes, limits: Limits, pause: Pause) -> Any:
    """Return the value of one event, or an InvalidEvent if it has too many values; raise NotJson."""
    if has_more_values(raw, limits.values, pause):
        return InvalidEvent(None, f"more than {limits.values} values, counted on all levels of nesting")
    pause()
    return load(raw, pause)


def _load_whole(body: bytes, limits: Limits, pause: Pause) -> Any:
    """Return the value of a body that is one event, or an InvalidEvent; raise InvalidBatch."""
    try:
        return _load_event(body, limits, pause)
    except NotJson as error:
        raise _broken(error) from None


def _broken(error: NotJson) -> InvalidBatch:
    return InvalidBatch([Fault(error.line, None, _not_json(error))])


def _not_json(error: NotJson) -> str:
    return f"not JSON, at column {error.column}: {error.detail}"


def _read_values(body: bytes, limits: Limits, pause: Pause) -> tuple[bool, Items]:
    """Return whether a body is an array, and its elements or its one value; raise InvalidBatch and TooLarge."""
    pause()
    if len(body) <= MOST_WHOLE and at_most_values(body) <= min(MOST_SLOW, limits.values):
        value = _load_whole(body, limits, pause)
        return type(value) is list, iter(enumerate(value, 1) if type(value) is list else [(1, value)])
    if has_more_values(body, limits.request_values, pause):
        raise _too_many_values(limits)
    if body.lstrip()[:1] != b"[":
        return False, iter([(1, _load_whole(body, limits, pause))])
    return True, _read_elements(body, limits, pause)


def _read_elements(body: bytes, limits: Limits, pause: Pause) -> Items:
    try:
        yield from load_elements(body, lambda raw: _load_event(raw, limits, pause), pause)
    except NotJson as error:
        raise _broken(error) from None


def _read_json(body: bytes, limits: Limits, pause: Pause) -> Items:
    return _read_values(body, limits, pause)[1]


def _read_ndjson(body: bytes, limits: Limits, pause: Pause) -> Items:
    if has_more_values(body, limits.request_values, pause):
        raise _too_many_values(limits)
    for number, line in enumerate(BytesIO(body), 1):
        pause()
        if line := line.strip():
            try:
                yield number, _load_event(line, limits, pause)
            except NotJson as error:
                yield number, InvalidEvent(None, _not_json(error))


def _read_cloudevent(body: bytes, limits: Limits, pause: Pause) -> Items:
    is_array, items = _read_values(body, limits, pause)
    if is_array:
        raise InvalidBatch([Fault(1, None, f"one event is expected, but this is an array: send it as {CLOUDEVENTS}")])
    yield from ((number, flatten(item)) for number, item in items)


def _read_cloudevents(body: bytes, limits: Limits, pause: Pause) -> Items:
    is_array, items = _read_values(body, limits, pause)
    if not is_array:
        raise InvalidBatch([Fault(1, None, f"not an array: send a single event as {CLOUDEVENT}")])
    yield from ((number, flatten(item)) for number, item in items)


_READERS: Mapping[str, Callable[[bytes, Limits, Pause], Items]] = {
    JSON: _read_json,
    NDJSON: _read_ndjson,
    CLOUDEVENT: _read_cloudevent,
    CLOUDEVENTS: _read_cloudevents,
}
