"""Decides which requests may skip Flask."""

from __future__ import annotations

import re
from collections.abc import Hashable
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote

from flask import Flask
from werkzeug.datastructures import ImmutableMultiDict, MultiDict
from werkzeug.http import parse_cookie

from pushsvc.auth.access import NO_CREDENTIALS, Access, Presented
from pushsvc.auth.grants import EVERYTHING, Action, Grants
from pushsvc.errors import Forbidden, PushError
from pushsvc.event.formats import CLOUDEVENT, CLOUDEVENTS, CSV, JSON, NDJSON
from pushsvc.server.request import Request
from pushsvc.sse import MEDIA_TYPE as EVENT_STREAM
from pushsvc.system_clock import now_ms
from pushsvc.web.app import context_of
from pushsvc.web.authorization import COOKIE, PARAMETER
from pushsvc.web.security import Security
from pushsvc.web.unmodified import is_unmodified

_PREFIX, _SUFFIX = "/v1/topics/", "/events"
_PUBLISH_LINE = re.compile(rb"POST /v1/topics/([A-Za-z0-9_.-]+)/events HTTP/1\.1")
_MEDIA_TYPES = frozenset({JSON, NDJSON, CSV, CLOUDEVENT, CLOUDEVENTS})
_MAX_QUERY = 2_000
_HARMLESS = frozenset({
    "accept", "accept-encoding", "accept-language", "cache-control", "connection", "forwarded", "host", "pragma",
    "traceparent", "tracestate", "user-agent", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto",
    "x-real-ip", "x-request-id",
})  # fmt: skip

_HARMLESS_TO_PUBLISH = _HARMLESS | {"content-length", "content-type", "date"}
"""Headers that Flask would not treat differently from the publish fast path."""

_HARMLESS_TO_STREAMS = _HARMLESS | {
    "dnt", "last-event-id", "origin", "priority", "referer", "sec-ch-ua", "sec-ch-ua-mobile", "sec-ch-ua-platform",
    "sec-fetch-dest", "sec-fetch-mode", "sec-fetch-site", "sec-gpc",
}  # fmt: skip
"""Headers that change nothing about a stream except those of ``_STREAM_IDENTITY`` and the position."""

_CREDENTIALS_TO_PUBLISH = frozenset({"authorization"})
_CREDENTIALS_TO_STREAMS = frozenset({"authorization", "cookie"})
"""Headers that the fast paths read where requests are asked for credentials. A write with a cookie goes to Flask, which
looks at its origin, too."""

_STREAM_IDENTITY = ("host", "accept", "origin")
"""Headers that decide the answer to a stream request."""

_TOPIC_STREAM = re.compile(r"/v1/topics/([^/]+)/(events|latest|stats)")
_TOPIC_QUERY = re.compile(r"((window|key|type|last_event_id)=[A-Za-z0-9_.*-]*&?)*")
_NO_ARGS: MultiDict[str, str] = ImmutableMultiDict()


class TopicRequest(NamedTuple):
    """A request for the stream of one topic: the last part of its path, the topic and the query."""

    resource: str
    topic: str
    args: MultiDict[str, str]


class StreamRequest(NamedTuple):
    """What decides the answer to a stream request. Requests with equal keys get equal heads.

    The key has the HTTP version and the identifying headers. With ``of_topic`` it has the resource, and requests with
    equal keys may differ in their topic and in what is granted; else it has path, query and the grants, and they get
    equal streams. ``grants`` are those of the request. ``accepts_stream`` is true if it names event streams: then its
    answer begins soon, and equal requests may wait for it.
    """

    key: tuple[Hashable, ...]
    of_topic: TopicRequest | None
    grants: Grants = EVERYTHING
    accepts_stream: bool = False


