"""``/v1/topics``: the list of topics, and the metadata of one."""

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


def blueprint(context: Context) -> Blueprint:
    resource = Blueprint("topics", __name__, url_prefix="/v1/topics")

    @resource.get("")
    def list_topics() -> Response:
        parameters = Parameters(request, ("format",))
        if choose_format(request, parameters, ("sse", "json")) == "sse":
            return stream_response(ListingStream(context.hub, "topics", partial(poll_list, context)))
        return _begun(_list_pieces(context, list(context.broker.topics())))

    @resource.get("/<topic>")
    def metadata(topic: str) -> Response:
        Parameters(request, ())
        return json_response(_metadata(context, check_topic(topic)))

    @resource.delete("/<topic>")
    def delete(topic: str) -> Response:
        Parameters(request, ())
        context.broker.delete(check_topic(topic))
        return Response(status=204)

    return resource


def _list_pieces(context: Context, names: Sequence[str]) -> Iterator[bytes]:
    """Yield a JSON object with the metadata of topics, in pieces."""
    head = b'{"topics":['
    for start in range(0, len(names), context.described_topics):
        some = names[start : start + context.described_topics]
        stored = context.broker.metadata([Log(topic) for topic in some])
        described = [_describe(context, topic, fields) for topic, fields in zip(some, stored, strict=True)]
        yield head + orjson.dumps(described)[1:-1]
        head = b","
    yield b"]}" if names else head + b"]}"


def _begun(pieces: Iterator[bytes]) -> Response:
    """Return a JSON response after its first piece was read: most failures happen there, before the head is sent."""
    begun = chain([next(pieces)], pieces)
    return Response(begun, content_type="application/json", headers={"Cache-Control": "no-store", "Vary": "Accept"})


def _describe(context: Context, topic: str, stored: dict[str, str]) -> dict[str, Any]:
    """Return the public metadata of one topic from its stored fields."""
    exists = "created" in stored
    return {
        "topic": topic,
        "exists": exists,
        "first_offset": int(stored["first"]) if exists else None,
        "last_offset": int(stored["last"]) if exists else None,
        "bytes": int(stored.get("bytes", 0)) if exists else None,
        "since": format_time(int(stored["created"])) if exists else None,
        "last_arrival": format_time(int(stored["arrival"])) if exists else None,
        "late": int(stored.get("late", 0)),
        "refused": int(stored.get("refused", 0)),
        "last_refusal": stored.get("last_refusal"),
        "windows": _names_of(context.rules.settings_of(topic)),
    }


@lru_cache(1_000)
def _names_of(settings: TopicSettings) -> list[str]:
    return [window.name for window in settings.windows]


def _metadata(context: Context, topic: str) -> dict[str, Any]:
    [stored] = context.broker.metadata([Log(topic)])
    described = _describe(context, topic, stored)
    described["rates"] = {name: _rate(context, Log(topic, name)) for name in described["windows"]}
    return described


def _rate(context: Context, log: Log) -> float | None:
    """Return the events per second of a window; None before it has statistics."""
    frame = read_window(context.broker, log).state.snapshot()
    rate = next((row[3] for row in frame["data"] if row[0] is None and row[1] is None), None)
    return None if rate is None else float(rate)


def poll_list(context: Context, known: Any) -> tuple[Any, bytes] | None:
    """Return the topics with the list as a message; None while no topic was created, deleted or created again."""
    created = context.broker.topics()
    if created == known:
        return None
    return created, sse.encode(b"".join(_list_pieces(context, list(created))), event="topics")
