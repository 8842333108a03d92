"""``/v1/topics``: the list of topics, and the metadata of one."""

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache, partial
from heapq import nsmallest
from itertools import chain, islice
from typing import Any

import orjson
from flask import Blueprint, Response, request

from pushsvc import sse
from pushsvc.broker.keys import Log
from pushsvc.clock import format_time
from pushsvc.errors import InvalidParameter, StatisticsUnavailable
from pushsvc.hub.feed.topic_list import PartitionTopics, changes, in_order
from pushsvc.hub.streams import ListingStream
from pushsvc.hub.window_state import WindowState
from pushsvc.pause import Pause
from pushsvc.settings import TopicSettings
from pushsvc.topic import MAX_LENGTH, check_topic
from pushsvc.web.context import Context
from pushsvc.web.long_requests import client_of
from pushsvc.web.parameters import Parameters, choose_format
from pushsvc.web.responses import json_response, of_suffix, stream_response
from pushsvc.web.windows import read_windows

_OF_A_LIST = ("search", "limit")
_FOUND = 100
_MOST = 1_000


def blueprint(context: Context) -> Blueprint:
    resource = Blueprint("topics", __name__, url_prefix="/v1")

    @resource.get("/topics")
    @resource.get("/topics.<any(json):suffix>")
    def list_topics(suffix: str | None = None) -> Response:
        parameters = Parameters(request.args, ("format", *_OF_A_LIST, *(() if suffix else ("changes",))))
        as_changes = parameters.choice("changes", ("0", "1"), "0") == "1"
        if choose_format(request, parameters, ("sse", "json"), suffix) == "sse":
            parameters.refuse(_OF_A_LIST, "belongs to the list as JSON, and this is a stream")
            return stream_response(_stream(context, as_changes))
        parameters.refuse(("changes",), "belongs to the stream of the list")
        return of_suffix(_begun(_chosen(context, parameters)), suffix)

    @resource.get("/topics/<topic>")
    def metadata(topic: str) -> Response:
        Parameters(request.args, ())
        return json_response(_metadata(context, check_topic(topic)))

    @resource.delete("/topics/<topic>")
    def delete(topic: str) -> Response:
        Parameters(request.args, ())
        context.broker.delete(check_topic(topic))
        return Response(status=204)

    return resource


def _stream(context: Context, as_changes: bool) -> ListingStream:
    if as_changes:
        poll, describe = partial(poll_first, context), partial(describe_changes, context)
        return ListingStream(context.hub, "changes of topics", poll, describe)
    return ListingStream(context.hub, "topics", partial(poll_list, context))


def _chosen(context: Context, parameters: Parameters) -> Iterator[bytes]:
    """Yield all topics, or at most ``limit`` of those whose names contain ``search``, with the number of all such."""
    search, limit = parameters.text("search"), parameters.integer("limit", None, 1, _MOST)
    if search is not None and len(search) > MAX_LENGTH:
        raise InvalidParameter("search", f"longer than {MAX_LENGTH} characters: a topic cannot be")
    topics = context.hub.feed.topics.read()
    if search is not None:
        pause = context.long.pauses(client_of(request).gone)
        found, total = _matching(topics, search.lower(), limit or _FOUND, pause)
        return _list_pieces(context, found, total=total)
    if limit is not None:
        return _list_pieces(context, islice(in_order(topics), limit), total=_count(topics))
    return _list_pieces(context, in_order(topics))


def _count(topics: Iterable[PartitionTopics]) -> int:
    return sum(len(partition.names) for partition in topics)


def _matching(topics: Iterable[PartitionTopics], search: str, most: int, pause: Pause) -> tuple[list[str], int]:
    """Return at most some names that contain a text in lower case, and the number of all such: those that begin with
    it first, the text itself before. Pauses after each partition."""
    first: list[tuple[bool, bool, str]] = []
    total = 0
    for partition in topics:
        found = [(name.lower(), name) for name in partition.names]
        ranked = [(not low.startswith(search), low != search, name) for low, name in found if search in low]
        total += len(ranked)
        first = nsmallest(most, chain(first, ranked))
        pause()
    return [name for _, _, name in first], total


def _list_pieces(context: Context, names: Iterable[str], *, total: int | None = None) -> Iterator[bytes]:
    """Yield a JSON object with the metadata of topics, in pieces; a limited list has the ``total`` of the whole one."""
    end = b"]}" if total is None else b'],"total":%d}' % total
    head = begin = b'{"topics":['
    names = iter(names)
    while some := list(islice(names, context.described_topics)):
        yield head + orjson.dumps(_described(context, some))[1:-1]
        head = b","
    yield begin + end if head is begin else end


def _described(context: Context, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the public metadata of a few topics."""
    stored = context.broker.metadata([Log(topic) for topic in names])
    return [_describe(context, topic, fields) for topic, fields in zip(names, stored, strict=True)]


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
    described["rates"] = _rates(context, [Log(topic, name) for name in described["windows"]])
    return described


def _rates(context: Context, logs: Sequence[Log]) -> dict[str, float | None]:
    """Return the events per second of each window; None before it has statistics."""
    try:
        windows = read_windows(context.broker, logs)
    except StatisticsUnavailable:
        return dict.fromkeys((of.window or "" for of in logs), None)
    return {window.state.log.window or "": _rate(window.state) for window in windows}


def _rate(state: WindowState) -> float | None:
    frame = state.snapshot()
    rate = next((row[3] for row in frame["data"] if row[0] is None and row[1] is None), None)
    return None if rate is None else float(rate)


Topics = Sequence[PartitionTopics]


def poll_list(context: Context, known: Topics | None) -> tuple[Topics, bytes] | None:
    """Return the topics with the list as a message; None while no topic was created, deleted or created again."""
    topics = context.hub.feed.topics.read()
    if known is not None and not any(changes(known, topics)):
        return None
    return topics, sse.encode(b"".join(_list_pieces(context, in_order(topics))), event="topics")


def poll_first(context: Context, known: Topics | None) -> tuple[Topics, bytes] | None:
    """Return the topics with the first of them and their total as a message; None as ``poll_list``."""
    topics = context.hub.feed.topics.read()
    return None if known is not None and not any(changes(known, topics)) else (topics, _first_topics(context, topics))


def describe_changes(context: Context, before: Topics, after: Topics) -> bytes:
    """Return which topics were added and removed, as a message; a topic that was created again is both.

    If they are too many, return the first topics anew.
    """
    added, removed = changes(before, after)
    if len(added) + len(removed) > context.listed_topics:
        return _first_topics(context, after)
    data = {"added": _described(context, added), "removed": removed, "total": _count(after)}
    return sse.encode(orjson.dumps(data), event="changes")


def _first_topics(context: Context, topics: Topics) -> bytes:
    first = islice(in_order(topics), context.listed_topics)
    return sse.encode(b"".join(_list_pieces(context, first, total=_count(topics))), event="topics")
