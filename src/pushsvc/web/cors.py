"""Which pages of other origins may use the API, and the headers that tell their browsers so (CORS)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import IntEnum

from flask import Response

_ATTRIBUTE = re.compile("ce-[a-z0-9]{1,200}", re.ASCII | re.IGNORECASE)
_LABELS = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*", re.ASCII)
_SENT_BY_PAGES = ("Authorization", "Content-Type", "Idempotency-Key", "If-Match", "If-None-Match", "Last-Event-ID")
_READ_BY_PAGES = (
    "ETag, Link, Location, Pushsvc-Trimmed, RateLimit, RateLimit-Policy, Retry-After, WWW-Authenticate, X-Request-Id"
)
_MAX_AGE = "7200"  # seconds for which a browser need not ask again; Chromium remembers no longer


class Reach(IntEnum):
    """What pages of an origin may do. Each member includes those before it."""

    NOTHING = 0
    READ = 1
    POST = 2
    EVERYTHING = 3


_METHODS = {
    Reach.READ: "GET, HEAD",
    Reach.POST: "GET, HEAD, POST",
    Reach.EVERYTHING: "GET, HEAD, POST, PUT, PATCH, DELETE",
}


class Origins:
    """Exact origins, and patterns such as ``https://*.example.com``.

    The ``*`` stands for one or more labels: ``https://a.example.com`` and ``https://a.b.example.com`` match it,
    ``https://example.com`` does not. Scheme and port must be equal.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._exact = frozenset(text for text in texts if "*" not in text)
        self._patterns = tuple(tuple(text.split("*", 1)) for text in texts if "*" in text)

    def __bool__(self) -> bool:
        return bool(self._exact or self._patterns)

    def __contains__(self, origin: str) -> bool:
        if origin in self._exact:
            return True
        return any(
            origin.startswith(begin)
            and origin.endswith(end)
            and _LABELS.fullmatch(origin, len(begin), len(origin) - len(end)) is not None
            for begin, end in self._patterns
        )


class Cors:
    """Three lists of origins: of those that may read and ``post``, only ``read``, or use every method."""

    def __init__(self, post: Sequence[str] = (), read: Sequence[str] = (), every: Sequence[str] = ()) -> None:
        self._lists = ((Reach.EVERYTHING, Origins(every)), (Reach.POST, Origins(post)), (Reach.READ, Origins(read)))
        self._varies = any(origins for _, origins in self._lists)

    def reach(self, origin: str | None) -> Reach:
        """Return what pages of an origin may do."""
        if origin is None or not self._varies:
            return Reach.NOTHING
        return next((reach for reach, origins in self._lists if origin in origins), Reach.NOTHING)

    def may(self, origin: str, method: str) -> bool:
        """Return whether pages of an origin may send a request with this method."""
        reach = self.reach(origin)
        return reach is not Reach.NOTHING and method in _METHODS[reach].split(", ")

    def headers(self, origin: str | None) -> list[tuple[str, str]]:
        """Return the headers of an answer to a page of this origin; None: there was no header Origin.

        An origin that is not listed is never repeated. ``Vary`` keeps a cache from giving the answer for one origin to
        another one.
        """
        headers = [("Vary", "Origin")] if self._varies else []
        if origin is not None and self.reach(origin) is not Reach.NOTHING:
            headers += [
                ("Access-Control-Allow-Origin", origin),
                ("Access-Control-Allow-Credentials", "true"),
                ("Access-Control-Expose-Headers", _READ_BY_PAGES),
            ]
        return headers

    def preflight(self, origin: str | None, requested: str) -> Response | None:
        """Return the answer to a preflight request; None for an origin that is not listed.

        ``requested`` are the headers that the page wants to send. Those of a CloudEvent have names of its producer's
        choice.
        """
        reach = self.reach(origin)
        if reach is Reach.NOTHING:
            return None
        attributes = [name for name in map(str.strip, requested.split(",")) if _ATTRIBUTE.fullmatch(name)]
        allowed = {
            "Access-Control-Allow-Methods": _METHODS[reach],
            "Access-Control-Allow-Headers": ", ".join([*_SENT_BY_PAGES, *attributes]),
            "Access-Control-Max-Age": _MAX_AGE,
        }
        return Response(status=204, headers=allowed)
