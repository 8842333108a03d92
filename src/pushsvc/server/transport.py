"""A non-blocking socket on which one greenlet waits, up to a deadline that somebody else keeps."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable
from math import inf
from ssl import SSLWantReadError, SSLWantWriteError
from typing import Any

from gevent import get_hub
from gevent.hub import Waiter

from pushsvc.server.tls import TlsSocket, wrap

_READ, _WRITE = 1, 2
_PIECE = 262_144
_PIECE_SECONDS = 60.0
"""A peer takes this many bytes within this many seconds: it may be slow, but not for ever."""

_SIZE = 65_536
_MORE = getattr(socket, "MSG_MORE", 0)


class Overdue(Exception):
    """The deadline has passed."""


class Draining(Exception):
    """The server ends, and this connection has nothing under way."""


class Disconnected(Exception):
    """The peer is gone."""


class Transport:
    """``deadline`` is in ``time.monotonic`` seconds; the server looks at it now and then, and then interrupts the wait.

    So a wait costs no timer, and only a wait ends, never a computation.
    """

    __slots__ = ("_reading", "_stop", "_waiter", "_writing", "deadline", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.deadline = inf
        self._reading = get_hub().loop.io(sock.fileno(), _READ)
        self._writing: Any = None
        self._waiter: Any = None
        self._stop: type[Exception] | None = None

    def within(self, seconds: float) -> None:
        """Set the deadline of what is waited for from now on."""
        self.deadline = time.monotonic() + seconds
        self._stop = None

    def no_deadline(self) -> None:
        self.deadline = inf

    def interrupt(self, reason: type[Exception]) -> None:
        """End the present wait with ``reason``, unless bytes are there. To be called in gevent's hub."""
        self._stop = reason
        if self._waiter is not None:
            self._waiter.switch(None)

    def receive(self, *, patient: bool = False) -> bytes:
        """Return what has come; empty at the end. Raise Disconnected, or what the wait was interrupted with.

        ``patient`` expects nothing to be there yet, and so saves a call in vain. TLS may hold bytes that no poll sees.
        """
        if patient and self._stop is None and not isinstance(self.sock, TlsSocket):
            self._wait(self._reading)
        while True:
            try:
                return self.sock.recv(_SIZE)
            except (BlockingIOError, SSLWantReadError):
                self._wait(self._reading)
            except SSLWantWriteError:
                self._wait(self._writer())
            except OSError as error:
                raise Disconnected from error

    def watch(self, look: Callable[[], None]) -> Any:
        """Call ``look``, in gevent's hub, whenever there is something to read, until ``resume``. Return what that was
        given, or None where the wait was interrupted."""
        return self._wait(self._reading, look)

    def stop_watching(self) -> None:
        """Do not look until ``watch_again``; the wait goes on."""
        self._reading.stop()

    def watch_again(self, look: Callable[[], None]) -> None:
        self._reading.start(look)

    def resume(self, data: bytes | None) -> None:
        """End the present wait. To be called in gevent's hub."""
        self._waiter.switch(data)

    @staticmethod
    def give_way() -> None:
        """Let everything else have its turn: a peer that always has more would keep the loop for itself."""
        # gevent.sleep(0) would come before other sockets' turn.
        get_hub().wait(get_hub().loop.timer(0))

    def send(self, data: bytes, *, more: bool = False) -> None:
        """Send everything. Raise Disconnected, also for a peer that takes too little in its time.

        Where ``more`` follows at once, the kernel may send both together.
        """
        first = data if len(data) <= _PIECE else memoryview(data)[:_PIECE]
        rest = memoryview(data)[self._try(first, _MORE if more and not isinstance(self.sock, TlsSocket) else 0) :]
        try:
            for start in range(0, len(rest), _PIECE):
                self.within(_PIECE_SECONDS)
                self._send(rest[start : start + _PIECE])
        except Overdue:
            raise Disconnected from None
        self.no_deadline()

    def _try(self, data: bytes | memoryview, flags: int) -> int:
        """Send what goes without waiting, which mostly is all."""
        try:
            return self.sock.send(data, flags)
        except (BlockingIOError, SSLWantWriteError, SSLWantReadError):
            return 0
        except OSError as error:
            raise Disconnected from error

    def _send(self, data: memoryview) -> None:
        while data:
            try:
                sent = self.sock.send(data)
            except (BlockingIOError, SSLWantWriteError):
                self._wait(self._writer())  # and no fewer bytes again: TLS has begun to send them
            except SSLWantReadError:
                self._wait(self._reading)
            except OSError as error:
                raise Disconnected from error
            else:
                data = data[sent:]

    def secure(self, context: ssl.SSLContext) -> None:
        """Put TLS around the socket and shake hands. Raise Disconnected where the peer does not speak it."""
        try:
            self.sock.getpeername()  # who is gone already has no hand to shake
            self.sock = wrap(context, self.sock)
        except OSError as error:
            raise Disconnected from error
        while True:
            try:
                self.sock.do_handshake()  # type: ignore[attr-defined]
                return
            except SSLWantReadError:
                self._wait(self._reading)
            except SSLWantWriteError:
                self._wait(self._writer())
            except OSError as error:
                raise Disconnected from error

    def release(self) -> socket.socket:
        """Return the socket, free of everything here."""
        self._reading.close()
        if self._writing is not None:
            self._writing.close()
        return self.sock

    def end_sending(self) -> None:
        """Tell the peer that nothing more comes, while it may still send. Without it TLS calls an end a cut."""
        while True:
            try:
                if isinstance(self.sock, TlsSocket):
                    self.sock.unwrap()
                else:
                    self.sock.shutdown(socket.SHUT_WR)
                return
            except SSLWantWriteError:
                self._wait(self._writer())
            except (OSError, ValueError):
                return  # it has been told, or is gone

    def _writer(self) -> Any:
        if self._writing is None:
            self._writing = get_hub().loop.io(self.sock.fileno(), _WRITE)
        return self._writing

    def _wait(self, watcher: Any, call: Callable[[], None] | None = None) -> Any:
        """Wait until a watcher sees something; where it ``call``s somebody then, until that resumes."""
        if self._stop is not None:
            raise self._stop
        waiter = self._waiter = Waiter()
        if call is None:
            watcher.start(waiter.switch, None)
        else:
            watcher.start(call)
        try:
            return waiter.get()
        finally:
            watcher.stop()
            self._waiter = None
