"""A non-blocking socket on which one greenlet waits. The acceptor enforces the deadline of the wait."""

import select
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import inf
from ssl import SSLWantReadError, SSLWantWriteError
from typing import Any

from gevent import get_hub
from gevent.hub import Waiter
from gevent.monkey import get_original

from pushsvc.errors import MemoryFull
from pushsvc.server.tls import TlsSocket
from pushsvc.web.memory.budget import Hold, MemoryBudget

_READ, _WRITE = 1, 2
_PIECE = 262_144
"""Bytes that are given to the socket at a time. A larger answer is counted before it is sent."""

_READ_SIZE = 65_536
_poll: Callable[[], Any] = get_original("select", "poll")  # gevent's own would yield
_GONE = getattr(select, "POLLRDHUP", 0)  # where it is missing, poll reports a broken connection only
_MORE = getattr(socket, "MSG_MORE", 0)
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: closing the socket drops what the kernel has not sent yet."""


class DeadlineExceeded(Exception):
    """The deadline of a wait has passed."""


class Draining(Exception):
    """The server is ending, and this connection has no request under way."""


class Disconnected(Exception):
    """The peer closed or broke the connection."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a body must arrive, and how fast an answer must be read.

    The first byte may take ``seconds``, and so may any pause. The whole may take one second more for each ``rate``
    bytes. So a client cannot hold a connection by a byte now and then, nor by stopping near the end.
    """

    seconds: float = 30.0
    rate: int = 16_384

    def deadline(self, begun: float, now: float, done: int, size: int = 0) -> float:
        """Return when the next ``size`` bytes must be done, where ``done`` bytes were since ``begun``."""
        return min(begun + (done + size) / self.rate, now + size / self.rate) + self.seconds


class Transport:
    """Sends and receives bytes. ``deadline`` is in ``time.monotonic`` seconds.

    The acceptor checks all deadlines periodically and interrupts the waits that have passed theirs. So a wait needs no
    timer of its own, and a computation is never interrupted.

    Bytes that ``address`` has not taken count in ``memory``. It must take them at ``pace``.
    """

    __slots__ = (
        "_address", "_hold", "_interrupted", "_memory", "_readable", "_waiter", "_writable", "deadline", "pace", "sock",
    )  # fmt: skip

    def __init__(self, sock: socket.socket, address: str, memory: MemoryBudget, pace: Pace) -> None:
        self._address, self._memory, self.pace = address, memory, pace
        self._hold: Hold | None = None  # the newest one
        self.sock = sock
        self.deadline = inf
        self._readable = get_hub().loop.io(sock.fileno(), _READ)
        self._writable: Any = None
        self._waiter: Any = None
        self._interrupted: type[Exception] | None = None

    def set_deadline(self, seconds: float) -> None:
        """Let the following waits end ``seconds`` from now."""
        self.deadline = time.monotonic() + seconds
        self._interrupted = None

    def count_for(self, address: str) -> None:
        """Count what is held from now on for this address: a proxy forwards the requests of many."""
        self._address = address

    def clear_deadline(self) -> None:
        self.deadline = inf

    def interrupt(self, reason: type[Exception]) -> None:
        """Raise ``reason`` in the present wait, or in the next one. Call it in gevent's hub."""
        self._interrupted = reason
        if self._waiter is not None:
            self._waiter.switch(None)

    def receive(self, *, wait_first: bool = False) -> bytes:
        """Return received bytes, none at the end. Raise Disconnected, or the reason of an interrupt.

        ``wait_first`` waits before the first read: it saves a system call where no bytes are expected yet.
        """
        # TLS may hold decrypted bytes that no poll reports.
        if wait_first and self._interrupted is None and not isinstance(self.sock, TlsSocket):
            self._wait(self._readable)
        while True:
            try:
                return self.sock.recv(_READ_SIZE)
            except (BlockingIOError, SSLWantReadError):
                self._wait(self._readable)
            except SSLWantWriteError:
                self._wait(self._writer())
            except OSError as error:
                raise Disconnected from error

    def wait_calling(self, on_readable: Callable[[], None]) -> Any:
        """Call ``on_readable`` in gevent's hub whenever bytes arrive, until ``end_wait``. Return the value given to
        ``end_wait``; None if the wait was interrupted."""
        return self._wait(self._readable, on_readable)

    def pause_reading(self) -> None:
        """Stop the calls until ``resume_reading``; the wait continues."""
        self._readable.stop()

    def resume_reading(self, on_readable: Callable[[], None]) -> None:
        self._readable.start(on_readable)

    def end_wait(self, value: bytes | None) -> None:
        """End the present wait. Call it in gevent's hub."""
        self._waiter.switch(value)

    @staticmethod
    def yield_to_loop() -> None:
        """Run all other ready work first: a peer that always has more to send must not occupy the loop."""
        # gevent.sleep(0) would resume before other sockets are polled.
        get_hub().wait(get_hub().loop.timer(0))

    def send(self, data: bytes, *, after: bytes = b"", more: bool = False) -> None:
        """Send all of ``after`` and of ``data``. Raise Disconnected, also if the peer reads too slowly.

        Raise MemoryFull if there is no room for data that may have to wait; then nothing was sent. ``more`` announces
        that further bytes follow at once, so the kernel may send them together.
        """
        if len(data) > _PIECE:
            with self._holding(len(data)):
                self._send_at_pace(after)
                self._send_at_pace(data)
            return
        data = after + data if after else data
        sent = self._try(data, _MORE if more and not isinstance(self.sock, TlsSocket) else 0)
        if sent == len(data):
            return
        try:
            with self._holding(len(data)):
                self._send_at_pace(memoryview(data)[sent:])
        except MemoryFull:
            self._cut()
            raise Disconnected from None

    def _send_at_pace(self, data: bytes | memoryview) -> None:
        data, begun = memoryview(data), time.monotonic()
        try:
            for start in range(0, len(data), _PIECE):
                piece = data[start : start + _PIECE]
                self.deadline = self.pace.deadline(begun, time.monotonic(), start, len(piece))
                self._send(piece)
        except (DeadlineExceeded, MemoryFull):
            self._cut()
            raise Disconnected from None
        self.clear_deadline()

    def _cut(self) -> None:
        """Let the kernel drop what it has not sent when the socket is closed: the peer does not read it."""
        with suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

    def _try(self, data: bytes | memoryview, flags: int) -> int:
        """Send without waiting; return how many bytes were sent, usually all."""
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
                self._wait(self._writer())  # TLS has begun this write: the next call must offer the same bytes
            except SSLWantReadError:
                self._wait(self._readable)
            except OSError as error:
                raise Disconnected from error
            else:
                data = data[sent:]

    def hold(self, size: int) -> Hold:
        """Count bytes that are held for the peer. Raise MemoryFull if there is no room.

        If they must make room for others, the present wait raises MemoryFull.
        """
        self._hold = self._memory.hold(self._address, size, self._on_let_go)
        return self._hold

    def end_hold(self, hold: Hold) -> None:
        """Count these bytes no more, and let nothing interrupt the peer because of them."""
        hold.release()
        if self._hold is hold:
            self._hold = None

    @contextmanager
    def _holding(self, size: int) -> Iterator[None]:
        before, self._interrupted = self._hold, None
        hold = self.hold(size)
        try:
            yield
        finally:
            hold.release()
            self._hold = before

    def _on_let_go(self) -> None:
        get_hub().loop.run_callback(self._interrupt_holder)

    def _interrupt_holder(self) -> None:
        if self._hold is not None and self._hold.gone and self._waiter is not None:
            self.interrupt(MemoryFull)

    def peer_gone(self) -> bool:
        """Return whether the peer has closed the connection, or will send nothing more."""
        poll = _poll()
        poll.register(self.sock.fileno(), _GONE)
        return bool(poll.poll(0))

    def start_tls(self, context: ssl.SSLContext) -> None:
        """Wrap the socket in TLS and do the handshake. Raise Disconnected if the peer does not speak TLS."""
        try:
            self.sock.getpeername()  # else wrapping a disconnected socket would leave it without TLS
            self.sock = context.wrap_socket(self.sock, server_side=True, do_handshake_on_connect=False)
            self.sock.settimeout(0.0)
        except OSError as error:
            raise Disconnected from error
        while True:
            try:
                self.sock.do_handshake()
                return
            except SSLWantReadError:
                self._wait(self._readable)
            except SSLWantWriteError:
                self._wait(self._writer())
            except OSError as error:
                raise Disconnected from error

    def release(self) -> socket.socket:
        """Close the watchers and return the socket."""
        self._readable.close()
        if self._writable is not None:
            self._writable.close()
        return self.sock

    def shutdown_write(self) -> None:
        """Close the sending direction; the peer may still send. TLS requires it: else the peer sees a truncation."""
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
                return  # the shutdown was sent, or the peer has gone

    def _writer(self) -> Any:
        if self._writable is None:
            self._writable = get_hub().loop.io(self.sock.fileno(), _WRITE)
        return self._writable

    def _wait(self, watcher: Any, callback: Callable[[], None] | None = None) -> Any:
        """Wait for a watcher; with a ``callback``, call it at each event and wait for ``end_wait``."""
        if self._interrupted is not None:
            raise self._interrupted
        waiter = self._waiter = Waiter()
        if callback is None:
            watcher.start(waiter.switch, None)
        else:
            watcher.start(callback)
        try:
            return waiter.get()
        finally:
            watcher.stop()
            self._waiter = None
