"""Accepts connections from the listening socket that the workers share, and enforces their deadlines."""

from __future__ import annotations

import errno
import logging
import resource
import socket
import time
from collections.abc import Callable

import gevent
from gevent import get_hub, monkey
from gevent.event import Event

from pushsvc.server.caps import Caps
from pushsvc.server.connection import HttpConnection
from pushsvc.server.context import ServerContext
from pushsvc.server.transport import DeadlineExceeded
from pushsvc.web import metrics

log = logging.getLogger(__name__)

TICK = 0.1
"""Seconds between two checks of all deadlines. The delay of a check measures the lag of the event loop."""

_PAUSE = 1.0
"""Seconds without accepting after the system has run out of descriptors."""

RESERVED_DESCRIPTORS = 256
"""Descriptors kept free for Redis, for files, and for connections that are refused with an answer."""

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_Socket: type[socket.socket] = monkey.get_original("socket", "socket")
"""Sockets that gevent does not patch: ``Transport`` does all waiting."""


class Acceptor:
    """Accepts one connection per turn of the loop, so that the workers share them evenly."""

    def __init__(self, listener: socket.socket, context: ServerContext, caps: Caps) -> None:
        self._listener = _Socket(listener.family, listener.type, listener.proto, fileno=listener.detach())
        self._listener.setblocking(False)
        self._context = context
        self._caps = caps
        self._max_open = max(1, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - RESERVED_DESCRIPTORS)
        self._connections: set[HttpConnection] = set()
        self._open = self._accepted = self._refused = 0
        self._all_closed = Event()
        loop = get_hub().loop
        self._readable = loop.io(self._listener.fileno(), 1)
        # With a repeat time: libev fires a restarted timer without one at once.
        self._pause = loop.timer(_PAUSE, _PAUSE)
        self._tick = loop.timer(TICK, TICK)
        self._tick_due = 0.0

    def start(self) -> None:
        self._readable.start(self._accept)
        self._tick_due = time.monotonic() + TICK
        self._tick.start(self._check_deadlines, update=True)

    def stop(self) -> None:
        """Stop accepting. Open connections continue; other workers and the parent hold the listening socket, too."""
        for watcher in (self._readable, self._pause):
            watcher.stop()
            watcher.close()
        self._listener.close()

    def drain(self) -> Event:
        """End connections without a request under way; return an event for the end of the last one, or stream."""
        self._context.draining.set()
        get_hub().loop.run_callback(self._end_idle)
        self._note_end()
        return self._all_closed

    def close(self) -> None:
        self._tick.stop()
        self._tick.close()
        metrics.CONNECTIONS.set(0)

    # These run in gevent's hub and must not wait.

    def _accept(self) -> None:
        try:
            descriptor, address = self._listener._accept()  # type: ignore[attr-defined]
        except (BlockingIOError, ConnectionAbortedError, InterruptedError):
            return  # another worker accepted it, or the peer has gone
        except OSError as error:
            self._pause_accepting(error)
            return
        sock = _Socket(self._listener.family, self._listener.type, self._listener.proto, fileno=descriptor)
        self._accepted += 1
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            sock.close()  # the peer has gone
            return
        self._admit(sock, (str(address[0]), int(address[1])))

    def _pause_accepting(self, error: OSError) -> None:
        if error.errno not in _EXHAUSTED:
            log.error("cannot accept connections: %s", error)
        else:
            log.warning("no connections are accepted for %.0f s: %s", _PAUSE, error.strerror)
        self._readable.stop()
        self._pause.again(self._resume_accepting)

    def _resume_accepting(self) -> None:
        self._pause.stop()
        self._readable.start(self._accept)

    def _admit(self, sock: socket.socket, address: tuple[str, int]) -> None:
        if self._open < self._max_open:
            refusal = self._caps.acquire(address[0])
        else:
            refusal = f"too many connections: this process accepts {self._max_open}"
        if refusal is None:
            self._open += 1
            self._spawn(sock, address, None, lambda: self._release(address[0]))
            return
        metrics.REFUSED.inc()
        if self._refused >= RESERVED_DESCRIPTORS // 2:
            sock.close()  # no descriptor is left for an answer
            return
        self._refused += 1
        self._spawn(sock, address, refusal, self._release_refused)

    def _spawn(
        self, sock: socket.socket, address: tuple[str, int], refusal: str | None, on_closed: Callable[[], None]
    ) -> None:
        connection = HttpConnection(self._context, sock, address, refusal, _Once(on_closed))
        self._connections.add(connection)
        gevent.spawn(self._run, connection)

    def _run(self, connection: HttpConnection) -> None:
        try:
            connection.run()
        finally:
            self._connections.discard(connection)
            self._note_end()

    def _release(self, address: str) -> None:
        self._open -= 1
        self._caps.release(address)
        self._note_end()

    def _release_refused(self) -> None:
        self._refused -= 1

    def _note_end(self) -> None:
        if self._context.draining.is_set() and not self._open and not self._connections:
            self._all_closed.set()

    def _end_idle(self) -> None:
        for connection in list(self._connections):
            connection.drain()

    def _check_deadlines(self) -> None:
        now = time.monotonic()
        metrics.LOOP_LAG.observe(max(0.0, now - self._tick_due))
        self._tick_due = max(self._tick_due + TICK, now)  # as libev schedules the timer
        metrics.CONNECTIONS.set(self._open)
        if self._accepted:
            metrics.ACCEPTED.inc(self._accepted)
            self._accepted = 0
        for connection in [one for one in self._connections if one.transport.deadline < now]:
            connection.transport.interrupt(DeadlineExceeded)


class _Once:
    """Calls back the first time only: a stream may report the end of its socket and then fail."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[[], None]) -> None:
        self._call: Callable[[], None] | None = call

    def __call__(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call()
