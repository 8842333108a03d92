"""The HTTP header names that the server knows, in lower case."""

from __future__ import annotations

COMMON = frozenset({
    "accept", "accept-encoding", "accept-language", "cache-control", "connection", "content-length", "content-type",
    "cookie", "host", "last-event-id", "origin", "referer", "user-agent",
})  # fmt: skip
"""Headers of most requests; the parser converts their names by table."""

SINGLE = frozenset({"host", "content-length", "content-type", "origin", "last-event-id"})
"""Headers that decide how a request is treated. A request that repeats one is refused as ambiguous."""

_HARMLESS = frozenset({
    "accept", "accept-encoding", "accept-language", "cache-control", "connection", "host", "pragma", "traceparent",
    "tracestate", "user-agent", "x-request-id",
})  # fmt: skip

HARMLESS_TO_PUBLISH = _HARMLESS | {"content-length", "content-type", "date"}
"""Headers that Flask would not treat differently from the publish fast path."""

HARMLESS_TO_STREAMS = _HARMLESS | {
    "dnt", "forwarded", "last-event-id", "origin", "priority", "referer", "sec-ch-ua", "sec-ch-ua-mobile",
    "sec-ch-ua-platform", "sec-fetch-dest", "sec-fetch-mode", "sec-fetch-site", "sec-gpc", "via", "x-forwarded-for",
    "x-forwarded-host", "x-forwarded-proto", "x-real-ip",
}  # fmt: skip
"""Headers that change nothing about a stream except those of ``STREAM_IDENTITY`` and the position."""

STREAM_IDENTITY = ("host", "accept", "origin")
"""Headers that decide the answer to a stream request."""
