"""Reads, stores and answers single-event posts that arrive together, without a greenlet for each.

Most producers repeat themselves: the head of a request equals, byte for byte, one that was read and answered before,
but for the topic and the length of the body. The batcher claims such requests without parsing them. Those that arrive
in one turn of the event loop are published together, whatever their topics, by one greenlet, while the greenlets of
their connections keep waiting. Every other request is left to the greenlet of its connection.
"""

import logging
import re
from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

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

K = TypeVar("K")
V = TypeVar("V")

_HEAD = re.compile(
    rb"(POST [^ \r\n]+ HTTP/1\.1)(\r\n(?:[^\r\n]+\r\n)*?[Cc]ontent-[Ll]ength: )([1-9][0-9]{0,8})(\r\n.*)", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class PostBatchLimits:
    """So many ``heads`` are remembered, of at most ``head_bytes`` each, and the fields of as many. A batch is closed at
    ``topics`` or at ``requests``. ``idle_workers`` greenlets are kept for the next batches.

    One round trip takes ``topics`` calls: while Redis works for one batch, the next one is read.
    """

    heads: int = 1_024
    head_bytes: int = 2_048
    topics: int = 32
    requests: int = 256
    idle_workers: int = 8


class PostHead(NamedTuple):
    """The head of a POST: its first line, the ``fields`` before and after the value of Content-Length, and this value.

    A head whose fields equal those of a head without a fault differs from it in the first line and the length alone.
    """

    line: bytes
    fields: tuple[bytes, bytes]
    length: int

    @classmethod
    def split(cls, head: bytes) -> "PostHead | None":
        """Return the parts of a complete head, its empty line included; None if it is no such head."""
        found = _HEAD.fullmatch(head)
        return None if found is None else cls(found[1], (found[2], found[4]), int(found[3]))


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
        self._fields: dict[tuple[bytes, bytes], Grants] = {}  # of posts, and what their token grants
        self._waiting: dict[str, list[ClaimedPosts]] = {}
        self._idle: list[Waiter[Mapping[str, list[ClaimedPosts]]]] = []

    def remember(self, head: bytes, request: Request, grants: Grants = EVERYTHING) -> bool:
        """Claim requests with the fields of this head from now on, if they may be batched; return whether they may.
        Their token has these grants, which allow the request."""
        parts = PostHead.split(head) if len(head) <= self._limits.head_bytes else None
        if parts is None or parts.length != request.length or self._admission.batch_topic(request) is None:
            return False
        self._put(self._fields, parts.fields, grants)
        return True

    def _put(self, known: dict[K, V], key: K, value: V) -> None:
        """Remember a value; forget the oldest one if there are too many."""
        if key not in known and len(known) >= self._limits.heads:
            del known[next(iter(known))]
        known[key] = value

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
            known = self._known(data[end:start], grants) if start > 3 else None
            if known is None or (topic and known.topic != topic):
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

    def _known(self, head: bytes, grants: Grants) -> KnownHead | None:
        """Return what the requests with a head are; None if they have other grants, or may be no such posts."""
        known = self._heads.get(head)
        if known is not None and known.grants is grants:
            return known
        parts = PostHead.split(head) if len(head) <= self._limits.head_bytes else None
        if parts is None or self._fields.get(parts.fields) is not grants:
            return None
        topic = self._admission.repeated_topic(parts.line, parts.length, grants)
        if topic is None:
            return None
        known = KnownHead(topic, parts.length, grants)
        self._put(self._heads, head, known)
        return known

    def _publish_waiting(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for posts in self._batches(waiting):
            self._start(posts)

    def _batches(self, waiting: Mapping[str, list[ClaimedPosts]]) -> Iterator[Mapping[str, list[ClaimedPosts]]]:
        """Yield posts by topic, those to a topic in their order.

        No batch goes to two primaries: one that does not answer must not hold up the posts to others.
        """
        by_primary: dict[Hashable, list[tuple[str, list[ClaimedPosts]]]] = {}
        for topic, posts in waiting.items():
            by_primary.setdefault(self._publisher.primary_of(topic), []).append((topic, posts))
        for of_one in by_primary.values():
            yield from self._within_limits(of_one)

    def _within_limits(
        self, waiting: Iterable[tuple[str, list[ClaimedPosts]]]
    ) -> Iterator[Mapping[str, list[ClaimedPosts]]]:
        """Yield posts by topic, at most as many together as the limits say."""
        batch: dict[str, list[ClaimedPosts]] = {}
        requests = 0
        for topic, posts in waiting:
            for post in posts:
                batch.setdefault(topic, []).append(post)
                requests += len(post.bodies)
                if requests >= self._limits.requests:
                    yield batch
                    batch, requests = {}, 0
            if len(batch) >= self._limits.topics:
                yield batch
                batch, requests = {}, 0
        if batch:
            yield batch

    def _start(self, posts: Mapping[str, list[ClaimedPosts]]) -> None:
        """Publish in an idle greenlet, else in a new one, which must map memory for its stack."""
        if self._idle:
            self._idle.pop().switch(posts)
        else:
            gevent.spawn(self._work, posts)

    def _work(self, posts: Mapping[str, list[ClaimedPosts]]) -> None:
        while True:
            self._publish(posts)
            if len(self._idle) >= self._limits.idle_workers:
                return
            waiter: Waiter[Mapping[str, list[ClaimedPosts]]] = Waiter()
            self._idle.append(waiter)
            posts = waiter.get()

    def _publish(self, posts: Mapping[str, list[ClaimedPosts]]) -> None:
        unanswered = deque(post for of_topic in posts.values() for post in of_topic)
        bodies = {topic: [body for post in of_topic for body in post.bodies] for topic, of_topic in posts.items()}
        try:
            responses = self._publisher.publish_batches(bodies)
            heads = _Heads(keep_alive=not self._draining.is_set())
            for response, of_topic in zip(responses, posts.values(), strict=True):
                if response is not None:
                    _answer(response, of_topic, unanswered, heads)
                    continue
                for post in of_topic:
                    unanswered.popleft()
                    for account in post.accounts:
                        account.count_posts(-len(post.bodies))
                    post.pending.put_back(post.data)
        except Exception:
            log.exception("posts to %s failed", ", ".join(posts))
            for post in unanswered:  # not put back: their events may be in the log
                post.pending.reply(closing(identified(internal_error(), new_id())), keep_alive=False)


class _Heads:
    """The heads of the answers to a batch: most of them are equal."""

    def __init__(self, *, keep_alive: bool) -> None:
        self.keep_alive = keep_alive
        self._of: tuple[int, list[tuple[str, str]]] | None = None
        self._last = b"", b""

    def of(self, response: BatchResponse) -> tuple[bytes, bytes]:
        """Return the head of the answers to a connection but the last one, and that of the last one."""
        status, headers, _ = response
        if self._of != (status, headers):
            head = last = encode_head(status, headers, keep_alive=True)
            if not self.keep_alive:
                last = encode_head(status, headers, keep_alive=False)
            self._of, self._last = (status, headers), (head, last)
        return self._last


def _answer(
    response: BatchResponse, posts: Sequence[ClaimedPosts], unanswered: deque[ClaimedPosts], heads: _Heads
) -> None:
    bodies, problem = iter(response.bodies), is_problem(response.headers)
    head, last_head = heads.of(response)
    for post in posts:
        unanswered.popleft()
        answers = [_add_body(head, next(bodies), problem) for _ in post.bodies[1:]]
        data = b"".join([*answers, _add_body(last_head, next(bodies), problem)])
        post.pending.reply(data, keep_alive=heads.keep_alive)


def _add_body(head: bytes, body: bytes, problem: bool) -> bytes:
    """Return one answer, with an id of its own."""
    id = new_id()
    return add_body(b"%bX-Request-Id: %b\r\n" % (head, id.encode()), with_id(body, id) if problem else body)
