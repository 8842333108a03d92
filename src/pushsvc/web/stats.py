"""``/v1/topics/{topic}/stats``: the statistics of a topic's windows, once or as a stream."""

from collections.abc import Callable, Iterator
from contextlib import closing
from hashlib import blake2b
from itertools import chain
from typing import Any

import orjson
from flask import Blueprint, Response, request
from werkzeug.datastructures import MultiDict

from pushsvc.auth.grants import Action, Grants
from pushsvc.broker.keys import Log
from pushsvc.cursor import Position, encode
from pushsvc.errors import InvalidParameter, NoStatistics, NotGranted
from pushsvc.frame import Row
from pushsvc.hub.query import Query
from pushsvc.hub.streams import QueryStream
from pushsvc.hub.window_state import Selection
from pushsvc.pause import Pause
from pushsvc.settings import TopicSettings
from pushsvc.stats.window import Window
from pushsvc.table import frames_to_csv
from pushsvc.topic import check_topic, is_pattern
from pushsvc.web.authorization import granted
from pushsvc.web.context import Context
from pushsvc.web.long_requests import client_of
from pushsvc.web.memory.answer import GrowingAnswer
from pushsvc.web.parameters import FORMATS, Parameters, choose_format, cursor_of, is_spreadsheet_safe
from pushsvc.web.responses import of_suffix, stream_response, text_response
from pushsvc.web.windows import ReadWindow, read_stored_windows, stored_bytes, wait_current, wait_until_counted

_PARAMETERS = ("format", "window", "key", "field", "shape", "top", "by")
_STREAM_ONLY = ("last_event_id", "heartbeat", "every")
_OF_SUBSCRIPTIONS = ("window", "key", "field", "shape", "top", "by", "every")
_SNAPSHOT_ONLY = ("at_least",)
_CSV_ONLY = ("formulas",)
EVERY = (0.1, 3_600.0)
"""Least and greatest number of seconds between updates that a stream may ask for."""


def blueprint(context: Context) -> Blueprint:
    resource = Blueprint("stats", __name__, url_prefix="/v1/topics/<topic>")

    @resource.get("/stats")
    @resource.get("/stats.<any(json, csv):suffix>")
    def read(topic: str, suffix: str | None = None) -> Response:
        settings, parameters = _parameters(context, topic, request.args, suffix)
        chosen = choose_format(request, parameters, ("sse", "json", "csv"), suffix)
        if chosen == "sse":
            last_event_id = request.headers.get("Last-Event-ID")
            return stream_response(_stream(context, topic, settings, parameters, last_event_id, granted()))
        logs = tuple(Log(topic, window.name) for window in _windows(settings, parameters))
        parameters.refuse(_STREAM_ONLY, "belongs to streams")
        parameters.refuse(_CSV_ONLY if chosen != "csv" else (), "belongs to CSV")
        return of_suffix(_snapshot(context, logs, parameters, chosen), suffix)

    return resource


def _parameters(
    context: Context, topic: str, args: MultiDict[str, str], suffix: str | None = None
) -> tuple[TopicSettings, Parameters]:
    settings = context.rules.settings_of(check_topic(topic))
    if not settings.windows:
        raise NoStatistics(topic)
    csv_only = _CSV_ONLY if suffix in (None, "csv") else ()
    return settings, Parameters(args, (*_PARAMETERS, *_SNAPSHOT_ONLY, *csv_only, *(() if suffix else _STREAM_ONLY)))


def open_stream(
    context: Context, grants: Grants, topic: str, args: MultiDict[str, str], last_event_id: str | None
) -> QueryStream:
    """Return the stream that the view would answer with. Raise PushError where it would refuse. The grants cover the
    topic, for some key at least."""
    return _stream(context, topic, *_parameters(context, topic, args), last_event_id, grants)


