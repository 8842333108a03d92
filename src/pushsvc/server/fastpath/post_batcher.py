"""Single events that are posted at the same time: read, stored and answered together, without a greenlet for each.

Most producers repeat themselves: the head of a request is, byte by byte, one that was read and answered before. Such a
request needs no reading. Those that come in one turn of the loop are published as one, in one greenlet, while those of
their connections sleep on. Whatever is different in any way goes to its connection's greenlet, as if it had just come.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import gevent
from gevent import get_hub
from gevent.hub import Waiter

from pushsvc.event.formats import JSON
from pushsvc.server.fastpath.pending_read import SIZE, Taken
from pushsvc.server.fastpath.publish import Lane
from pushsvc.server.protocol import Request
from pushsvc.server.wsgi import head_of, internal_error, whole
from pushsvc.web.answer import Answers

log = logging.getLogger(__name__)

_MOST, _LONGEST = 1_024, 1_024
"""Heads that are remembered, and bytes of one."""

_TOGETHER = 256
"""Requests after which no more are published with them."""

_RESTING = 8
"""Greenlets that are kept for what comes next."""


class Poster(Protocol):
    """The wait of a connection whose request was taken. One of both is called once, and neither waits."""

    def reply(self, data: bytes, *, keep: bool) -> None:
        """Send an answer, the last one unless ``keep``."""

    def give_back(self, data: bytes) -> None:
        """Treat a request as any other."""


@dataclass(frozen=True, slots=True)
class Known:
    """What a head says."""

    topic: str
    length: int


class Post(NamedTuple):
    """What was taken of a connection: one request, or several that came one behind the other, and their bodies."""

    poster: Poster
    data: bytes
    bodies: list[bytes]


class Posts:
    """The posts of one worker. While it is ``draining`` it takes none."""

    def __init__(self, lane: Lane, draining: Callable[[], bool]) -> None:
        self._lane = lane
        self._draining = draining
        self._known: dict[bytes, Known] = {}
        self._waiting: dict[str, list[Post]] = {}
        self._resting: list[Waiter[tuple[str, list[Post]]]] = []

    def remember(self, head: bytes, topic: str, request: Request) -> bool:
        """Take requests with this head from now on, one of which was accepted; return whether they can be."""
        if head in self._known:
            return True
        plain = request.keep_alive and request.version == 1 and request.headers.get("content-type") == JSON
        if not plain or not request.length or len(head) > _LONGEST:
            return False
        if len(self._known) >= _MOST:
            del self._known[next(iter(self._known))]
        self._known[head] = Known(topic, request.length)
        return True

    def take(self, data: bytes, poster: Poster) -> Taken:
        """Take the requests at the beginning of what came on a connection, as many as are whole and have known heads,
        to one topic."""
        if self._draining():
            return Taken(0, False)
        bodies: list[bytes] = []
        head, topic, end, goes_on = b"", "", 0, False
        while end < len(data):
            start = data.find(b"\r\n\r\n", end) + 4
            known = self._known.get(data[end:start])
            if known is None or (topic and known.topic != topic):
                goes_on = start == 3 and head.startswith(data[end:])
                break
            if len(data) < start + known.length:
                goes_on = start + known.length - end <= SIZE
                break
            head, topic = data[end:start], known.topic
            end = start + known.length
            bodies.append(data[start:end])
        if not bodies:
            return Taken(0, goes_on)
        if not self._waiting:
            get_hub().loop.run_callback(self._publish_waiting)
        self._waiting.setdefault(topic, []).append(Post(poster, data[:end], bodies))
        return Taken(end, goes_on)

    def _publish_waiting(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for topic, posts in waiting.items():
            group: list[Post] = []
            requests = 0
            for post in posts:
                group.append(post)
                requests += len(post.bodies)
                if requests >= _TOGETHER:
                    self._begin(topic, group)
                    group, requests = [], 0
            if group:
                self._begin(topic, group)

    def _begin(self, topic: str, posts: list[Post]) -> None:
        """Publish in a greenlet that has nothing to do, or a new one; a new one maps memory for its stack."""
        if self._resting:
            self._resting.pop().switch((topic, posts))
        else:
            gevent.spawn(self._work, topic, posts)

    def _work(self, topic: str, posts: list[Post]) -> None:
        while True:
            self._publish(topic, posts)
            if len(self._resting) >= _RESTING:
                return
            waiter: Waiter[tuple[str, list[Post]]] = Waiter()
            self._resting.append(waiter)
            topic, posts = waiter.get()

    def _publish(self, topic: str, posts: list[Post]) -> None:
        left = deque(posts)
        try:
            answers = self._lane.publish_together(topic, [body for post in posts for body in post.bodies])
            if answers is None:
                while left:
                    post = left.popleft()
                    post.poster.give_back(post.data)
            else:
                self._answer(answers, left)
        except Exception:
            log.exception("posts to %s", topic)
            for post in left:  # they may be in the log
                post.poster.reply(internal_error(), keep=False)

    def _answer(self, answers: Answers, left: deque[Post]) -> None:
        status, headers, bodies = answers
        keep, told = not self._draining(), iter(bodies)
        head, last_head = (head_of(status, headers, keep=kept) for kept in (True, keep))
        while left:
            post = left.popleft()
            texts = [whole(head, next(told)) for _ in post.bodies[1:]]
            data = b"".join([*texts, whole(last_head, next(told))])
            post.poster.reply(data, keep=keep)
