"""Reads Redis's replies within gevent's hub: most messages are handled without waking a greenlet."""

import ssl
from collections.abc import Callable
from time import monotonic
from typing import Any

import hiredis
from gevent import get_hub
from gevent.event import Event
from redis import exceptions

_READ = 1
_RECEIVE_BYTES = 65_536
_WOULD_BLOCK = (BlockingIOError, InterruptedError, ssl.SSLWantReadError)


def no_reading_pause() -> float:
    return 0.0


class ReplyReader:
    """Reads a connected ``sock`` that has no other reader, until it is closed.

    ``handle`` gets each reply in gevent's hub, where it must not block, and returns whether the reply is done with. A
    reply that is not, and every later one, is left for ``replies``; nothing more is read until that is called again.
    After each read ``reading_pause`` returns for how many seconds what comes next may stay in the socket.
    """

    def __init__(
        self, sock: Any, handle: Callable[[Any], bool], reading_pause: Callable[[], float] = no_reading_pause
    ) -> None:
        self._sock = sock
        self._handle = handle
        self._reading_pause = reading_pause
        self._timer: Any = None  # runs while the reader pauses
        self._parser = hiredis.Reader(protocolError=exceptions.InvalidResponse, replyError=exceptions.ResponseError)
        self._unhandled: list[Any] = []
        self._received_at = 0.0
        self._error: Exception | None = None
        self._wake = Event()
        self._watcher = get_hub().loop.io(sock.fileno(), _READ)

    def replies(self, silence: float) -> list[Any] | None:
        """Return the next replies that were not handled; None after ``silence`` seconds without any data.

        Raise OSError or RedisError if no more can come.
        """
        if self._error is not None:
            raise self._error
        self._received_at = monotonic()
        self._wake.clear()
        if self._timer is None:
            self._watcher.start(self._read)
        while not self._wake.wait(max(0.0, self._received_at + silence - monotonic())):
            if monotonic() >= self._received_at + silence:
                return None
        if self._error is not None and not self._unhandled:
            raise self._error
        unhandled, self._unhandled = self._unhandled, []
        return unhandled

    def fail(self, error: Exception) -> None:
        """Make ``replies`` raise an error."""
        self._error = error
        self._stop()
        self._wake.set()

    def close(self) -> None:
        """Stop reading. The socket stays open."""
        self._stop()
        self._watcher.close()

    def _stop(self) -> None:
        self._watcher.stop()
        if self._timer is not None:
            self._timer.close()
            self._timer = None

    def _read(self) -> None:
        try:
            while self._read_once():
                pass
        except Exception as error:  # noqa: BLE001 - raised in the greenlet that waits
            self.fail(error)
        if self._unhandled:
            self._watcher.stop()
            self._wake.set()
        elif self._error is None and (seconds := self._reading_pause()) > 0:
            self._watcher.stop()
            self._timer = get_hub().loop.timer(seconds)
            self._timer.start(self._go_on)

    def _go_on(self) -> None:
        self._timer.close()
        self._timer = None
        self._watcher.start(self._read)

    def _read_once(self) -> bool:
        """Return whether TLS holds more data, which no poll of the socket shows."""
        data = self._receive()
        if data is None:
            return False
        if not data:
            raise exceptions.ConnectionError("Redis closed the connection")
        self._received_at = monotonic()
        self._parser.feed(data)
        while (reply := self._parser.gets()) is not False:
            if self._unhandled or not self._handle(reply):
                self._unhandled.append(reply)
        return isinstance(self._sock, ssl.SSLSocket) and self._sock.pending() > 0

    def _receive(self) -> bytes | None:
        # The timeout belongs to the senders. It lives in Python only, so a greenlet that is sending is not affected.
        timeout = self._sock.gettimeout()
        self._sock.settimeout(0)
        try:
            data: bytes = self._sock.recv(_RECEIVE_BYTES)
        except _WOULD_BLOCK:
            return None
        finally:
            self._sock.settimeout(timeout)
        return data
