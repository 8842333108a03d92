"""Reads the heads of the requests of one connection, within their deadlines."""

from collections.abc import Sequence
from math import inf

from gevent import get_hub

from pushsvc.auth.grants import EVERYTHING, Grants
from pushsvc.server.context import ServerContext
from pushsvc.server.fastpath.pending_read import Claim, PendingRead
from pushsvc.server.fastpath.post_batcher import PostBatcher, PostHead
from pushsvc.server.request import BadRequest, Request, find_head, parse_head
from pushsvc.server.transport import DeadlineExceeded, Draining, Transport
from pushsvc.web.rates.accounts import Account

_PIPELINED = 16
"""Pipelined requests of one connection that are answered before other connections get a turn."""

REPETITIONS = "pushsvc.repetitions"
"""``environ[REPETITIONS]`` is ``batch_repetitions`` of the reader, where repetitions of a request may be batched."""


class RequestReader:
    """Returns one request after the other.

    ``buffer`` holds the bytes that arrived after the last head: the body of its request first. ``idle`` is true while
    no request is under way.
    """

    def __init__(self, transport: Transport, context: ServerContext) -> None:
        self._transport = transport
        self._limits = context.head_limits
        self._deadlines = context.deadlines
        self._draining = context.draining
        self._waits = 0
        self._head = b""  # the last one
        self._request: Request | None = None  # of the last head
        self._post: PostHead | None = None  # the parts of the last head
        self._repeated = False  # the last head has the fields of the one before it
        self._accounts: Sequence[Account] = ()
        self._grants = EVERYTHING
        self._batcher: PostBatcher | None = None  # set while it may claim the next request
        self.buffer = bytearray()
        self.idle = True

    def next(self) -> Request | None:
        """Return the next request; None if the peer sends no more. Raise BadRequest, or what interrupts the wait."""
        buffer = self.buffer
        self.idle = not buffer
        self._await_head(first=not self._waits)
        searched = 0
        while not (end := find_head(buffer, searched, self._limits)):
            searched = len(buffer)
            data = self._receive()
            if data is None:
                self.idle = True
                self._await_head(first=False)
                continue
            if not data:
                return None
            buffer += data
            if self.idle:
                self.idle = False
                self._transport.set_deadline(self._deadlines.head)
        self._transport.clear_deadline()
        request = self._parse(bytes(buffer[:end]))
        del buffer[:end]
        return request

    def batch_repetitions(
        self, batcher: PostBatcher, request: Request, accounts: Sequence[Account], grants: Grants
    ) -> None:
        """Let the batcher claim the next requests if ``request``, the last one, repeated the fields of the one before
        it. They count for ``accounts`` and need ``grants``."""
        self._accounts, self._grants = accounts, grants
        if self._repeated:
            self._batcher = batcher if batcher.remember(self._head, request, grants) else None

    def drain(self) -> None:
        """Raise Draining in the waiting greenlet unless a request is under way. Call it in gevent's hub."""
        if self.idle:
            self._transport.interrupt(Draining)

    def _parse(self, head: bytes) -> Request:
        """Return the request of a head. A producer usually repeats its head, so the last result is kept."""
        if self._request is not None and head == self._head:
            self._repeated = True
            return self._request
        before, self._post = self._post, PostHead.split(head)
        self._repeated = before is not None and self._post is not None and before.fields == self._post.fields
        self._request, self._head = parse_head(head, self._limits), head
        return self._request

    def _await_head(self, first: bool) -> None:
        self._waits += 1
        if self.buffer and self._waits % _PIPELINED == 0:
            self._transport.yield_to_loop()
        self._transport.set_deadline(self._deadlines.head if first or self.buffer else self._deadlines.idle)
        if self.idle and self._draining.is_set():
            self._transport.interrupt(Draining)

    def _receive(self) -> bytes | None:
        """Return received bytes, none at the end; None if the batcher answered a request, so that a new wait begins."""
        try:
            if self.idle and self._batcher is not None:
                return self._receive_unclaimed(self._batcher)
            return self._transport.receive(wait_first=self.idle and self._waits > 1)
        except DeadlineExceeded:
            if self.idle:
                raise
            raise BadRequest(408, "the head of the request did not arrive in time") from None

    # Requests that the batcher claims

    def _receive_unclaimed(self, batcher: PostBatcher) -> bytes | None:
        """Offer received bytes to the batcher; return those that it does not claim."""

        def claim(data: bytes, pending: PendingRead) -> Claim:
            claimed = batcher.claim(data, pending, self._accounts, self._grants)
            if claimed.size:
                self.idle = False
                self._transport.clear_deadline()
            return claimed

        pending = PendingRead(self._transport, claim, self._on_wait)
        data = pending.wait()
        if pending.was_put_back:
            self._batcher = None
        # New data starts a new deadline unless its first part has started one already.
        self.idle = self.idle or self._transport.deadline == inf
        return data

    def _on_wait(self, begun: bool) -> None:
        """Start the deadline of the next request, whose first part has arrived if it has ``begun``."""
        self.idle = not begun
        self._transport.set_deadline(self._deadlines.head if begun else self._deadlines.idle)
        if self._draining.is_set():
            get_hub().loop.run_callback(self.drain)
