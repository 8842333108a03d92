"""``/v1/topics``: the list of topics, and the metadata of one."""

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache, partial
from heapq import nsmallest
from itertools import chain, islice
from typing import Any

import orjson
from flask import Blueprint, Response, request
from werkzeug.datastructures import MultiDict

from pushsvc import sse
from pushsvc.auth.grants import Action, Grants
from pushsvc.broker.keys import Log
from pushsvc.clock import format_time
from pushsvc.errors import InvalidParameter, StatisticsUnavailable
from pushsvc.hub.feed.topic_list import PartitionTopics, changes, in_order
from pushsvc.hub.groups.listing import ListingQuery
from pushsvc.hub.streams import ListingStream
from pushsvc.hub.window_state import Selection
from pushsvc.pause import Pause
from pushsvc.settings import TopicSettings
from pushsvc.stats.rows import OTHER
from pushsvc.topic import MAX_LENGTH, check_topic
from pushsvc.web.authorization import granted
from pushsvc.web.context import Context
from pushsvc.web.long_requests import client_of
from pushsvc.web.parameters import FORMATS, Parameters, choose_format
from pushsvc.web.responses import begun_response, json_response, of_suffix, stream_response
from pushsvc.web.stored_window import StoredWindow
from pushsvc.web.visible_topics import EVERY_TOPIC, Topics, VisibleTopics
from pushsvc.web.windows import read_stored_windows, stored_bytes, wait_current

_OF_A_LIST = ("search", "limit")
_FOUND = 100
_MOST = 1_000
_HIDDEN = dict.fromkeys(("bytes", "last_arrival", "late", "refused", "last_refusal"))
"""Members that tell of all keys of a topic."""


def blueprint(context: Context) -> Blueprint:
    resource = Blueprint("topics", __name__, url_prefix="/v1")

    @resource.get("/topics")
    @resource.get("/topics.<any(json):suffix>")
    def list_topics(suffix: str | None = None) -> Response:
        parameters = Parameters(request.args, ("format", *_OF_A_LIST, *(() if suffix else ("changes",))))
        as_changes = parameters.choice("changes", ("0", "1"), "0") == "1"
        if choose_format(request, parameters, ("sse", "json"), suffix) == "sse":
            parameters.refuse(_OF_A_LIST, "belongs to the list as JSON, and this is a stream")
            return stream_response(ListingStream(context.hub, *_listing(context, granted(), as_changes)))
        parameters.refuse(("changes",), "belongs to the stream of the list")
        return of_suffix(begun_response(_chosen(context, parameters), FORMATS["json"]), suffix)

    @resource.get("/topics/<topic>")
    def metadata(topic: str) -> Response:
        Parameters(request.args, ())
        return json_response(_metadata(context, check_topic(topic), granted().keys(Action.SUBSCRIBE, topic)))

    @resource.delete("/topics/<topic>")
    def delete(topic: str) -> Response:
        Parameters(request.args, ())
        context.broker.delete(check_topic(topic))
        return Response(status=204)

    return resource


def subscription(context: Context, grants: Grants, args: MultiDict[str, str]) -> ListingQuery:
    """Return what a subscription to the list asks for. Raise PushError where it is refused."""
    return _listing(context, grants, Parameters(args, ("changes",)).choice("changes", ("0", "1"), "0") == "1")


def _listing(context: Context, grants: Grants, as_changes: bool) -> ListingQuery:
    """Return the list of the topics that the grants allow to see. Requests that may see the same share it."""
    visible = VisibleTopics(grants.subscribe)
    if as_changes:
        poll, describe = (
            partial(poll_first, context, visible=visible),
            partial(describe_changes, context, visible=visible),
        )
        return ListingQuery(("changes of topics", visible.shared_by), poll, describe)
    return ListingQuery(("topics", visible.shared_by), partial(poll_list, context, visible=visible))


def _chosen(context: Context, parameters: Parameters) -> Iterator[bytes]:
    """Yield all topics, or at most ``limit`` of those whose names contain ``search``, with the number of all such."""
    search, limit = parameters.text("search"), parameters.integer("limit", None, 1, _MOST)
    if search is not None and len(search) > MAX_LENGTH:
        raise InvalidParameter("search", f"longer than {MAX_LENGTH} characters: a topic cannot be")
    visible, pause = VisibleTopics(granted().subscribe), context.long.pauses(client_of(request).gone)
    topics = visible.read(context.hub.feed.topics, pause)
    if search is not None:
        found, total = _matching(topics, search.lower(), limit or _FOUND, pause)
        return _list_pieces(context, found, visible, total=total)
    if limit is not None:
        return _list_pieces(context, islice(in_order(topics), limit), visible, total=_count(topics))
    return _list_pieces(context, in_order(topics), visible)


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


