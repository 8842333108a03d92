"""``/v1/topics/{topic}/events``: publish events, stream them, look them up."""

from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any
from urllib.parse import urlencode

import orjson
from flask import Blueprint, Response, request
from werkzeug.datastructures import MultiDict

from pushsvc.auth.grants import Action, Grants
from pushsvc.errors import InvalidParameter, NotGranted, UnsupportedMediaType
from pushsvc.event.cloudevents import HEADER_PREFIX
from pushsvc.hub.query import Query
from pushsvc.hub.streams import QueryStream
from pushsvc.table import EventTable, TooManyCells, blocks
from pushsvc.topic import check_topic, is_pattern
from pushsvc.web.authorization import granted
from pushsvc.web.context import Context
from pushsvc.web.export import Export
from pushsvc.web.filters import PARAMETERS as _OF_FILTERS
from pushsvc.web.filters import read_filter
from pushsvc.web.history import HistoryFilter, HistoryPage, PageRequest, read_page
from pushsvc.web.long_requests import client_of
from pushsvc.web.memory.answer import GrowingAnswer
from pushsvc.web.parameters import FORMATS, Parameters, choose_format, cursor_of, is_spreadsheet_safe
from pushsvc.web.publish import publish
from pushsvc.web.responses import begun_response, of_suffix, stream_response, text_response

_ATTRIBUTES = ("id", "key", "time", "type")
_STREAM_ONLY = ("last_event_id", "names", "heartbeat")
_HISTORY_ONLY = ("since", "until", "limit", "after", "before", "order", "last", "corrections")
_CSV_ONLY = ("formulas",)
_LIMIT, _MAX_LIMIT = 1_000, 10_000


def blueprint(context: Context) -> Blueprint:
    resource = Blueprint("events", __name__, url_prefix="/v1/topics/<topic>")

    @resource.post("/events")
    def post(topic: str) -> Response:
        return _publish(context, topic)

    @resource.get("/events")
    @resource.get("/events.<any(json, ndjson, csv):suffix>")
    def read(topic: str, suffix: str | None = None) -> Response:
        parameters = _parameters(context, topic, request.args, suffix)
        chosen = choose_format(request, parameters, ("sse", "json", "ndjson", "csv"), suffix)
        if chosen == "sse":
            last_event_id = request.headers.get("Last-Event-ID")
            return stream_response(_stream(context, topic, parameters, last_event_id, granted()))
        parameters.refuse(_STREAM_ONLY, "belongs to streams")
        parameters.refuse(_CSV_ONLY if chosen != "csv" else (), "belongs to CSV")
        return of_suffix(_history(context, topic, parameters, chosen), suffix)

    return resource


def _parameters(context: Context, topic: str, args: MultiDict[str, str], suffix: str | None = None) -> Parameters:
    check_topic(topic)
    csv_only = _CSV_ONLY if suffix in (None, "csv") else ()
    index = context.rules.settings_of(topic).index
    return Parameters(
        args, ("format", *_OF_FILTERS, *index, *_HISTORY_ONLY, *csv_only, *(() if suffix else _STREAM_ONLY))
    )


def open_stream(
    context: Context, grants: Grants, topic: str, args: MultiDict[str, str], last_event_id: str | None
) -> QueryStream:
    """Return the stream that the view would answer with. Raise PushError where it would refuse. The grants cover the
    topic, for some key at least."""
    return _stream(context, topic, _parameters(context, topic, args), last_event_id, grants)


def _stream(
    context: Context, topic: str, parameters: Parameters, last_event_id: str | None, grants: Grants
) -> QueryStream:
    parameters.refuse(_CSV_ONLY, "belongs to CSV")
    parameters.refuse(_HISTORY_ONLY, "belongs to history: a stream begins where its cursor is, and has no end")
    query = Query(
        events=(topic,),
        filter=read_filter(
            parameters, context.limits, grants.keys(Action.SUBSCRIBE, topic), context.rules.settings_of(topic).index
        ),
        named=parameters.choice("names", ("on", "off"), "on") == "on",
        visible_heartbeat=parameters.choice("heartbeat", ("comment", "event"), "comment") == "event",
    )
    return QueryStream(context.hub, query, cursor_of(last_event_id, parameters))


