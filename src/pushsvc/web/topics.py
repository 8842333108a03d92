"""``/v1/topics``: which topics there are, and the figures of one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from itertools import chain
from typing import Any

import orjson
from flask import Blueprint, Response, request

from pushsvc import sse
from pushsvc.broker.keys import Log
from pushsvc.clock import format_time
from pushsvc.hub.streams import ListingStream
from pushsvc.hub.window_state import read_window
from pushsvc.settings import TopicSettings
from pushsvc.topic import check_topic
from pushsvc.web.context import Context
from pushsvc.web.parameters import Parameters, choose_format
from pushsvc.web.responses import json_response, stream_response

_PART = 100
"""Topics that are described at once, in about 3 ms: of thousands all streams would feel it."""


def blueprint(context: Context) -> Blueprint:
    resource = Blueprint("topics", __name__, url_prefix="/v1/topics")

    @resource.get("")
    def list_topics() -> Response:
        parameters = Parameters(request, ("format",))
        if choose_format(request, parameters, ("sse", "json")) == "sse":
            return stream_response(ListingStream(context.hub, "topics", partial(_look, context)))
        return _begun(_listed(context, list(context.broker.topics())))

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


def _listed(context: Context, names: Sequence[str]) -> Iterator[bytes]:
    """Yield a JSON object with the figures of topics, in pieces."""
    head = b'{"topics":['
    for start in range(0, len(names), _PART):
        part = names[start : start + _PART]
        figures = context.broker.metadata([Log(topic) for topic in part])
        described = [_described(context, topic, values) for topic, values in zip(part, figures, strict=True)]
        yield head + orjson.dumps(described)[1:-1]
        head = b","
    yield b"]}" if names else head + b"]}"


def _begun(pieces: Iterator[bytes]) -> Response:
    """Return a response of JSON, once its first piece is there: what hinders mostly hinders that."""
    begun = chain([next(pieces)], pieces)
    return Response(begun, content_type="application/json", headers={"Cache-Control": "no-store", "Vary": "Accept"})


def _described(context: Context, topic: str, figures: dict[str, str]) -> dict[str, Any]:
    """Return the figures of one topic as they are published."""
    exists = "created" in figures
    return {
        "topic": topic,
        "exists": exists,
        "first_offset": int(figures["first"]) if exists else None,
        "last_offset": int(figures["last"]) if exists else None,
        "bytes": int(figures.get("bytes", 0)) if exists else None,
        "since": format_time(int(figures["created"])) if exists else None,
        "last_arrival": format_time(int(figures["arrival"])) if exists else None,
        "late": int(figures.get("late", 0)),
        "refused": int(figures.get("refused", 0)),
        "last_refusal": figures.get("last_refusal"),
        "windows": _names_of(context.rules.settings_of(topic)),
    }


@lru_cache(1_000)
def _names_of(settings: TopicSettings) -> list[str]:
    return [window.name for window in settings.windows]


def _figures(context: Context, topic: str) -> dict[str, Any]:
    [figures] = context.broker.metadata([Log(topic)])
    described = _described(context, topic, figures)
    described["rates"] = {name: _rate(context, Log(topic, name)) for name in described["windows"]}
    return described


def _rate(context: Context, log: Log) -> float | None:
    """Return the events per second of a window, None before it has any statistics."""
    frame = read_window(context.broker, log).state.snapshot()
    rate = next((row[3] for row in frame["data"] if row[0] is None and row[1] is None), None)
    return None if rate is None else float(rate)


def _look(context: Context, known: Any) -> tuple[Any, bytes] | None:
    """Return the list as a message. It is sent when topics came, went or began anew, not with every event."""
    created = context.broker.topics()
    if created == known:
        return None
    return created, sse.encode(b"".join(_listed(context, list(created))), event="topics")
