"""Remembers stream requests that the app has accepted, so that equal requests skip Flask.

Thousands of browsers that reconnect send equal requests except for ``Last-Event-ID``. Flask answers the first one; the
others get the same head and a stream of the same query from their own position.
"""

from __future__ import annotations

from typing import NamedTuple

from pushsvc.server.fastpath.admission import StreamKey
from pushsvc.web.responses import StreamFactory


class CachedStream(NamedTuple):
    """The head that the app answered, without its date, and the maker of further streams."""

    head: str
    factory: StreamFactory


class StreamCache:
    """The newest accepted stream requests of one worker."""

    def __init__(self, max_entries: int = 512) -> None:
        self._entries: dict[StreamKey, CachedStream] = {}
        self._max_entries = max_entries

    def find(self, key: StreamKey) -> CachedStream | None:
        return self._entries.get(key)

    def remember(self, key: StreamKey, head: str, factory: StreamFactory) -> None:
        if len(self._entries) >= self._max_entries:
            del self._entries[next(iter(self._entries))]
        self._entries[key] = CachedStream(head, factory)