def subscription(context: Context, grants: Grants, name: str, args: MultiDict[str, str], *, named: bool) -> Query:
    """Return the query of a subscription to the events of a topic or pattern. Raise PushError where it is refused."""
    whole = is_pattern(name)
    index = () if whole else context.rules.settings_of(name).index
    parameters = Parameters(args, (*_OF_FILTERS, *index))
    if not whole:
        keys = grants.keys(Action.SUBSCRIBE, name)
        return Query(events=(name,), filter=read_filter(parameters, context.limits, keys, index), named=named)
    return Query(
        events=(name,),
        filter=read_filter(parameters, context.limits),
        named=named,
        topics=context.limits.topics,
        visible=None if grants.subscribe.includes(name) else grants.subscribe,
    )


def _publish(context: Context, topic: str) -> Response:
    check_topic(topic)
    parameters = Parameters(request.args, ("on_error", *_ATTRIBUTES))
    skip = parameters.choice("on_error", ("refuse", "skip"), "refuse") == "skip"
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("a compressed body is not supported")
    if request.mimetype != FORMATS["csv"]:
        parameters.refuse(_ATTRIBUTES, "names a CSV column, and this is not text/csv")
    columns = {name: column for name in _ATTRIBUTES if (column := parameters.text(name)) is not None}
    body = request.get_data(cache=False)
    key = request.headers.get("Idempotency-Key")
    return publish(
        context, topic, _content_type(context), body, skip=skip, columns=columns, ce_headers=_ce_headers(),
        idempotency_key=key, client=client_of(request), keys=granted().keys(Action.PUBLISH, topic), grants=granted(),
    ).to_flask()  # fmt: skip


def _content_type(context: Context) -> str:
    """Return the Content-Type of a publish request, with JSON in place of the text/plain of a page that may write.

    `fetch` with a text body and `navigator.sendBeacon` send text/plain. That is the simple request of a cross-site
    forgery: a browser sends it for a page of any site, without a preflight. So the request must have an Origin, and
    one that may write. Without an Origin nothing shows that no browser sent it, and text/plain is no format of events.
    """
    given = request.content_type or ""
    media_type, separator, parameters = given.partition(";")
    if media_type.strip().lower() != "text/plain" or "Origin" not in request.headers:
        return given
    context.security.check_origin(request)
    return FORMATS["json"] + separator + parameters


def _ce_headers() -> dict[str, str]:
    """Return the headers of the request that make it a CloudEvent, with names in lower case."""
    named = ((name.lower(), value) for name, value in request.headers.items())
    return {name: value for name, value in named if name.startswith(HEADER_PREFIX)}


class _JsonRows:
    """Events of a page, each encoded at once: they take a tenth of the memory of objects."""

    def __init__(self) -> None:
        self.rows: list[bytes] = []

    def add(self, event: Mapping[str, Any]) -> int:
        row = orjson.dumps(event)
        self.rows.append(row)
        return len(row)

    def reverse(self) -> None:
        self.rows.reverse()

    def pieces(self, separator: bytes) -> Iterator[bytes]:
        """Yield the events, some at a time, with a separator between two of them, and drop them meanwhile."""
        between = b""
        for block in blocks(self.rows):
            yield between + separator.join(block)
            between = separator


