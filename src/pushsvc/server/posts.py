"""Single events that are posted at the same time: read, stored and answered together, without a greenlet for each.

Most producers repeat themselves: the head of a request is, byte by byte, one that was read and answered before. Such a
request needs no reading. Those that come in one turn of the loop are published as one, in one greenlet, while those of
their connections sleep on. Whatever is different in any way goes to its connection's greenlet, as if it had just come.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import gevent
from gevent import get_hub
from gevent.hub import Waiter

from pushsvc.event.formats import JSON
from pushsvc.server.lane import Lane
from pushsvc.server.protocol import Request
from pushsvc.server.wsgi import head_of, whole

log = logging.getLogger(__name__)

_MOST, _LONGEST = 1_024, 1_024
"""Heads that are remembered, and bytes of one."""

_TOGETHER = 256
"""Requests that are published as one."""

_RESTING = 8
"""Greenlets that are kept for what comes next."""


class Poster(Protocol):
    """A connection whose request was taken. One of both is called once, and neither waits."""

    def reply(self, data: bytes) -> None:
        """Send an answer."""

    def give_back(self, data: bytes) -> None:
        """Treat a request as any other."""


@dataclass(frozen=True, slots=True)
class Known:
    """What a head says."""

    topic: str
    length: int


class Post(NamedTuple):
    """A request that was taken, and where its body begins."""

    poster: Poster
    data: bytes
    start: int


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

    def take(self, data: bytes, poster: Poster) -> bool:
        """Take what came on a connection if it is one whole request with a known head; return whether it is."""
        start = data.find(b"\r\n\r\n") + 4
        known = self._known.get(data[:start])
        if known is None or len(data) != start + known.length or self._draining():
            return False
        if not self._waiting:
            get_hub().loop.run_callback(self._publish_waiting)
        self._waiting.setdefault(known.topic, []).append(Post(poster, data, start))
        return True

    def _publish_waiting(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for topic, posts in waiting.items():
            for start in range(0, len(posts), _TOGETHER):
                self._begin(topic, posts[start : start + _TOGETHER])

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
        answers = self._lane.publish_together(topic, [post.data[post.start :] for post in posts])
        if answers is None:
            for post in posts:
                post.poster.give_back(post.data)
            return
        status, headers, bodies = answers
        head = head_of(status, headers, keep=not self._draining())
        for post, body in zip(posts, bodies, strict=True):
            post.poster.reply(whole(head, body))
