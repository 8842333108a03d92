"""Reads, stores and answers single-event posts that arrive together, without a greenlet for each.

Most producers repeat themselves: the head of a request equals, byte for byte, one that was read and answered before.
The batcher claims such requests without parsing them. All that arrive in one turn of the event loop are published in
one step, by one greenlet, while the greenlets of their connections keep waiting. Every other request is left to the
greenlet of its connection.
"""

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import gevent
from gevent import get_hub
from gevent.event import Event
from gevent.hub import Waiter

from pushsvc.auth.grants import EVERYTHING, Grants
from pushsvc.server.fastpath.admission import Admission
from pushsvc.server.fastpath.pending_read import SIZE, Claim, PendingRead
from pushsvc.server.fastpath.publish import Publisher
from pushsvc.server.request import Request
from pushsvc.server.response import add_body, closing, encode_head
from pushsvc.web.problem import internal_error
from pushsvc.web.rates.accounts import Account, try_posts
from pushsvc.web.request_id import identified, is_problem, new_id, with_id
from pushsvc.web.responses import BatchResponse

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PostBatchLimits:
    """``heads`` are remembered, of at most ``head_bytes`` each. A batch is closed at ``requests``. ``idle_workers``
    greenlets are kept for the next batches."""

    heads: int = 1_024
    head_bytes: int = 2_048
    requests: int = 256
    idle_workers: int = 8


class KnownHead(NamedTuple):
    """What the requests with a head are: their topic, the length of their bodies, and what their token grants."""

    topic: str
    length: int
    grants: Grants


class ClaimedPosts(NamedTuple):
    """The bytes claimed from one connection, the bodies of the requests in them, and the accounts that they count
    for."""

    pending: PendingRead
    data: bytes
    bodies: list[bytes]
    accounts: Sequence[Account]


class PostBatcher:
    """The batched posts of one worker. While the worker is ``draining`` it claims none."""

    def __init__(
        self, publisher: Publisher, admission: Admission, draining: Event, limits: PostBatchLimits | None = None
    ) -> None:
        self._publisher = publisher
        self._admission = admission
        self._draining = draining
        self._limits = limits or PostBatchLimits()
        self._heads: dict[bytes, KnownHead] = {}
        self._waiting: dict[str, list[ClaimedPosts]] = {}
        self._idle: list[Waiter[tuple[str, list[ClaimedPosts]]]] = []

    def remember(self, head: bytes, request: Request, grants: Grants = EVERYTHING) -> bool:
        """Claim requests with this head from now on, if they may be batched; return whether they may. Their token has
        these grants, which allow it."""
        known = self._heads.get(head)
        if known is not None and known.grants is grants:
            return True
        topic = self._admission.batch_topic(request) if len(head) <= self._limits.head_bytes else None
        if topic is None or not request.length:
            return False
        if len(self._heads) >= self._limits.heads:
            del self._heads[next(iter(self._heads))]
        self._heads[head] = KnownHead(topic, request.length, grants)
        return True

    def claim(
        self, data: bytes, pending: PendingRead, accounts: Sequence[Account] = (), grants: Grants = EVERYTHING
    ) -> Claim:
        """Claim the requests at the beginning of ``data`` that are complete, have known heads and share one topic.

        They count for ``accounts``, which are those of ``grants``: a head with another token is not claimed, and none
        when the grants do not hold any more. Without room in an account the requests are left to their connection,
        which may wait for Redis.
        """
        if self._draining.is_set() or not self._admission.is_current(grants):
            return Claim(0, incomplete=False)
        bodies: list[bytes] = []
        head, topic, end, incomplete = b"", "", 0, False
        while end < len(data):
            start = data.find(b"\r\n\r\n", end) + 4
            known = self._heads.get(data[end:start])
            if known is None or known.grants is not grants or (topic and known.topic != topic):
                incomplete = start == 3 and head.startswith(data[end:])
                break
            body_end = start + known.length
            if len(data) < body_end:
                incomplete = body_end - end <= SIZE
                break
            head, topic, end = data[end:start], known.topic, body_end
            bodies.append(data[start:end])
        if not bodies:
            return Claim(0, incomplete)
        if not try_posts(accounts, len(bodies)):
            return Claim(0, incomplete=False)
        if not self._waiting:
            get_hub().loop.run_callback(self._publish_waiting)
        self._waiting.setdefault(topic, []).append(ClaimedPosts(pending, data[:end], bodies, accounts))
        return Claim(end, incomplete)

    def _publish_waiting(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for topic, posts in waiting.items():
            batch: list[ClaimedPosts] = []
            requests = 0
            for post in posts:
                batch.append(post)
                requests += len(post.bodies)
                if requests >= self._limits.requests:
                    self._start(topic, batch)
                    batch, requests = [], 0
            if batch:
                self._start(topic, batch)

    def _start(self, topic: str, posts: list[ClaimedPosts]) -> None:
        """Publish in an idle greenlet, else in a new one, which must map memory for its stack."""
        if self._idle:
            self._idle.pop().switch((topic, posts))
        else:
            gevent.spawn(self._work, topic, posts)

    def _work(self, topic: str, posts: list[ClaimedPosts]) -> None:
        while True:
            self._publish(topic, posts)
            if len(self._idle) >= self._limits.idle_workers:
                return
            waiter: Waiter[tuple[str, list[ClaimedPosts]]] = Waiter()
            self._idle.append(waiter)
            topic, posts = waiter.get()

    def _publish(self, topic: str, posts: list[ClaimedPosts]) -> None:
        unanswered = deque(posts)
        try:
            response = self._publisher.publish_batch(topic, [body for post in posts for body in post.bodies])
            if response is None:
                while unanswered:
                    post = unanswered.popleft()
                    for account in post.accounts:
                        account.count_posts(-len(post.bodies))
                    post.pending.put_back(post.data)
            else:
                self._answer(response, unanswered)
        except Exception:
            log.exception("posts to %s failed", topic)
            for post in unanswered:  # not put back: their events may be in the log
                post.pending.reply(closing(identified(internal_error(), new_id())), keep_alive=False)

    def _answer(self, response: BatchResponse, unanswered: deque[ClaimedPosts]) -> None:
        status, headers, texts = response
        keep_alive, bodies = not self._draining.is_set(), iter(texts)
        problem = is_problem(headers)
        head, last_head = (encode_head(status, headers, keep_alive=kept) for kept in (True, keep_alive))
        while unanswered:
            post = unanswered.popleft()
            answers = [_add_body(head, next(bodies), problem) for _ in post.bodies[1:]]
            data = b"".join([*answers, _add_body(last_head, next(bodies), problem)])
            post.pending.reply(data, keep_alive=keep_alive)


def _add_body(head: bytes, body: bytes, problem: bool) -> bytes:
    """Return one answer, with an id of its own."""
    id = new_id()
    return add_body(b"%bX-Request-Id: %b\r\n" % (head, id.encode()), with_id(body, id) if problem else body)
