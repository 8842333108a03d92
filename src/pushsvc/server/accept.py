"""Takes connections from the listening socket that the workers share, and looks after them."""

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
from pushsvc.server.connection import Connection, Site
from pushsvc.server.transport import Overdue
from pushsvc.web import metrics

log = logging.getLogger(__name__)

TICK = 0.1
"""Seconds between two looks at deadlines; what a look is late is the lag of the loop."""

PAUSE = 1.0
"""Seconds without accepting, where the system has no descriptor left."""

RESERVE = 256
"""Descriptors that are not for subscribers: Redis, files, and connections that are told that the house is full."""

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_Socket: type[socket.socket] = monkey.get_original("socket", "socket")
"""The system's own sockets: all waiting is done by ``Transport``."""


class Acceptor:
    """Accepts one connection per turn of the loop, so that the workers share them fairly."""

    def __init__(self, listener: socket.socket, site: Site, caps: Caps) -> None:
        self._listener = _Socket(listener.family, listener.type, listener.proto, fileno=listener.detach())
        self._listener.setblocking(False)
        self._site = site
        self._caps = caps
        self._most = max(1, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - RESERVE)
        self._connections: set[Connection] = set()
        self._open = self._accepted = self._refused = 0
        self._empty = Event()
        loop = get_hub().loop
        self._watcher = loop.io(self._listener.fileno(), 1)
        # With a time to repeat: a timer without one that is started again fires at once.
        self._pause = loop.timer(PAUSE, PAUSE)
        self._tick = loop.timer(TICK, TICK)
        self._due = 0.0

    def start(self) -> None:
        self._watcher.start(self._accept)
        self._due = time.monotonic() + TICK
        self._tick.start(self._look_after, update=True)

    def stop(self) -> None:
        """Accept no more; what is there goes on. Other workers, and the parent, hold the same socket."""
        for watcher in (self._watcher, self._pause):
            watcher.stop()
            watcher.close()
        self._listener.close()

    def drain(self) -> Event:
        """End connections that have nothing under way; return what is set when none is left, streams included."""
        self._site.draining = True
        get_hub().loop.run_callback(self._end_idle)
        self._note_end()
        return self._empty

    def close(self) -> None:
        self._tick.stop()
        self._tick.close()
        metrics.CONNECTIONS.set(0)

    # Accepting: in the loop's own greenlet, so nothing here may wait.

    def _accept(self) -> None:
        try:
            descriptor, address = self._listener._accept()  # type: ignore[attr-defined]
        except (BlockingIOError, ConnectionAbortedError, InterruptedError):
            return  # another worker was faster, or the peer is gone again
        except OSError as error:
            self._rest(error)
            return
        sock = _Socket(self._listener.family, self._listener.type, self._listener.proto, fileno=descriptor)
        self._accepted += 1
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            sock.close()  # the peer is gone
            return
        self._admit(sock, (str(address[0]), int(address[1])))

    def _rest(self, error: OSError) -> None:
        if error.errno not in _EXHAUSTED:
            log.error("accepting failed: %s", error)
        else:
            log.warning("no connections are accepted for %.0f s: %s", PAUSE, error.strerror)
        self._watcher.stop()
        self._pause.again(self._go_on)

    def _go_on(self) -> None:
        self._pause.stop()
        self._watcher.start(self._accept)

    def _admit(self, sock: socket.socket, address: tuple[str, int]) -> None:
        refused = f"this server holds {self._most} connections, the most it can" if self._open >= self._most else None
        refused = refused or self._caps.take(address[0])
        if refused is None:
            self._open += 1
            self._begin(sock, address, None, lambda: self._give_back(address[0]))
            return
        metrics.REFUSED.inc()
        if self._refused >= RESERVE // 2:
            sock.close()  # there is no room even for the answer
            return
        self._refused += 1
        self._begin(sock, address, refused, self._forget_refused)

    def _begin(
        self, sock: socket.socket, address: tuple[str, int], refused: str | None, ended: Callable[[], None]
    ) -> None:
        connection = Connection(self._site, sock, address, refused, _Once(ended))
        self._connections.add(connection)
        gevent.spawn(self._run, connection)

    def _run(self, connection: Connection) -> None:
        try:
            connection.run()
        finally:
            self._connections.discard(connection)
            self._note_end()

    def _give_back(self, address: str) -> None:
        self._open -= 1
        self._caps.give_back(address)
        self._note_end()

    def _forget_refused(self) -> None:
        self._refused -= 1

    def _note_end(self) -> None:
        if self._site.draining and not self._open and not self._connections:
            self._empty.set()

    def _end_idle(self) -> None:
        for connection in list(self._connections):
            connection.drain()

    # Looking after

    def _look_after(self) -> None:
        now = time.monotonic()
        metrics.LOOP_LAG.observe(max(0.0, now - self._due))
        self._due = max(self._due + TICK, now)  # as the timer itself does
        metrics.CONNECTIONS.set(self._open)
        if self._accepted:
            metrics.ACCEPTED.inc(self._accepted)
            self._accepted = 0
        for connection in [one for one in self._connections if one.transport.deadline < now]:
            connection.transport.interrupt(Overdue)


class _Once:
    """Calls back the first time only: who takes a connection over may have told its end before failing."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[[], None]) -> None:
        self._call: Callable[[], None] | None = call

    def __call__(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call()