def _history(context: Context, topic: str, parameters: Parameters, chosen: str) -> Response:
    index = context.rules.settings_of(topic).index
    corrections = parameters.choice("corrections", ("current", "all"), "current") == "all"
    if corrections and granted().keys(Action.MANAGE, topic) is not None:
        raise NotGranted("corrections=all shows what was corrected and deleted: that takes a grant to manage the topic")
    selected = HistoryFilter(
        parameters.time("since"),
        parameters.time("until"),
        read_filter(parameters, context.limits, granted().keys(Action.SUBSCRIBE, topic), index),
        index,
        corrections,
    )
    safe = is_spreadsheet_safe(request, parameters)
    if parameters.text("limit") == "all":
        return _export(context, topic, selected, parameters, chosen, safe=safe)
    wanted = _page_request(parameters)
    rows = EventTable(context.limits.cells, safe=safe) if chosen == "csv" else _JsonRows()
    client = client_of(request)
    answer = GrowingAnswer(context.memory, client.address)
    with context.long.reading(client) as pause, closing(answer):
        try:
            page = read_page(context.broker, topic, selected, wanted, context.scan, rows, pause)
        except TooManyCells as error:
            raise InvalidParameter(
                "limit",
                f"a table has at most {context.limits.cells} cells, and {error.rows + 1} events have {error.columns} "
                f"columns: ask for at most {error.rows} events, or for format=ndjson",
            ) from None
        links = _Links(page, newest_first=wanted.newest_first)
        for piece in _pieces(page, links, rows, chosen):
            answer.add(piece)
            pause()
        response = text_response(answer.bytes(), FORMATS[chosen])
    if header := links.header(wanted.limit):
        response.headers["Link"] = header
    if page.first_kept is not None:
        response.headers["Pushsvc-Trimmed"] = str(page.first_kept)
    return response


def _export(
    context: Context, topic: str, selected: HistoryFilter, parameters: Parameters, chosen: str, *, safe: bool
) -> Response:
    """Return all events, in an answer that is made while it is sent."""
    if chosen == "json":
        raise InvalidParameter("limit", "all events come as NDJSON or CSV: ask for format=ndjson or format=csv")
    parameters.refuse(("after", "before", "order", "last"), "does not go together with limit=all")
    found = Export(context, topic, selected, client_of(request))
    return begun_response(found.table(safe=safe) if chosen == "csv" else found.lines(), FORMATS[chosen])


def _page_request(parameters: Parameters) -> PageRequest:
    """Return which page a request wants. ``last=n`` are the newest n events, the oldest of them first."""
    last = parameters.integer("last", None, 1, _MAX_LIMIT)
    if last is not None:
        parameters.refuse(("limit", "after", "before", "order"), "does not go together with last")
        return PageRequest(last, at_end=True)
    if parameters.text("after") is not None:
        parameters.refuse(("before",), "does not go together with after")
    newest_first = parameters.choice("order", ("asc", "desc"), "asc") == "desc"
    return PageRequest(
        parameters.integer("limit", _LIMIT, 1, _MAX_LIMIT) or _LIMIT, parameters.text("after"),
        parameters.text("before"), at_end=newest_first, newest_first=newest_first,
    )  # fmt: skip


class _Links:
    """The pages beside a page, in the order of its events: the parameter and the cursor of each, None without one."""

    def __init__(self, page: HistoryPage, *, newest_first: bool) -> None:
        newer, older = ("after", page.newer), ("before", page.older)
        self.next, self.prev = (older, newer) if newest_first else (newer, older)

    def header(self, limit: int) -> str:
        """Return the header Link; empty without pages. Its URLs are relative: a proxy may serve the app under a
        prefix."""
        kept = {name: values for name, values in request.args.lists() if name not in ("after", "before", "last")}
        if "last" in request.args:
            kept["limit"] = [str(limit)]
        found = []
        for rel, (name, cursor) in (("next", self.next), ("prev", self.prev)):
            if cursor is not None:
                found.append(f'<?{urlencode({**kept, name: cursor}, doseq=True)}>; rel="{rel}"')
        return ", ".join(found)


def _pieces(page: HistoryPage, links: _Links, rows: EventTable | _JsonRows, chosen: str) -> Iterator[bytes]:
    if isinstance(rows, EventTable):
        yield from rows.pieces()
        return
    if chosen == "ndjson":
        end = b"\n" if rows.rows else b""
        yield from rows.pieces(b"\n")
        yield end
        return
    trimmed = {} if page.first_kept is None else {"trimmed": True, "first_offset": page.first_kept}
    prev = {} if links.prev[1] is None else {"prev": links.prev[1]}
    rest = orjson.dumps({"next": links.next[1], **prev, **trimmed})
    yield b'{"events":['
    yield from rows.pieces(b",")
    yield b"]," + rest[1:]
