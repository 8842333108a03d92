"""``/v1/topics/{topic}/stats``: the statistics of its windows, once or as a stream."""

from __future__ import annotations

import time
from typing import Any

import gevent
from flask import Blueprint, Response, request

from pushsvc.broker import Log
from pushsvc.cursor import Position, encode
from pushsvc.errors import InvalidParameter
from pushsvc.hub import Selection, StatisticsQuery, statistics_stream
from pushsvc.settings import TopicSettings
from pushsvc.stats.window import Window
from pushsvc.topic import check_topic
from pushsvc.web.context import Context
from pushsvc.web.parameters import FORMATS, Parameters, choose_format
from pushsvc.web.responses import json_response, stream_response, text_response

_PARAMETERS = ("format", "window", "key", "field", "shape")
_STREAM_ONLY = ("last_event_id", "heartbeat")
_SNAPSHOT_ONLY = ("top", "by", "at_least")
_WAIT, _LOOK = 5.0, 0.02


def blueprint(context: Context) -> Blueprint:
    resource = Blueprint("stats", __name__, url_prefix="/v1/topics/<topic>/stats")

    @resource.get("")
    def read(topic: str) -> Response:
        check_topic(topic)
        parameters = Parameters(request, (*_PARAMETERS, *_STREAM_ONLY, *_SNAPSHOT_ONLY))
        chosen = choose_format(request, parameters, ("sse", "json", "csv"))
        settings = context.rules.settings_of(topic)
        windows = _windows(settings, parameters)
        logs = tuple(Log(topic, window.name) for window in windows)
        if chosen == "sse":
            parameters.refuse(_SNAPSHOT_ONLY, "not supported on a stream yet")
            query = StatisticsQuery(
                logs,
                _selection(settings, parameters),
                cursor=request.headers.get("Last-Event-ID") or parameters.text("last_event_id") or None,
                visible_heartbeat=parameters.choice("heartbeat", ("comment", "event"), "comment") == "event",
                heartbeat=context.heartbeat,
            )
            return stream_response(statistics_stream(context.hub, query))
        parameters.refuse(_STREAM_ONLY, "belongs to streams")
        return _snapshot(context, logs, parameters, chosen)

    return resource


def _windows(settings: TopicSettings, parameters: Parameters) -> tuple[Window, ...]:
    name = parameters.text("window")
    if name is None:
        return settings.windows[:1]
    if name == "*":
        return settings.windows
    window = settings.window(name)
    if window is None:
        names = ", ".join(window.name for window in settings.windows)
        raise InvalidParameter("window", f"{name!r} is none of this topic's windows: {names}, or * for all")
    return (window,)


def _selection(settings: TopicSettings, parameters: Parameters) -> Selection:
    keys, fields = parameters.texts("key"), parameters.texts("field")
    return Selection(
        keys=frozenset(key or None for key in keys) if keys else None,
        fields=frozenset(field or None for field in fields) if fields else None,
        records=parameters.choice("shape", ("rows", "records"), "rows") == "records",
        top=parameters.integer("top", None, 1, 10_000),
        by=parameters.choice("by", settings.ranked, "count"),
    )


def _snapshot(context: Context, logs: tuple[Log, ...], parameters: Parameters, chosen: str) -> Response:
    selection = _selection(context.rules.settings_of(logs[0].topic), parameters)
    frames, tag = _frames(context, logs, selection, parameters.integer("at_least", None, 1, 2**53))
    if chosen == "csv":
        response = text_response(_csv(frames), FORMATS["csv"])
    else:
        every_window = parameters.text("window") == "*"
        response = json_response({"windows": frames} if every_window else frames[0], Vary="Accept")
    response.headers["Cache-Control"] = "no-cache"
    response.set_etag(tag if chosen == "json" else f"{tag}-{chosen}")
    response.make_conditional(request)
    return response


def _frames(
    context: Context, logs: tuple[Log, ...], selection: Selection, at_least: int | None
) -> tuple[list[dict[str, Any]], str]:
    """Return a frame per window and their cursor; wait until the event at offset ``at_least`` is counted in all."""
    if at_least is not None:
        _wait_until_counted(context, logs, at_least)
    found = [context.hub.mirror(log) for log in logs]
    frames = []
    for mirror, _, _, owned in found:
        frame = selection.apply(mirror.snapshot())
        frame["at"] = context.now()
        frame["exists"] = mirror.exists
        if not owned:
            frame["stale"] = True
        frames.append(frame)
    _, epoch, _, owned = found[0]
    # The partition's sequence moves with every topic of it: the tag is that of the last entry of these logs.
    sequence = max((mirror.recent[-1].sequence for mirror, *_ in found if mirror.recent), default=0)
    return frames, encode({logs[0].partition: Position(epoch, sequence)}) + ("" if owned else "-stale")


def _wait_until_counted(context: Context, logs: tuple[Log, ...], offset: int) -> None:
    """Ask for the figures beside the logs, which cost little however large the statistics are."""
    deadline = time.monotonic() + _WAIT
    while time.monotonic() < deadline:
        if all(int(figures.get("source", 0)) >= offset for figures in context.broker.figures(logs)):
            return
        gevent.sleep(_LOOK)


def _csv(frames: list[dict[str, Any]]) -> str:
    """Return rows of all windows, with a column ``scope``: ``key``, ``all`` (totals) or ``events`` (counts)."""
    from pushsvc.table import frames_to_table, table_to_csv  # pandas is loaded when first needed

    return table_to_csv(frames_to_table(frames))
