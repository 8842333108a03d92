"""Reads what Redis says of itself, where the event loop hears of it: nobody has to be woken for most of it."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from time import monotonic
from typing import Any

import hiredis
from gevent import get_hub
from gevent.event import Event
from redis import exceptions

_READ = 1
_SIZE = 65_536
_NOTHING = (BlockingIOError, InterruptedError, ssl.SSLWantReadError)


class Reading:
    """Reads on a connected ``sock``, which nobody else reads, until it is closed.

    ``take`` is shown each answer in gevent's hub, where nothing may wait, and says whether that was all there is to do
    with it. What it does not take, and whatever is behind it, is for ``answers``; until those are asked for again
    nothing more is read.
    """

    def __init__(self, sock: Any, take: Callable[[Any], bool]) -> None:
        self._sock = sock
        self._take = take
        self._reader = hiredis.Reader(protocolError=exceptions.InvalidResponse, replyError=exceptions.ResponseError)
        self._left: list[Any] = []
        self._came_at = 0.0
        self._error: Exception | None = None
        self._woken = Event()
        self._watcher = get_hub().loop.io(sock.fileno(), _READ)

    def answers(self, silence: float) -> list[Any] | None:
        """Return the next answers that were not taken; None after so many seconds in which nothing at all came.

        Raise OSError or RedisError where no more can come.
        """
        if self._error is not None:
            raise self._error
        self._came_at = monotonic()
        self._woken.clear()
        self._watcher.start(self._read)
        while not self._woken.wait(max(0.0, self._came_at + silence - monotonic())):
            if monotonic() >= self._came_at + silence:
                return None
        if self._error is not None and not self._left:
            raise self._error
        left, self._left = self._left, []
        return left

    def fail(self, error: Exception) -> None:
        """Let ``answers`` raise an error."""
        self._error = error
        self._watcher.stop()
        self._woken.set()

    def close(self) -> None:
        """Read no more. The socket is its owner's to close."""
        self._watcher.stop()
        self._watcher.close()

    def _read(self) -> None:
        try:
            while self._read_piece():
                pass
        except Exception as error:  # noqa: BLE001 - raised where somebody waits for it
            self.fail(error)
        if self._left:
            self._watcher.stop()
            self._woken.set()

    def _read_piece(self) -> bool:
        """Return whether there may be more that no poll sees: what TLS has in its own buffer."""
        data = self._received()
        if data is None:
            return False
        if not data:
            raise exceptions.ConnectionError("Redis closed the connection")
        self._came_at = monotonic()
        self._reader.feed(data)
        while (answer := self._reader.gets()) is not False:
            if self._left or not self._take(answer):
                self._left.append(answer)
        return isinstance(self._sock, ssl.SSLSocket) and self._sock.pending() > 0

    def _received(self) -> bytes | None:
        # The timeout is that of whoever sends, and it is Python's alone: it changes nothing for who is sending now.
        timeout = self._sock.gettimeout()
        self._sock.settimeout(0)
        try:
            data: bytes = self._sock.recv(_SIZE)
        except _NOTHING:
            return None
        finally:
            self._sock.settimeout(timeout)
        return data
