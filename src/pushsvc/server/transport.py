"""A non-blocking socket on which one greenlet waits, up to a deadline that somebody else keeps."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable
from math import inf
from ssl import SSLWantReadError, SSLWantWriteError
from typing import TYPE_CHECKING, Any

from gevent import get_hub
from gevent.hub import Waiter

from pushsvc.server.tls import TlsSocket, wrap

if TYPE_CHECKING:
    from pushsvc.server.posts import Taken

_READ, _WRITE = 1, 2
_PIECE = 262_144
_PIECE_SECONDS = 60.0
"""A peer takes this many bytes within this many seconds: it may be slow, but not for ever."""

_SIZE = 65_536
_OFFERED = 8_192
"""Bytes of what may be taken: a small request whole, or some that a client sends without waiting."""

_MORE = getattr(socket, "MSG_MORE", 0)


class Overdue(Exception):
    """The deadline has passed."""


class Draining(Exception):
    """The server ends, and this connection has nothing under way."""


class Closing(Exception):
    """The peer was told that the connection closes. ``more``: it has sent something behind what was answered."""

    def __init__(self, *, more: bool) -> None:
        super().__init__()
        self.more = more


class Disconnected(Exception):
    """The peer is gone."""


class Transport:
    """``deadline`` is in ``time.monotonic`` seconds; the server looks at it now and then, and then interrupts the wait.

    So a wait costs no timer, and only a wait ends, never a computation. ``behind`` is what came behind bytes that were
    taken.
    """

    __slots__ = (
        "_closing", "_goes_on", "_held", "_offering", "_reading", "_stop", "_taken", "_unsent", "_waiter", "_writing",
        "behind", "deadline", "sock",
    )  # fmt: skip

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.deadline = inf
        self._reading = get_hub().loop.io(sock.fileno(), _READ)
        self._writing: Any = None
        self._waiter: Any = None
        self._stop: type[Exception] | None = None
        self._offering: Callable[[bytes], Taken] | None = None
        self._taken = self._held = False  # what came waits for a reply; and more of it came
        self._goes_on = False  # what is behind it is the beginning of something to be taken
        self._unsent = b""
        self._closing = False
        self.behind = b""  # what came behind bytes that were taken

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

    def receive_unless(self, taken: Callable[[bytes], Taken]) -> bytes | None:
        """Return what comes next, as ``receive``, but for what is ``taken`` before: that is asked in the loop's own
        greenlet. What it takes is to be answered by ``reply`` or given back by ``give_back``; until then nothing more
        is read. None where an answer was sent late, so that a new wait begins. Raise Closing behind an answer that is
        to be the last. Not for TLS."""
        self._offering = taken
        try:
            data: bytes | None = self._wait(self._reading, self._offer)
        finally:
            self._offering = None
            behind, self.behind = self.behind, b""
            held, self._taken, self._held = self._held, False, False
        sent_late = bool(self._unsent)
        if sent_late:
            rest, self._unsent = self._unsent, b""
            self.send(rest)
        if self._closing:
            raise Closing(more=held or bool(behind))
        if sent_late:
            return behind or None
        if data is None:
            return behind or self.receive()
        return data + behind

    def _offer(self) -> None:
        if self._taken:  # a client that does not wait for answers
            self._held = True
            self._reading.stop()
            return
        try:
            data = self.sock.recv(_OFFERED)
        except BlockingIOError:
            return
        except OSError:
            self._resume(None, self._waiter)  # and who was waiting will find out
            return
        if data and self._offering is not None:
            data, self.behind = self.behind + data, b""
            size, self._goes_on = self._offering(data)
            if size:
                self._taken, self.behind = True, data[size:]
                return
        self._resume(data, self._waiter)

    def reply(self, data: bytes, *, keep: bool) -> bool:
        """Send what answers bytes that were taken, the last answer unless ``keep``; return whether the next ones are
        waited for now."""
        if self._offering is None:
            return False  # the connection has ended meanwhile
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            sent = len(data)  # and the next read finds out
        self._unsent, self._closing = data[sent:], not keep
        if self._unsent or self._closing or (self.behind and not self._goes_on):
            self._resume_later(None)  # nothing is taken before
            return False
        self._taken = False
        if self._held:
            self._held = False
            self._reading.start(self._offer)
        return True

    def give_back(self, data: bytes) -> None:
        """Let bytes that were taken be received after all."""
        self._resume_later(data)

    def _resume_later(self, data: bytes | None) -> None:
        get_hub().loop.run_callback(self._resume, data, self._waiter)

    def _resume(self, data: bytes | None, waiter: Any) -> None:
        if self._offering is not None and self._waiter is waiter is not None:
            waiter.switch(data)

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
        """Wait until a watcher sees something, or ``call``, which it calls then, has switched back with something."""
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
