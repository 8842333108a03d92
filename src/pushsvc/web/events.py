"""``/v1/topics/{topic}/events``: publish, watch, look up."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import orjson
from flask import Blueprint, Response, request

from pushsvc.broker.keys import Log
from pushsvc.broker.log import EventsEntry
from pushsvc.cursor import Position, UnreadableCursor, decode, encode
from pushsvc.errors import InvalidParameter, UnsupportedMediaType
from pushsvc.event import Event
from pushsvc.hub.query import Query
from pushsvc.hub.streams import QueryStream
from pushsvc.topic import check_topic
from pushsvc.web.context import Context
from pushsvc.web.parameters import FORMATS, Parameters, choose_format, cursor_of
from pushsvc.web.publish import publish
from pushsvc.web.responses import json_response, stream_response, text_response

_ATTRIBUTES = ("id", "key", "time", "type")
_STREAM_ONLY = ("last_event_id", "names", "heartbeat")
_HISTORY_ONLY = ("since", "until", "type", "key", "where", "limit", "after")
_LIMIT, _MOST = 1_000, 10_000
_SCAN = 200_000
"""Events that one history request looks at, at most; ``next`` leads on from there."""

_SCAN_BYTES = 32_000_000
"""Bytes of the log that one history request looks at, at most (and one entry more)."""


def blueprint(context: Context) -> Blueprint:
    resource = Blueprint("events", __name__, url_prefix="/v1/topics/<topic>/events")

    @resource.post("")
    def post(topic: str) -> Response:
        return _publish(context, topic)

    @resource.get("")
    def read(topic: str) -> Response:
        check_topic(topic)
        parameters = Parameters(request, ("format", *_STREAM_ONLY, *_HISTORY_ONLY))
        chosen = choose_format(request, parameters, ("sse", "json", "ndjson", "csv"))
        if chosen == "sse":
            parameters.refuse(_HISTORY_ONLY, "not supported on a stream yet")
            return stream_response(
                QueryStream(context.hub, _stream_query(topic, parameters), cursor_of(request, parameters))
            )
        parameters.refuse(_STREAM_ONLY, "belongs to streams")
        return _history(context, topic, parameters, chosen)

    return resource


# Publishing


def _publish(context: Context, topic: str) -> Response:
    check_topic(topic)
    parameters = Parameters(request, ("on_error", *_ATTRIBUTES))
    skip = parameters.choice("on_error", ("refuse", "skip"), "refuse") == "skip"
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("a compressed body is not supported")
    if request.mimetype != FORMATS["csv"]:
        parameters.refuse(_ATTRIBUTES, "names a CSV column, and this is not text/csv")
    columns = {name: column for name in _ATTRIBUTES if (column := parameters.text(name)) is not None}
    body = request.get_data(cache=False)
    key = request.headers.get("Idempotency-Key")
    return publish(
        context, topic, request.content_type or "", body, skip=skip, columns=columns, idempotency_key=key
    ).response()


# Watching


def _stream_query(topic: str, parameters: Parameters) -> Query:
    return Query(
        events=(topic,),
        named=parameters.choice("names", ("on", "off"), "on") == "on",
        visible_heartbeat=parameters.choice("heartbeat", ("comment", "event"), "comment") == "event",
    )


# Looking up


@dataclass(frozen=True, slots=True)
class _Filter:
    """Which events of the log a history request wants."""

    since: int | None
    until: int | None
    type: str | None
    key: str | None
    conditions: tuple[Callable[[Event], bool], ...]

    def wants(self, event: Event, arrival: int) -> bool:
        time = arrival if event.time is None else event.time
        return (
            (self.since is None or time >= self.since)
            and (self.until is None or time < self.until)
            and (self.type is None or event.type == self.type)
            and (self.key is None or event.key == self.key)
            and all(condition(event) for condition in self.conditions)
        )


def _history(context: Context, topic: str, parameters: Parameters, chosen: str) -> Response:
    wanted = _Filter(
        parameters.time("since"), parameters.time("until"), parameters.text("type"), parameters.text("key"),
        tuple(_condition(text) for text in parameters.texts("where")),
    )  # fmt: skip
    limit = parameters.integer("limit", _LIMIT, 1, _MOST) or _LIMIT
    page = _page(context, topic, wanted, limit, parameters.text("after"))
    response = _rendered(page, chosen)
    if page.next is not None:
        query = urlencode({**request.args.to_dict(flat=False), "after": page.next}, doseq=True)
        response.headers["Link"] = f'<{request.path}?{query}>; rel="next"'
    if page.first_kept is not None:
        response.headers["Pushsvc-Trimmed"] = str(page.first_kept)
    return response


@dataclass(slots=True)
class _Page:
    """Events in order of offset, and the cursor of the next page if there may be one.

    ``first_kept`` is the offset from which on the log is kept, where events behind the page before are no more.
    """

    events: list[dict[str, Any]]
    next: str | None = None
    first_kept: int | None = None


def _rendered(page: _Page, chosen: str) -> Response:
    events = page.events
    if chosen == "json":
        gone = {} if page.first_kept is None else {"trimmed": True, "first_offset": page.first_kept}
        return json_response({"events": events, "next": page.next, **gone}, Vary="Accept")
    if chosen == "ndjson":
        return text_response(b"".join(orjson.dumps(event) + b"\n" for event in events), FORMATS["ndjson"])
    from pushsvc.table import events_to_table, table_to_csv  # pandas is loaded when first needed

    return text_response(table_to_csv(events_to_table(events)), FORMATS["csv"])


def _page(context: Context, topic: str, wanted: _Filter, limit: int, after: str | None) -> _Page:
    log = Log(topic)
    sequence, epoch = _after(after, log)
    offset = context.broker.seek_sequence(topic, sequence) if sequence else 0
    page = _Page(found := [])
    seen = sequence
    scanned = size = 0
    while True:
        read = context.broker.read(log.partition, {log: offset})
        if epoch is not None and read.epoch != epoch:
            raise InvalidParameter("after", "the cursor is from before a restart of Redis; begin again without it")
        logged = read.logs[log]
        if 0 < seen < logged.trimmed:
            page.first_kept = logged.entries[0].first if logged.entries else logged.last + 1
        for entry in logged.entries:
            offset, seen = entry.last, entry.sequence
            for event_sequence, public in _wanted(entry, topic, wanted, sequence):
                found.append(public)
                if len(found) == limit:
                    end = event_sequence == entry.sequence and entry.last == logged.last
                    page.next = None if end else encode({log.partition: Position(read.epoch, event_sequence)})
                    return page
            scanned += entry.last - entry.first + 1
            size += len(entry.data)
            if (scanned >= _SCAN or size >= _SCAN_BYTES) and entry.last < logged.last:
                page.next = encode({log.partition: Position(read.epoch, entry.sequence)})
                return page
        if not logged.more:
            return page


def _after(after: str | None, log: Log) -> tuple[int, int | None]:
    if after is None:
        return 0, None
    try:
        position = decode(after)[log.partition]
    except (UnreadableCursor, KeyError):
        raise InvalidParameter("after", "not a cursor of this topic's history") from None
    return position.sequence, position.epoch


def _wanted(entry: EventsEntry, topic: str, wanted: _Filter, after: int) -> Iterator[tuple[int, dict[str, Any]]]:
    for offset, event in enumerate(entry.events, entry.first):
        sequence = entry.sequence_of(offset)
        if sequence > after and wanted.wants(event, entry.arrival):
            yield sequence, event.public(topic, offset, entry.arrival)


_CONDITION = re.compile(r"([^=!<>]+)(!=|<=|>=|=|<|>)(.*)\Z", re.DOTALL)
_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


def _condition(text: str) -> Callable[[Event], bool]:
    """Return the test that ``rating<3`` or ``dish=soup`` spells. A number compares with numbers, text with text."""
    found = _CONDITION.match(text)
    if not found:
        raise InvalidParameter("where", f"{text!r} is not a field, one of = != < <= > >=, and a value")
    name, operator, spelled = found.groups()
    value = _value(spelled)
    if operator in ("=", "!="):
        return lambda event: (_same(event.data.get(name), value)) is (operator == "=")
    if isinstance(value, bool):
        raise InvalidParameter("where", f"{text!r}: true and false have no order")
    compare = _ORDER[operator]
    return lambda event: _comparable(event.data.get(name), value) and compare(event.data[name], value)


def _value(spelled: str) -> Any:
    try:
        value = orjson.loads(spelled)
    except orjson.JSONDecodeError:
        return spelled
    return value if isinstance(value, str | int | float | bool) else spelled


def _same(given: Any, value: Any) -> bool:
    return isinstance(given, bool) == isinstance(value, bool) and bool(given == value)


def _comparable(given: Any, value: Any) -> bool:
    if isinstance(given, bool):
        return False
    return isinstance(given, str) if isinstance(value, str) else isinstance(given, int | float)
