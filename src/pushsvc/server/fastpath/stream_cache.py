"""Streams that an app has granted: who asks for the same again is not judged again, but for the position.

Thousands of browsers that come back ask the same but for ``Last-Event-ID``. The first one goes through Flask, and so
does whatever differs in a field that could matter; the others get the same head, and a stream of the same query. Only
past an app to which nothing was added.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import unquote

from pushsvc.hub.streams import Stream
from pushsvc.server.protocol import Request

Again = Callable[[str | None], Stream]
"""Makes a stream of the same query from another position."""

_SAME = ("host", "accept", "origin")
"""The fields that decide an answer: equal requests have equal ones."""

_HARMLESS = frozenset({
    *_SAME, "last-event-id", "connection", "user-agent", "accept-encoding", "accept-language", "cache-control",
    "pragma", "dnt", "priority", "referer", "sec-ch-ua", "sec-ch-ua-mobile", "sec-ch-ua-platform", "sec-fetch-dest",
    "sec-fetch-mode", "sec-fetch-site", "sec-gpc", "traceparent", "tracestate", "x-request-id", "forwarded", "via",
    "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip",
})  # fmt: skip
"""The fields that a request may have: none of the others changes what a stream is."""

_MOST, _LONGEST = 512, 2_000
"""Requests that are remembered, and characters of the query of one."""

Key = tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class Grant:
    """The head that was answered, without its date, and what makes the stream."""

    head: str
    again: Again


class Granted:
    """What one worker remembers, the newest of it."""

    def __init__(self) -> None:
        self._grants: dict[Key, Grant] = {}

    def find(self, request: Request) -> Grant | None:
        """Return what an equal request was granted; None for one that belongs to Flask."""
        key = self._key(request)
        return None if key is None else self._grants.get(key)

    def remember(self, request: Request, head: str, again: Again) -> None:
        key = self._key(request)
        if key is not None:
            if len(self._grants) >= _MOST:
                del self._grants[next(iter(self._grants))]
            self._grants[key] = Grant(head, again)

    @staticmethod
    def _key(request: Request) -> Key | None:
        query, headers = request.query, request.headers
        if request.method != "GET" or len(query) > _LONGEST or "%" in request.path:
            return None
        if "last_event_id" in unquote(query):  # a position, and it is this request's own
            return None
        if not headers.keys() <= _HARMLESS:
            return None
        return (request.path, query, *map(headers.get, _SAME))
