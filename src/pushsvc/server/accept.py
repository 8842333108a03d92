"""Accepts connections from the listening socket that the workers share, and enforces their deadlines."""

import errno
import fcntl
import logging
import os
import resource
import socket
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import gevent
from gevent import get_hub, monkey
from gevent.event import Event

from pushsvc.server.caps import Caps
from pushsvc.server.connection import HttpConnection
from pushsvc.server.context import ServerContext
from pushsvc.server.transport import DeadlineExceeded
from pushsvc.web import metrics
from pushsvc.web.memory.networks import network_of

log = logging.getLogger(__name__)

TICK = 0.1
"""Seconds between two checks of all deadlines. The delay of a check measures the lag of the event loop."""

_PAUSE = 1.0
"""Seconds without accepting after the system has run out of descriptors."""

RESERVED_DESCRIPTORS = 256
"""Descriptors kept free for Redis, for files, and for connections that are refused with an answer."""

_FULL = 15 / 16
"""Of its connections, from which on a worker leaves accepting to others that have more room."""

_AHEAD, _AHEAD_SHARE = 100, 8
"""By how many connections, or by which part of the emptiest worker's, a worker may be ahead of it. Then it leaves
accepting to others for a tick."""

_ANSWERED = RESERVED_DESCRIPTORS // 2
"""Refused connections that may be open: one more ends the oldest of the network that has most of them."""

_FLOODS_ANSWERED = 16
"""Connections beyond the rates of their addresses that get an answer in a tick. The others are closed at once."""

_MAX_SLICE, _SLICE_SECONDS = 512, 0.002
"""Bounds of what is accepted in one turn of the loop."""

_BEGUN = 32
"""Connections that begin in one turn. Their requests take longer than accepting the next ones."""

_TABLE = 65_536
"""Descriptors for which a worker prepares the kernel's table, which takes 8 bytes for each."""

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_Socket: type[socket.socket] = monkey.get_original("socket", "socket")
"""Sockets that gevent does not patch: ``Transport`` does all waiting."""


