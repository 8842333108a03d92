"""``/v1/topics/{topic}/latest``: the newest event of each key, once or as a stream."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from hashlib import blake2b
from typing import Any

import orjson
from flask import Blueprint, Response, request
from werkzeug.datastructures import MultiDict

from pushsvc.auth.grants import Action, Grants
from pushsvc.broker.latest import LatestEvents
from pushsvc.errors import InvalidParameter, NoLatest
from pushsvc.event import Event
from pushsvc.hub.messages import latest_document
from pushsvc.hub.query import LatestQuery
from pushsvc.hub.streams import LatestStream
from pushsvc.pause import Pause
from pushsvc.settings import TopicSettings
from pushsvc.table import EventTable, TooManyCells
from pushsvc.topic import check_topic
from pushsvc.web.authorization import granted
from pushsvc.web.context import Context
from pushsvc.web.long_requests import client_of
from pushsvc.web.memory.answer import CountedBytes, GrowingAnswer
from pushsvc.web.parameters import FORMATS, Parameters, choose_format, cursor_of, is_spreadsheet_safe
from pushsvc.web.responses import of_suffix, stream_response, text_response

_PARAMETERS = ("format", "key")
_STREAM_ONLY = ("last_event_id", "heartbeat")
_CSV_ONLY = ("formulas",)
_MOST_KEYS = 100  # that a request names


def blueprint(context: Context) -> Blueprint:
    resource = Blueprint("latest", __name__, url_prefix="/v1/topics/<topic>")

    @resource.get("/latest")
    @resource.get("/latest.<any(json, csv):suffix>")
    def read(topic: str, suffix: str | None = None) -> Response:
        settings, parameters = _parameters(context, topic, request.args, suffix)
        chosen = choose_format(request, parameters, ("sse", "json", "csv"), suffix)
        if chosen == "sse":
            last_event_id = request.headers.get("Last-Event-ID")
            return stream_response(_stream(context, topic, parameters, last_event_id, granted()))
        parameters.refuse(_STREAM_ONLY, "belongs to streams")
        parameters.refuse(_CSV_ONLY if chosen != "csv" else (), "belongs to CSV")
        query = _query(context, topic, parameters, granted())
        return of_suffix(_snapshot(context, query, settings, parameters, chosen), suffix)

    return resource


def _parameters(
    context: Context, topic: str, args: MultiDict[str, str], suffix: str | None = None
) -> tuple[TopicSettings, Parameters]:
    settings = context.rules.settings_of(check_topic(topic))
    if not settings.latest:
        raise NoLatest(topic)
    csv_only = _CSV_ONLY if suffix in (None, "csv") else ()
    return settings, Parameters(args, (*_PARAMETERS, *csv_only, *(() if suffix else _STREAM_ONLY)))


def open_stream(
    context: Context, grants: Grants, topic: str, args: MultiDict[str, str], last_event_id: str | None
) -> LatestStream:
    """Return the stream that the view would answer with. Raise PushError where it would refuse. The grants cover the
    topic, for some key at least."""
    return _stream(context, topic, _parameters(context, topic, args)[1], last_event_id, grants)


def _stream(
    context: Context, topic: str, parameters: Parameters, last_event_id: str | None, grants: Grants
) -> LatestStream:
    parameters.refuse(_CSV_ONLY, "belongs to CSV")
    query = _query(context, topic, parameters, grants)
    return LatestStream(context.hub, query, cursor_of(last_event_id, parameters))


def subscription(context: Context, grants: Grants, topic: str, args: MultiDict[str, str]) -> LatestQuery:
    """Return the query of a subscription to the newest events of a topic. Raise PushError where it is refused."""
    if not context.rules.settings_of(topic).latest:
        raise NoLatest(topic)
    return _query(context, topic, Parameters(args, ("key",)), grants)


def _query(context: Context, topic: str, parameters: Parameters, grants: Grants) -> LatestQuery:
    """Return what a request asks for, within the keys that are granted."""
    asked, limit = parameters.texts("key"), grants.keys(Action.SUBSCRIBE, topic)
    if len(asked) > _MOST_KEYS:
        raise InvalidParameter("key", f"{len(asked)} keys, at most {_MOST_KEYS} are allowed")
    for key in asked:
        if not key or len(key) > context.limits.key:
            raise InvalidParameter("key", f"{key[:50]!r}: a key has 1 to {context.limits.key} characters")
    keys = frozenset(asked) if asked else None
    if limit is not None:
        keys = limit if keys is None else limit & keys
    visible_heartbeat = parameters.choice("heartbeat", ("comment", "event"), "comment") == "event"
    return LatestQuery(topic, keys, limited=limit is not None, visible_heartbeat=visible_heartbeat)


def _snapshot(
    context: Context, query: LatestQuery, settings: TopicSettings, parameters: Parameters, chosen: str
) -> Response:
    client = client_of(request)
    safe = chosen == "csv" and is_spreadsheet_safe(request, parameters)
    answer = GrowingAnswer(context.memory, client.address)
    with _read(context, query, settings) as (found, pause), closing(answer):
        if chosen == "csv":
            for piece in _table(context, _rows(query, found, pause), safe=safe).pieces():
                answer.add(piece)
                pause()
        else:
            events = map(orjson.dumps, _rows(query, found, pause))
            for piece in latest_document(query.topic, events, None if query.limited else found.evicted):
                answer.add(piece)
        body = answer.bytes()
    response = text_response(body, FORMATS[chosen])
    response.headers["Cache-Control"] = "no-cache"
    response.set_etag(blake2b(body, digest_size=12).hexdigest())
    response.make_conditional(request)
    return response


@contextmanager
def _read(context: Context, query: LatestQuery, settings: TopicSettings) -> Iterator[tuple[LatestEvents, Pause]]:
    """Give the selected events, whose bytes are counted meanwhile, and a pause. Those of a large topic wait for a
    seat."""
    client, store = client_of(request), context.broker.latest
    if query.keys is not None and len(query.keys) <= _MOST_KEYS:
        yield store.pick(query.topic, settings, query.keys), context.long.pauses(client.gone)
        return
    counted = CountedBytes(context.memory, client.address)
    with context.long.reading_statistics(client, store.size(query.topic)) as pause, closing(counted):
        found = store.read(query.topic, settings, pause=pause, on_size=counted.resize)
        if query.keys is not None:
            found.events = {key: event for key, event in found.events.items() if key in query.keys}
        yield found, pause


def _rows(query: LatestQuery, found: LatestEvents, pause: Pause) -> Iterator[dict[str, Any]]:
    """Yield the events in their public form."""
    for event in found.events.values():
        pause()
        yield Event.decode(event.line).public(query.topic, event.offset, event.arrival)


def _table(context: Context, rows: Iterator[dict[str, Any]], *, safe: bool) -> EventTable:
    table = EventTable(context.limits.cells, safe=safe)
    try:
        for row in rows:
            table.add(row)
    except TooManyCells as error:
        raise InvalidParameter(
            "format",
            f"a table has at most {context.limits.cells} cells, and {error.rows + 1} events have {error.columns} "
            "columns: ask for format=json, or name keys",
        ) from None
    return table