def _stream(
    context: Context, topic: str, settings: TopicSettings, parameters: Parameters, last_event_id: str | None,
    grants: Grants,
) -> QueryStream:  # fmt: skip
    windows = tuple(window.name for window in _windows(settings, parameters))
    parameters.refuse(_CSV_ONLY, "belongs to CSV")
    parameters.refuse(_SNAPSHOT_ONLY, "a stream sends every update at once, so there is nothing to wait for")
    query = Query(
        statistics=(topic,),
        windows=windows,
        selection=_selection(topic, settings, parameters, grants),
        every=parameters.duration("every", *EVERY),
        visible_heartbeat=parameters.choice("heartbeat", ("comment", "event"), "comment") == "event",
    )
    return QueryStream(context.hub, query, cursor_of(last_event_id, parameters))


def subscription(context: Context, grants: Grants, name: str, args: MultiDict[str, str]) -> Query:
    """Return the query of a subscription to the statistics of a topic or pattern. Raise PushError where it is
    refused."""
    parameters = Parameters(args, _OF_SUBSCRIPTIONS)
    every = parameters.duration("every", *EVERY)
    if not is_pattern(name):
        settings = context.rules.settings_of(name)
        if not settings.windows:
            raise NoStatistics(name)
        windows = tuple(window.name for window in _windows(settings, parameters))
        selection = _selection(name, settings, parameters, grants)
        return Query(statistics=(name,), windows=windows, selection=selection, every=every)
    parameters.refuse(("top", "by"), "belongs to the statistics of one topic")
    return Query(
        statistics=(name,),
        windows=tuple(dict.fromkeys(parameters.texts("window"))),
        selection=Selection(
            keys=chosen(parameters, "key"),
            fields=chosen(parameters, "field"),
            records=parameters.choice("shape", ("rows", "records"), "rows") == "records",
        ),
        every=every,
        topics=context.limits.topics,
        visible=None if grants.subscribe.includes(name) else grants.subscribe,
    )


def _windows(settings: TopicSettings, parameters: Parameters) -> tuple[Window, ...]:
    name = parameters.text("window")
    if name is None:
        return settings.windows[:1]
    if name == "*":
        return settings.windows
    window = settings.window(name)
    if window is None:
        names = ", ".join(window.name for window in settings.windows)
        raise InvalidParameter("window", f"{name!r} is not a window of this topic: choose one of {names}, or * for all")
    return (window,)


def _selection(topic: str, settings: TopicSettings, parameters: Parameters, grants: Grants) -> Selection:
    lifetime = any(window.is_lifetime for window in _windows(settings, parameters))
    ranked = (settings.lifetime or settings) if lifetime else settings
    selection = Selection(
        keys=chosen(parameters, "key"),
        fields=chosen(parameters, "field"),
        records=parameters.choice("shape", ("rows", "records"), "rows") == "records",
        top=parameters.integer("top", None, 1, 10_000),
        by=parameters.choice("by", ranked.rankable, "count"),
    )
    limit = grants.keys(Action.SUBSCRIBE, topic)
    if limit is None:
        return selection
    check_grouped_by_key(topic, settings)
    return selection.within(limit)


def check_grouped_by_key(topic: str, settings: TopicSettings) -> None:
    """Refuse statistics that a limit to keys does not divide."""
    if not settings.is_grouped_by_key:
        raise NotGranted(f"{topic} is granted for some keys only, and its statistics are not grouped by key")


def chosen(parameters: Parameters, name: str) -> frozenset[str | None] | None:
    """Return the values of a repeatable parameter, an empty one as None; None without any."""
    return frozenset(text or None for text in parameters.texts(name)) or None