def _list_pieces(
    context: Context, names: Iterable[str], visible: VisibleTopics, *, total: int | None = None
) -> Iterator[bytes]:
    """Yield a JSON object with the metadata of topics, in pieces; a limited list has the ``total`` of the whole one."""
    end = b"]}" if total is None else b'],"total":%d}' % total
    head = begin = b'{"topics":['
    names = iter(names)
    while some := list(islice(names, context.described_topics)):
        yield head + orjson.dumps(_described(context, some, visible))[1:-1]
        head = b","
    yield begin + end if head is begin else end


def _described(context: Context, names: Sequence[str], visible: VisibleTopics) -> list[dict[str, Any]]:
    """Return the public metadata of a few topics."""
    stored = context.broker.metadata([Log(topic) for topic in names])
    return [
        _describe(context, topic, fields, limited=visible.is_limited(topic))
        for topic, fields in zip(names, stored, strict=True)
    ]


def _describe(context: Context, topic: str, stored: dict[str, str], *, limited: bool) -> dict[str, Any]:
    """Return the public metadata of one topic from its stored fields.

    Where the request is ``limited`` to some keys, figures of all keys are None. Offsets are no secret.
    """
    exists = "created" in stored
    described = {
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
    return described | _HIDDEN if limited else described


@lru_cache(1_000)
def _names_of(settings: TopicSettings) -> list[str]:
    return [window.name for window in settings.windows]


def _metadata(context: Context, topic: str, keys: frozenset[str] | None) -> dict[str, Any]:
    """Return the metadata of a topic with its rates: those of ``keys`` together, None for all."""
    [stored] = context.broker.metadata([Log(topic)])
    described = _describe(context, topic, stored, limited=keys is not None)
    if keys is not None and not context.rules.settings_of(topic).is_grouped_by_key:
        described["rates"] = dict.fromkeys(described["windows"], None)
    else:
        described["rates"] = _rates(context, [Log(topic, name) for name in described["windows"]], keys)
    return described


def _rates(context: Context, logs: Sequence[Log], keys: frozenset[str] | None) -> dict[str, float | None]:
    """Return the events per second of each window; None before it has statistics.

    The rows of a large topic are read as for its statistics: in slices, with a seat.
    """
    if not logs:
        return {}
    try:
        stale = wait_current(context.broker, logs)
        with context.long.reading_statistics(client_of(request), stored_bytes(context.broker, logs)) as pause:
            windows = read_stored_windows(context.broker, logs, stale, pause)
            return {window.stored.log.window or "": _rate(window.stored, keys, pause) for window in windows}
    except StatisticsUnavailable:
        return dict.fromkeys((of.window or "" for of in logs), None)


def _rate(stored: StoredWindow, keys: frozenset[str] | None, pause: Pause) -> float | None:
    if not stored.exists:
        return None
    counted = Selection(keys=frozenset([None]) if keys is None else keys - {OTHER}, fields=frozenset([None]))
    rates = (row[3] for rows in stored.rows(counted, pause) for row in rows)
    found = list(islice(rates, 1) if keys is None else rates)  # each grouping has the same totals
    return None if None in found else float(sum(found))


def poll_list(
    context: Context, known: Topics | None, *, visible: VisibleTopics = EVERY_TOPIC
) -> tuple[Topics, bytes] | None:
    """Return the topics with the list as a message; None while no topic was created, deleted or created again."""
    topics = visible.read(context.hub.feed.topics, context.long.pauses())
    if known is not None and not any(changes(known, topics)):
        return None
    return topics, sse.encode(b"".join(_list_pieces(context, in_order(topics), visible)), event="topics")


def poll_first(
    context: Context, known: Topics | None, *, visible: VisibleTopics = EVERY_TOPIC
) -> tuple[Topics, bytes] | None:
    """Return the topics with the first of them and their total as a message; None as ``poll_list``."""
    topics = visible.read(context.hub.feed.topics, context.long.pauses())
    if known is not None and not any(changes(known, topics)):
        return None
    return topics, _first_topics(context, topics, visible)


def describe_changes(context: Context, before: Topics, after: Topics, *, visible: VisibleTopics = EVERY_TOPIC) -> bytes:
    """Return which topics were added and removed, as a message; a topic that was created again is both.

    If they are too many, return the first topics anew.
    """
    added, removed = changes(before, after)
    if len(added) + len(removed) > context.listed_topics:
        return _first_topics(context, after, visible)
    data = {"added": _described(context, added, visible), "removed": removed, "total": _count(after)}
    return sse.encode(orjson.dumps(data), event="changes")


def _first_topics(context: Context, topics: Topics, visible: VisibleTopics) -> bytes:
    first = islice(in_order(topics), context.listed_topics)
    return sse.encode(b"".join(_list_pieces(context, first, visible, total=_count(topics))), event="topics")
