"""What all followers of a process follow together."""

from __future__ import annotations

from collections.abc import Callable

import gevent

from pushsvc.errors import TooManyLogsFollowed
from pushsvc.hub.feed.tail import Tail


class Tally:
    """The number of ``logs``, and about how many ``bytes`` the rows of their windows take.

    If these are more than ``most``, ``make_room`` is called soon, in a greenlet of its own: it ends streams.
    """

    __slots__ = ("_make_room", "_making_room", "bytes", "logs", "most")

    def __init__(self, most: int, make_room: Callable[[], None]) -> None:
        self.logs = self.bytes = 0
        self.most = most
        self._make_room = make_room
        self._making_room = False

    def has_room(self, more: int = 0) -> bool:
        """Return whether more bytes may be held; by default, whether there is any room."""
        return self.bytes + more < self.most

    @property
    def refusal(self) -> TooManyLogsFollowed:
        """Return why a window cannot be followed without room."""
        return TooManyLogsFollowed("limits.followed_bytes is reached: raise it, or run more web processes")

    def count(self, tail: Tail, size: int) -> None:
        """Set the bytes of a log, which its rows take, to ``size``."""
        self.bytes += size - tail.counted
        tail.counted = size
        if self.bytes > self.most and not self._making_room:
            self._making_room = True
            gevent.spawn(self._run)

    def discard(self, tail: Tail) -> None:
        """Count a log no more."""
        self.logs -= 1
        self.bytes -= tail.counted
        tail.counted = 0

    def _run(self) -> None:
        self._making_room = False
        self._make_room()
