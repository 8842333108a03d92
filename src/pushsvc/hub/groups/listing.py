"""A list that is polled every few seconds while a stream is open, and broadcast when it has changed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from time import monotonic
from typing import Any, NamedTuple

import gevent
from gevent.lock import RLock

from pushsvc import sse
from pushsvc.errors import PushError
from pushsvc.hub import messages as sse_messages
from pushsvc.hub import metrics
from pushsvc.hub.delivery.backlog import Chunk
from pushsvc.hub.delivery.channel import Channel
from pushsvc.hub.delivery.chunked import frame
from pushsvc.hub.delivery.connection import Connection

log = logging.getLogger(__name__)

REFRESH = 2.0  # seconds between two polls
BYTES_PER_SECOND = 200_000  # of the lists that one stream gets
Poll = Callable[[Any], tuple[Any, bytes] | None]
"""Returns a value to compare with that of the poll before, and the message that shows it. Returns None if the value is
equal to the argument: comparing may cost less than making the message. Raises what the broker raises."""

Describe = Callable[[Any, Any], bytes]
"""Returns the message that leads from the first value to the second. Raises what the broker raises."""


class ListingQuery(NamedTuple):
    """What makes a list: requests with an equal ``key`` share it."""

    key: Hashable
    poll: Poll
    describe: Describe | None = None


class Listing:
    """Polls once for all its streams. Implements Recovery: a client cannot resume, and a slow stream is ended.

    After a change all streams get the new list, or the message of ``describe`` if it is given. A list that is long
    comes less often, because all of it is made and sent whatever has changed.
    """

    def __init__(
        self,
        key: Hashable,
        poll: Poll,
        open_channel: Callable[[Listing], Channel],
        refresh: float = REFRESH,
        describe: Describe | None = None,
    ) -> None:
        self.key = key
        self._poll = poll
        self._describe = describe
        self._refresh = refresh
        self._polling = RLock()
        self._seen: tuple[Any, bytes] | None = None
        self._seen_at = 0.0
        self._framed = b""
        self._greenlet: gevent.Greenlet[..., None] | None = None
        self.channel = open_channel(self)

    def refresh(self) -> None:
        """Poll for a new stream, unless that happened just now; broadcast a change."""
        with self._polling:
            if self._seen is None or (monotonic() - self._seen_at >= self._refresh / 2 and not self._rests):
                self._take(self._poll(None))
        if self._greenlet is None:
            self._greenlet = gevent.spawn(self._run)

    def _take(self, seen: tuple[Any, bytes] | None) -> None:
        if seen is None:
            return
        before, message = self._seen, seen[1]
        changed = before is not None and before[0] != seen[0]
        if before is not None and changed and self._describe is not None:
            message = self._describe(before[0], seen[0])  # may fail: then the next poll finds the same change
        self._seen, self._seen_at = seen, monotonic()
        self._framed = b""
        if changed:
            self.channel.broadcast([message])

    @property
    def _rests(self) -> bool:
        """Return whether the last list is too long to be made again yet."""
        return monotonic() - self._seen_at < len(self.state()) / BYTES_PER_SECOND

    def state(self) -> bytes:
        """Return the message of the last poll, for a new stream."""
        return b"" if self._seen is None else self._seen[1]

    def framed_state(self) -> bytes:
        """Return the same with its frame: one object for all streams, which may leave it unread."""
        self._framed = self._framed or frame(self.state())
        return self._framed

    def _run(self) -> None:
        while not self.channel.closed:
            gevent.sleep(self._refresh)
            if self._rests:
                continue
            try:
                with self._polling:
                    self._take(self._poll(self._seen and self._seen[0]))
            except PushError as error:
                log.warning("the list of %s cannot be read: %s", self.key, error)
                self.channel.broadcast([sse.comment(error.title)])
            except Exception:
                log.exception("the list of %s failed", self.key)
                self.channel.fail()

    # Recovery

    def cursor(self) -> None:
        """Return None: there is no position in a list."""

    moves_silently = False

    def is_far(self, chunk: Chunk) -> bool:
        return False

    def recover(self, connection: Connection, chunk: Chunk) -> None:
        metrics.DROPPED.inc()
        connection.end(sse_messages.farewell("the client reads too slowly"))

    def close(self) -> None:
        self.channel.close()
        if self._greenlet is not None:
            self._greenlet.kill(block=False)