class Admission:
    """The rule of all fast paths.

    A request skips Flask only if Flask would answer exactly as the fast path does: the app is unmodified, the method
    and the path are those of the fast path, and no header could change the answer. In doubt a request goes to Flask.
    With ``access`` a request needs grants, and Flask words every refusal.
    """

    def __init__(self, security: Security, max_body: int, access: Access | None = None) -> None:
        self._security = security
        self._max_body = max_body
        self._access = access
        self._publish_headers = _HARMLESS_TO_PUBLISH | (_CREDENTIALS_TO_PUBLISH if access else frozenset())
        self._stream_headers = _HARMLESS_TO_STREAMS | (_CREDENTIALS_TO_STREAMS if access else frozenset())
        self._is_allowed = lru_cache(256)(self._check_host)

    @classmethod
    def of(cls, app: Flask) -> Admission | None:
        """Return the admission to the fast paths of an app; None if something was added to the app."""
        if not is_unmodified(app):
            return None
        context = context_of(app)
        return cls(context.security, context.limits.body, context.access)

    def publish_topic(self, request: Request) -> str | None:
        """Return the topic that the publish fast path may publish to; None if the request goes to Flask."""
        path = request.path
        if not path.startswith(_PREFIX) or not path.endswith(_SUFFIX) or request.query:
            return None
        topic = path[len(_PREFIX) : -len(_SUFFIX)]
        if not topic or "/" in topic or not _is_plain(request, "POST", self._publish_headers):
            return None
        if request.length is None or request.length > self._max_body:
            return None
        media_type = request.headers.get("content-type", "").partition(";")[0]
        if media_type not in _MEDIA_TYPES or not self._is_allowed(request.headers.get("host", "")):
            return None
        return topic

    def publisher(self, request: Request, topic: str) -> Grants | None:
        """Return the grants of a request that may publish any event to a topic; None if it goes to Flask."""
        grants = self._grants(request)
        return None if grants is None or grants.keys(Action.PUBLISH, topic) is not None else grants

    def is_current(self, grants: Grants) -> bool:
        """Return whether grants of an earlier request still hold."""
        return self._access is None or self._access.is_current(grants, now_ms() / 1_000)

    def batch_topic(self, request: Request) -> str | None:
        """Return the topic of a request whose repetitions the post batcher may answer; None for any other."""
        repeatable = request.keep_alive and request.version == 1 and request.length
        if not repeatable or request.headers.get("content-type") != JSON:
            return None
        return self.publish_topic(request)

    def repeated_topic(self, line: bytes, length: int, grants: Grants) -> str | None:
        """Return the topic of a post with the fields of one that may be batched, which has these grants; None if it
        may be no such post. ``line`` is its first line, ``length`` that of its body."""
        found = _PUBLISH_LINE.fullmatch(line)
        if found is None or length > self._max_body:
            return None
        topic = found[1].decode()
        return topic if grants is EVERYTHING or grants.keys(Action.PUBLISH, topic) is None else None

    def stream_request(self, request: Request) -> StreamRequest | None:
        """Return what the stream cache may remember of a request; None if the request goes to Flask."""
        query = request.query
        if not _is_plain(request, "GET", self._stream_headers) or len(query) > _MAX_QUERY:
            return None
        grants = self._grants(request)
        if grants is None:
            return None
        accepts_stream = EVENT_STREAM in request.headers.get("accept", "")
        identity = (request.version, *map(request.headers.get, _STREAM_IDENTITY))
        of_topic = _topic_request(request.path, query)
        if of_topic is not None:
            may = grants.may(Action.SUBSCRIBE, of_topic.topic)
            if not may:
                return None
            return StreamRequest((of_topic.resource, *identity), of_topic, grants, accepts_stream)
        asked = unquote(query)
        if "last_event_id" in asked or PARAMETER in asked:  # the position, or the token, is of this one request
            return None
        return StreamRequest((request.path, query, *identity, grants.subscribe), None, grants, accepts_stream)

    def _grants(self, request: Request) -> Grants | None:
        """Return the grants of a request; None if it has no valid credentials, or if the operator's application has to
        be asked. May wait for the keys of an issuer."""
        if self._access is None:
            return EVERYTHING
        headers = request.headers
        authorization, cookie = headers.get("authorization"), headers.get("cookie")
        presented = NO_CREDENTIALS
        if authorization is not None or cookie is not None:
            presented = Presented(authorization, None if cookie is None else parse_cookie(cookie).get(COOKIE))
        if not self._access.decides(presented):
            return None
        try:
            return self._access.grants(presented, now_ms() / 1_000)
        except PushError:
            return None

    def _check_host(self, host: str) -> bool:
        """Return whether the app accepts a Host. Flask words the refusal of any other."""
        try:
            self._security.check_host(host)
        except Forbidden:
            return False
        return True


def _topic_request(path: str, query: str) -> TopicRequest | None:
    """Return the parts of a request for the stream of one topic; None if the query has other names than these few.

    Names and values that need an escape are left to Flask, so that no second parser may read them differently.
    """
    found = _TOPIC_STREAM.fullmatch(path)
    if found is None or not _TOPIC_QUERY.fullmatch(query):
        return None
    args = MultiDict(parse_qsl(query, keep_blank_values=True)) if query else _NO_ARGS
    return TopicRequest(found[2], found[1], args)


def _is_plain(request: Request, method: str, harmless: frozenset[str]) -> bool:
    """Return whether a request has this method, an unescaped path, and harmless headers only."""
    return request.method == method and "%" not in request.path and request.headers.keys() <= harmless
