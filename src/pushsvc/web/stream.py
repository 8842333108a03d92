"""``/v1/stream``: several topics and patterns on one connection."""

from dataclasses import replace

from flask import Blueprint, Response, request

from pushsvc.auth.grants import Action, Grant, Grants, TopicGrants
from pushsvc.errors import InvalidInput, InvalidParameter, NoStatistics, NotAcceptable
from pushsvc.event import Limits
from pushsvc.hub.query import EVERY_WINDOW, Query
from pushsvc.hub.streams import CombinedStream, QueryStream
from pushsvc.hub.window_state import Selection
from pushsvc.settings import TopicRules
from pushsvc.sse import MEDIA_TYPE
from pushsvc.topic import Shapes, check_pattern, is_dead, is_pattern
from pushsvc.web.authorization import check_granted, granted
from pushsvc.web.context import Context
from pushsvc.web.parameters import Parameters, cursor_of
from pushsvc.web.responses import stream_response
from pushsvc.web.stats import EVERY, check_grouped_by_key, chosen
from pushsvc.web.subscriptions import read_subscriptions

_STATISTICS_ONLY = ("window", "key", "field", "every")
_PARAMETERS = ("events", "stats", "format", "names", "heartbeat", "last_event_id", *_STATISTICS_ONLY)


def blueprint(context: Context) -> Blueprint:
    resource = Blueprint("stream", __name__, url_prefix="/v1/stream")

    @resource.get("")
    def watch() -> Response:
        if "sub" in request.args:
            return _watch_subscriptions(context)
        parameters = Parameters(request.args, (*_PARAMETERS, "sub"))
        _check_format(parameters)
        query = _limited(_query(parameters, context.limits), granted(), context.rules)
        _check_windows(query, context.rules)
        return stream_response(
            QueryStream(context.hub, query, cursor_of(request.headers.get("Last-Event-ID"), parameters))
        )

    return resource


def _watch_subscriptions(context: Context) -> Response:
    parameters = Parameters(request.args, ("sub", *_PARAMETERS))
    parameters.refuse(("events", "stats"), "does not go together with sub, as in sub=events/orders")
    parameters.refuse(_STATISTICS_ONLY, "stands inside a sub, as in sub=stats/orders?window=1m")
    _check_format(parameters)
    named, visible_heartbeat = _flags(parameters)
    subscriptions = read_subscriptions(context, parameters.texts("sub"), granted(), named=named)
    cursor = cursor_of(request.headers.get("Last-Event-ID"), parameters)
    return stream_response(CombinedStream(context.hub, subscriptions, cursor, visible_heartbeat=visible_heartbeat))


def _check_format(parameters: Parameters) -> None:
    parameters.choice("format", ("sse",), "sse")
    if parameters.text("format") is None and not _accepts_stream():
        raise NotAcceptable(f"available formats: {MEDIA_TYPE}")


def _accepts_stream() -> bool:
    return not request.accept_mimetypes or bool(request.accept_mimetypes[MEDIA_TYPE])


def _flags(parameters: Parameters) -> tuple[bool, bool]:
    """Return whether events have their types as names, and whether scripts can see heartbeats."""
    named = parameters.choice("names", ("on", "off"), "on") == "on"
    return named, parameters.choice("heartbeat", ("comment", "event"), "comment") == "event"


def _query(parameters: Parameters, limits: Limits) -> Query:
    named, visible_heartbeat = _flags(parameters)
    events, statistics = _patterns(parameters, "events"), _patterns(parameters, "stats")
    if not events and not statistics:
        raise InvalidInput(
            "name what to watch: events=TOPIC or stats=TOPIC, both repeatable; a.* and a.> are patterns; or "
            "sub=events/TOPIC?key=KEY"
        )
    if len(events) + len(statistics) > limits.topics:
        raise InvalidInput(f"a stream has at most {limits.topics} topics")
    shapes = len(Shapes(filter(is_pattern, events + statistics)))
    if shapes > limits.pattern_shapes:
        raise InvalidInput(
            f"the patterns have {shapes} arrangements of wildcards, at most {limits.pattern_shapes} are allowed: "
            "a.*.x and b.*.y have the same, a.*.x and a.*.* do not"
        )
    if not statistics:
        parameters.refuse(_STATISTICS_ONLY, "belongs to statistics, and stats= names no topic")
    if not events:
        parameters.refuse(("names",), "belongs to events, and events= names no topic")
    return Query(
        events=events,
        statistics=statistics,
        windows=tuple(dict.fromkeys(parameters.texts("window"))),
        selection=Selection(keys=chosen(parameters, "key"), fields=chosen(parameters, "field")),
        every=parameters.duration("every", *EVERY),
        named=named,
        visible_heartbeat=visible_heartbeat,
        topics=limits.topics,
    )


def _limited(query: Query, grants: Grants, rules: TopicRules) -> Query:
    """Return the query of the topics and keys that are granted: others that a pattern matches do not exist for it.

    Refuse names that are not granted, and patterns that no granted topic can match.
    """
    names = dict.fromkeys(query.events + query.statistics)
    for name in names:
        check_granted(grants, name, pattern=is_pattern(name))
    for topic in query.statistics:
        if not is_pattern(topic) and grants.keys(Action.SUBSCRIBE, topic) is not None:
            check_grouped_by_key(topic, rules.settings_of(topic))
    dead = TopicGrants(Grant(name, grants.keys(Action.SUBSCRIBE, name)) for name in names if is_dead(name))
    visible = grants.subscribe | dead if dead else grants.subscribe
    if all(visible.includes(name) for name in names):
        return query  # it is shared with all who may see as much
    return replace(query, visible=visible)


def _patterns(parameters: Parameters, name: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(map(check_pattern, parameters.texts(name))))


def _check_windows(query: Query, rules: TopicRules) -> None:
    """Refuse a named topic without windows, and a window that no named topic has. A pattern leaves topics without
    windows out, and may match later topics that have a window."""
    for topic in query.statistics:
        if not is_pattern(topic) and not rules.settings_of(topic).windows:
            raise NoStatistics(topic)
    if any(map(is_pattern, query.statistics)):
        return
    for name in query.windows:
        if name != EVERY_WINDOW and not any(rules.settings_of(topic).window(name) for topic in query.statistics):
            raise InvalidParameter("window", f"{name!r} is not a window of {', '.join(query.statistics)}; * means all")