def _snapshot(context: Context, logs: tuple[Log, ...], parameters: Parameters, chosen: str) -> Response:
    topic = logs[0].topic
    selection = _selection(topic, context.rules.settings_of(topic), parameters, granted())
    at_least = parameters.integer("at_least", None, 1, 2**53)
    safe = chosen == "csv" and is_spreadsheet_safe(request, parameters)
    client = client_of(request)
    if at_least is not None:
        wait_until_counted(context.broker, logs, at_least)
    stale = wait_current(context.broker, logs)
    size = stored_bytes(context.broker, logs)
    answer = GrowingAnswer(context.memory, client.address)
    with context.long.reading_statistics(client, size) as pause, closing(answer):
        windows = read_stored_windows(context.broker, logs, stale, pause)
        snapshots = _Snapshots(windows, selection, context.now, pause)
        if chosen == "csv":
            pieces = frames_to_csv(snapshots.tables(), pause, safe=safe)
        else:
            pieces = snapshots.json(every_window=parameters.text("window") == "*")
        for piece in pieces:
            answer.add(piece)
        response = text_response(answer.bytes(), FORMATS[chosen])
    response.headers["Cache-Control"] = "no-cache"
    tag = snapshots.tag(logs[0].partition) + "-safe" * safe
    response.set_etag(tag if chosen == "json" else f"{tag}-{chosen}")
    response.make_conditional(request)
    return response


class _Snapshots:
    """The selected rows of the windows of one answer, read while the answer is made.

    The tag of a limited selection is a digest of the answer: rows of other keys do not change it.
    """

    def __init__(
        self, windows: Iterator[ReadWindow], selection: Selection, now: Callable[[], int], pause: Pause
    ) -> None:
        self._windows = windows
        self._selection = selection
        self._now = now
        self._pause = pause
        self._read: list[tuple[int, int, bool]] = []  # of each window: epoch, sequence, and whether it is stale
        self._content = blake2b(digest_size=12) if selection.limited else None

    def tag(self, partition: int) -> str:
        """Return what identifies the answer, once it is made."""
        if self._content is not None:
            return self._content.hexdigest()
        epoch, _, stale = self._read[0]
        # Every topic of the partition advances its sequence, so the tag uses the last entry of these logs.
        sequence = max(sequence for _, sequence, _ in self._read)
        return encode({partition: Position(epoch, sequence)}) + ("-stale" if stale else "")

    def _frames(self) -> Iterator[tuple[dict[str, Any], Iterator[list[Row]]]]:
        """Yield for each window a frame without rows, and its rows in slices."""
        for window in self._windows:
            stored = window.stored
            self._read.append((window.epoch, stored.sequence, window.stale))
            frame = self._selection.apply(stored.snapshot())
            frame["exists"] = stored.exists
            if window.stale:
                frame["stale"] = True
            rows = stored.rows(self._selection, self._pause)
            if self._content is not None:
                self._content.update(orjson.dumps({**frame, "at": None}))
                rows = self._tagged(rows)
            frame["at"] = self._now()
            yield frame, rows

    def _tagged(self, slices: Iterator[list[Row]]) -> Iterator[list[Row]]:
        """Yield the same rows, and let the tag tell of them."""
        for rows in slices:
            if self._content is not None:
                self._content.update(orjson.dumps(rows))
            yield rows

    def tables(self) -> Iterator[dict[str, Any]]:
        for frame, slices in self._frames():
            yield frame | {"data": chain.from_iterable(slices)}

    def json(self, *, every_window: bool) -> Iterator[bytes]:
        """Yield the answer in pieces."""
        if every_window:
            yield b'{"windows":['
        for number, (frame, slices) in enumerate(self._frames()):
            names = list(frame)
            before, after = names[: names.index("data")], names[names.index("data") + 1 :]
            yield b"," * (number > 0) + orjson.dumps({name: frame[name] for name in before})[:-1]
            yield b',"data":['
            columns, comma = frame["columns"], b""
            for rows in slices:
                if rows:
                    shaped = [dict(zip(columns, row, strict=True)) for row in rows] if self._selection.records else rows
                    yield comma + orjson.dumps(shaped)[1:-1]
                    comma = b","
            yield b"]," + orjson.dumps({name: frame[name] for name in after})[1:]
        if every_window:
            yield b"]}"
