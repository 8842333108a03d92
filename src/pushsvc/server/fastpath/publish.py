"""The direct lane of the publish call: past Flask, into the very function that the Flask view calls.

Only where Flask could do nothing else: a plain request without anything that an app may look at, to an app as
``create_app`` made it. Whatever is in doubt goes through Flask.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from flask import Flask

from pushsvc.errors import Forbidden
from pushsvc.event.formats import CLOUDEVENT, CLOUDEVENTS, CSV, JSON, NDJSON
from pushsvc.server.protocol import Request
from pushsvc.web.answer import Answer, Answers
from pushsvc.web.app import context_of
from pushsvc.web.publish import publish, publish_together
from pushsvc.web.untouched import is_untouched

_BEFORE, _BEHIND = "/v1/topics/", "/events"
_MEDIA_TYPES = frozenset({JSON, NDJSON, CSV, CLOUDEVENT, CLOUDEVENTS})
_HARMLESS = frozenset({
    "host", "content-type", "content-length", "connection", "user-agent", "accept", "accept-encoding",
    "accept-language", "cache-control", "pragma", "date", "traceparent", "tracestate", "x-request-id",
})  # fmt: skip
"""The fields that a request on the lane may have: none of them changes what a publish call does."""


class Lane:
    """Publishes for one app."""

    def __init__(self, app: Flask) -> None:
        self._context = context_of(app)
        self._common = self._context.security.headers(None)
        self._is_ours = lru_cache(256)(self._permits)

    @classmethod
    def of(cls, app: Flask) -> Lane | None:
        """Return the lane past an app, None where somebody has added to it what a request would meet."""
        return cls(app) if is_untouched(app) else None

    def topic_of(self, request: Request) -> str | None:
        """Return the topic to publish to; None for a request that belongs to Flask."""
        path, headers = request.path, request.headers
        if request.method != "POST" or not path.startswith(_BEFORE) or not path.endswith(_BEHIND) or request.query:
            return None
        topic = path[len(_BEFORE) : -len(_BEHIND)]
        if not topic or "/" in topic or "%" in topic or not headers.keys() <= _HARMLESS:
            return None
        if request.length is None or request.length > self._context.limits.body:
            return None
        media_type = headers.get("content-type", "").partition(";")[0]
        if media_type not in _MEDIA_TYPES or not self._is_ours(headers.get("host", "")):
            return None
        return topic

    def publish(self, topic: str, request: Request, body: bytes) -> Answer:
        status, headers, text = publish(self._context, topic, request.headers["content-type"], body)
        return Answer(status, headers + self._common, text)

    def publish_together(self, topic: str, bodies: Sequence[bytes]) -> Answers | None:
        """Publish single events of JSON to one topic as one; None where each is to be published by itself."""
        answers = publish_together(self._context, topic, bodies)
        return None if answers is None else answers._replace(headers=answers.headers + self._common)

    def _permits(self, host: str) -> bool:
        """Tell whether the host check of the app would pass. What it refuses it may also word."""
        try:
            self._context.security.check_host(host)
        except Forbidden:
            return False
        return True