class Acceptor:
    """Accepts connections in slices, and lets a few of them begin in each turn of the loop.

    A slice starts with one connection and doubles as long as the queue of the listening socket does not get empty. So
    the workers share connections evenly that come one after the other, and many that come at once soon leave the
    queue: the kernel drops what it has no room for, and those clients try again after a second or more.

    Only one acceptor of a process writes the metrics: one that does not is ``unmeasured``.
    """

    def __init__(
        self, listener: socket.socket, context: ServerContext, caps: Caps, *, unmeasured: bool = False
    ) -> None:
        self._unmeasured = unmeasured
        self._listener = _Socket(listener.family, listener.type, listener.proto, fileno=listener.detach())
        self._listener.setblocking(False)
        self._context = context
        self._caps = caps
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._max_open = max(1, files - RESERVED_DESCRIPTORS)
        self._full = max(1, int(self._max_open * _FULL))
        self._left_to_others = False
        self._emptiest = caps.emptiest_other()
        self._waits = self._accepts_anyway = False  # as this worker is ahead of the emptiest; although it is
        _enlarge_descriptor_table(self._listener.fileno(), min(files, _TABLE))
        self._connections: set[HttpConnection] = set()
        self._open = self._accepted = self._refused_open = self._ending = 0
        self._refused: dict[HttpConnection, bytes | None] = {}  # with their networks, the oldest first
        self._on_closed, self._on_refused_closed = self._release, self._release_refused  # bound once for all
        self._slice = 1
        self._accept_due = 0.0
        self._queue: deque[tuple[int, tuple[Any, ...]]] = deque()  # descriptor and address of accepted connections
        self._all_closed = Event()
        loop: Any = get_hub().loop
        self._readable = loop.io(self._listener.fileno(), 1, priority=loop.MAXPRI)  # before the work of this turn
        self._next_turn = loop.timer(0)
        # With a repeat time: libev fires a restarted timer without one at once.
        self._pause = loop.timer(_PAUSE, _PAUSE)
        self._tick = loop.timer(TICK, TICK)
        self._tick_due = 0.0
        self._flooding = 0  # connections beyond a rate in this tick

    def start(self) -> None:
        self._readable.start(self._accept)
        self._tick_due = time.monotonic() + TICK
        self._tick.start(self._check_deadlines, update=True)

    def stop(self) -> None:
        """Stop accepting. Open connections continue; other workers and the parent hold the listening socket, too."""
        while self._queue:
            self._admit(*self._queue.popleft())
        for watcher in (self._readable, self._pause, self._next_turn):
            watcher.stop()
            watcher.close()
        self._left_to_others = self._waits = False
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
        if not self._unmeasured:
            metrics.CONNECTIONS.set(0)

    # These run in gevent's hub and must not wait.

    def _accept(self) -> None:
        if self._leave_to_others() or self._wait_for_others():
            return
        until = time.perf_counter() + _SLICE_SECONDS
        room = max(1, self._max_open - self._open)  # one: it is refused with an answer
        most = min(len(self._queue) + self._slice, room)
        while len(self._queue) < most:
            if not self._accept_one():
                self._slice = 1
                break
            if time.perf_counter() > until:
                break
        else:
            self._slice = min(2 * self._slice, _MAX_SLICE)
        self._accept_due = time.perf_counter() + _SLICE_SECONDS
        if not self._next_turn.active:
            self._begin()

    def _leave_to_others(self) -> bool:
        """Stop accepting while this worker is nearly full and another is not; return whether that is so."""
        leave = self._open + len(self._queue) >= self._full and self._caps.another_below(self._full)
        if leave and not self._left_to_others:
            self._readable.stop()
        elif self._left_to_others and not leave:
            self._left_to_others = False
            self._listen()
        self._left_to_others = leave
        return leave

    @property
    def _is_ahead(self) -> bool:
        if self._emptiest is None:
            return False
        least = self._emptiest.connections
        return self._open + len(self._queue) >= least + max(_AHEAD, least // _AHEAD_SHARE)

    def _wait_for_others(self) -> bool:
        """Stop accepting until the next tick if an emptier worker may accept instead; return whether that is so."""
        if self._accepts_anyway or not self._is_ahead:
            return False
        self._emptiest = self._caps.emptiest_other()  # it was known as of the last tick
        if self._is_ahead:
            self._waits = True
            self._readable.stop()
        return self._waits

    def _look_at_others(self) -> None:
        """Accept again after a tick, unless the emptiest worker accepts. One that hangs, or only starts, does not."""
        before, self._emptiest = self._emptiest, self._caps.emptiest_other()
        self._accepts_anyway = False
        if (
            self._waits
            and before is not None
            and not (self._is_ahead and self._caps.count(before.row) > before.connections)
        ):
            self._accepts_anyway = self._is_ahead
            self._waits = False
            self._listen()

    def _listen(self) -> None:
        """Watch the listening socket again, unless there is another reason not to."""
        if not (self._left_to_others or self._waits or self._pause.active):
            self._readable.start(self._accept)

    def _accept_one(self) -> bool:
        """Accept a connection; return False if there is none."""
        try:
            accepted = self._listener._accept()  # type: ignore[attr-defined]
        except (BlockingIOError, ConnectionAbortedError, InterruptedError):
            return False  # another worker accepted it, or the peer has gone
        except OSError as error:
            self._pause_accepting(error)
            return False
        self._queue.append(accepted)
        return True

    def _begin(self) -> None:
        """Let the next few accepted connections begin; only one while many more wait to be accepted."""
        for _ in range(min(len(self._queue), _BEGUN if self._slice < _MAX_SLICE else 1)):
            if self._ending >= _BEGUN:
                break  # a slow process ends them in the next turns; until then it has no descriptor for more answers
            self._admit(*self._queue.popleft())
        if self._queue:
            self._next_turn.start(self._begin)

    def _pause_accepting(self, error: OSError) -> None:
        if error.errno not in _EXHAUSTED:
            log.error("cannot accept connections: %s", error)
        else:
            log.warning("no connections are accepted for %.0f s: %s", _PAUSE, error.strerror)
        self._readable.stop()
        self._pause.again(self._resume_accepting)

    def _resume_accepting(self) -> None:
        self._pause.stop()
        self._listen()

    def _admit(self, descriptor: int, address: tuple[Any, ...]) -> None:
        sock = _Socket(self._listener.family, self._listener.type, self._listener.proto, fileno=descriptor)
        self._accepted += 1
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            sock.close()  # the peer has gone
            return
        host, port = str(address[0]), int(address[1])
        if self._floods(host):
            metrics.REFUSED.inc()
            sock.close()
            return
        counted = "" if host in self._context.proxies else host  # a proxy forwards everybody
        if self._open < self._max_open:
            refusal = self._caps.acquire(counted)
        else:
            refusal = f"too many connections: this process accepts {self._max_open}"
        if refusal is None:
            self._open += 1
            self._spawn(sock, (host, port), None, _Once(self._on_closed, counted))
            return
        metrics.REFUSED.inc()
        if self._refused_open >= RESERVED_DESCRIPTORS - _ANSWERED // 2:
            sock.close()  # no descriptor is left for an answer
            return
        if len(self._refused) >= _ANSWERED:
            self._end_refused()
        self._refused_open += 1
        connection = self._spawn(sock, (host, port), refusal, _Once(self._on_refused_closed, host))
        self._refused[connection] = network_of(host, loopback_counts=True)

    def _floods(self, host: str) -> bool:
        """Return whether an address goes on connecting beyond its rate, and enough got an answer in this tick."""
        accounts = self._context.accounts
        if accounts is None or host in self._context.proxies:
            return False
        if not any(account.refuses_connections for account in accounts.of_address(host)):
            return False
        self._flooding += 1
        return self._flooding > _FLOODS_ANSWERED

    def _end_refused(self) -> None:
        """End a refused connection: many that send nothing must not keep out the probe of a balancer."""
        [(most, _)] = Counter(self._refused.values()).most_common(1)
        oldest = next(connection for connection, network in self._refused.items() if network == most)
        del self._refused[oldest]
        self._ending += 1
        get_hub().loop.run_callback(self._interrupt_refused, oldest)

    def _interrupt_refused(self, connection: HttpConnection) -> None:
        self._ending -= 1
        connection.transport.interrupt(DeadlineExceeded)

    def _spawn(
        self, sock: socket.socket, address: tuple[str, int], refusal: str | None, on_closed: Callable[[], None]
    ) -> HttpConnection:
        connection = HttpConnection(self._context, sock, address, refusal, on_closed)
        self._connections.add(connection)
        gevent.spawn(self._run, connection)
        return connection

    def _run(self, connection: HttpConnection) -> None:
        try:
            connection.run()
        finally:
            self._connections.discard(connection)
            self._refused.pop(connection, None)
            self._note_end()
            # Where thousands of streams begin in one turn, the queue of the listening socket would overflow meanwhile.
            if self._readable.active and time.perf_counter() > self._accept_due:
                self._accept()

    def _release(self, address: str) -> None:
        self._open -= 1
        self._caps.release(address)
        self._note_end()

    def _release_refused(self, _address: str) -> None:
        self._refused_open -= 1

    def _note_end(self) -> None:
        if self._context.draining.is_set() and not self._open and not self._connections:
            self._all_closed.set()

    def _end_idle(self) -> None:
        for connection in list(self._connections):
            connection.drain()

    def _check_deadlines(self) -> None:
        now = time.monotonic()
        lag = max(0.0, now - self._tick_due)
        self._tick_due = max(self._tick_due + TICK, now)  # as libev schedules the timer
        if not self._unmeasured:
            metrics.LOOP_LAG.observe(lag)
            metrics.CONNECTIONS.set(self._open)
        if self._left_to_others:
            self._leave_to_others()
        self._look_at_others()
        self._flooding = 0
        self._count_memory()
        if self._accepted:
            metrics.ACCEPTED.inc(self._accepted)
            self._accepted = 0
        for connection in [one for one in self._connections if one.transport.deadline < now]:
            connection.transport.interrupt(DeadlineExceeded)

    def _count_memory(self) -> None:
        memory = self._context.memory
        metrics.MEMORY.set(memory.held)
        if memory.refusals:
            metrics.MEMORY_REFUSALS.inc(memory.refusals)
            memory.refusals = 0


def _enlarge_descriptor_table(descriptor: int, size: int) -> None:
    """Let the kernel enlarge the table of this process's descriptors now.

    Linux doubles the table when it is full. In a process with threads it then waits for all processors, 10 to 75 ms
    each time, in which the queue of the listening socket overflows. The table never shrinks.
    """
    with suppress(OSError):
        os.close(fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, size - 1))


class _Once:
    """Calls back with an address the first time only: a stream may report the end of its socket and then fail."""

    __slots__ = ("_address", "_call")

    def __init__(self, call: Callable[[str], None], address: str) -> None:
        self._call: Callable[[str], None] | None = call
        self._address = address

    def __call__(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call(self._address)
