"""``/v1/topics``: which topics there are, and the figures of one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from threading import Lock
from typing import Any

import gevent
import orjson
from flask import Blueprint, Response, request

from pushsvc import sse
from pushsvc.broker import Log
from pushsvc.clock import format_time
from pushsvc.errors import PushError
from pushsvc.hub.frames import OPENING
from pushsvc.hub.hub import DRAINING, farewell
from pushsvc.topic import check_topic
from pushsvc.web.context import Context
from pushsvc.web.parameters import Parameters, choose_format
from pushsvc.web.responses import json_response, open_ended

_REFRESH = 2.0


def blueprint(context: Context) -> Blueprint:
    resource = Blueprint("topics", __name__, url_prefix="/v1/topics")
    shared = _Shared(context)

    @resource.get("")
    def list_topics() -> Response:
        parameters = Parameters(request, ("format",))
        if choose_format(request, parameters, ("sse", "json")) == "sse":
            return open_ended(_stream(context, shared))
        return json_response({"topics": _topics(context)}, Vary="Accept")

    @resource.get("/<topic>")
    def figures(topic: str) -> Response:
        Parameters(request, ())
        return json_response(_figures(context, check_topic(topic)))

    @resource.delete("/<topic>")
    def delete(topic: str) -> Response:
        Parameters(request, ())
        context.broker.delete(check_topic(topic))
        return Response(status=204)

    return resource


def _topics(context: Context) -> list[dict[str, Any]]:
    created = context.broker.topics()
    found = context.broker.figures([Log(topic) for topic in created])
    return [_described(context, topic, figures) for topic, figures in zip(created, found, strict=True)]


def _described(context: Context, topic: str, figures: dict[str, str]) -> dict[str, Any]:
    """Return the figures of one topic as they are published."""
    exists = "created" in figures
    return {
        "topic": topic,
        "exists": exists,
        "first_offset": int(figures["first"]) if exists else None,
        "last_offset": int(figures["last"]) if exists else None,
        "since": format_time(int(figures["created"])) if exists else None,
        "last_arrival": format_time(int(figures["arrival"])) if exists else None,
        "late": int(figures.get("late", 0)),
        "refused": int(figures.get("refused", 0)),
        "last_refusal": figures.get("last_refusal"),
        "windows": [window.name for window in context.rules.settings_of(topic).windows],
    }


def _figures(context: Context, topic: str) -> dict[str, Any]:
    [figures] = context.broker.figures([Log(topic)])
    described = _described(context, topic, figures)
    described["rates"] = {name: _rate(context, Log(topic, name)) for name in described["windows"]}
    return described


def _rate(context: Context, log: Log) -> float | None:
    """Return the events per second of a window, None before it has any statistics."""
    frame = context.hub.mirror(log)[0].snapshot()
    rate = next((row[3] for row in frame["data"] if row[0] is None and row[1] is None), None)
    return None if rate is None else float(rate)


class _Shared:
    """The list of topics for all streams of the process: Redis is asked once per refresh, however many watch."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lock = Lock()
        self._read_at = 0.0
        self._topics: list[dict[str, Any]] = []

    def topics(self) -> list[dict[str, Any]]:
        with self._lock:
            if time.monotonic() - self._read_at > _REFRESH / 2:
                self._topics = _topics(self._context)
                self._read_at = time.monotonic()
            return self._topics


def _stream(context: Context, shared: _Shared) -> Iterator[bytes]:
    """Yield the list at once, and again whenever it has changed."""
    yield OPENING
    sent: list[Any] | None = None
    silence = 0.0
    while not context.hub.draining:
        try:
            topics = shared.topics()
        except PushError as error:
            if sent is None:
                break
            yield sse.comment(error.title)
        else:
            # Not with every event: the list is sent when topics come, go or begin anew.
            listed = [(topic["topic"], topic["since"]) for topic in topics]
            if listed != sent:
                sent, silence = listed, 0.0
                yield sse.encode(orjson.dumps({"topics": topics}), event="topics")
        gevent.sleep(_REFRESH)
        silence += _REFRESH
        if silence >= context.hub.heartbeat:
            silence = 0.0
            yield sse.comment("heartbeat")
    yield farewell("Redis is not reachable" if sent is None else DRAINING)
