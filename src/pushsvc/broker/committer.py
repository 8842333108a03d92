"""Group commit: the requests of a process that write at the same time share one connection and one round trip.

There is no thread or greenlet that commits. Who comes while nobody does leads: it sends what waits, hands out the
answers, and passes the lead to the first of those that came meanwhile. So one alone waits for nobody, many form groups
by themselves, and the same code serves threads and greenlets (of a process that was monkey-patched before).

What a group has for one topic goes as one call (``append.Together``): a script call costs Redis 40 times an event.

Nothing is sent twice but what Redis says it has not run.

Where memory is not enough (``Ack``), a round trip ends with a command that waits for the disk or for replicas: one for
all its calls.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any

import hiredis
from redis import exceptions

from pushsvc.broker.append import ALONE, Append, Together, together
from pushsvc.broker.connection import Connections, Demoted, Forgotten, answer, reason
from pushsvc.broker.script import Call, load_scripts
from pushsvc.errors import BrokerUnavailable, OutcomeUnknown, Overloaded, PushError
from pushsvc.settings import Ack

log = logging.getLogger(__name__)

GROUP_CALLS, GROUP_BYTES = 32, 1_000_000
"""Calls and bytes of one round trip (or one call that is larger): few enough that, of 64 connections, Redis works for
one half while this process works for the other."""

WAITING_CALLS, WAITING_BYTES = 4_096, 64_000_000
"""Calls and bytes that may wait for theirs; one more is refused."""

CONFIRMED_BYTES = 16_000_000
"""Bytes of a round trip that waits for the disk or for replicas. It may take a second, so it takes all that waits."""

CONFIRM_MS = 3_000
"""Milliseconds that a confirmation may take; less than a connection's TIMEOUT."""

_BROKEN = (exceptions.RedisError, OSError)
_OPEN = object()
_pack: Any = hiredis.pack_command


class _Request:
    """A call that waits. ``latch`` opens when its answer is there, or when it is to lead; ``lacking`` says what is not
    confirmed."""

    __slots__ = ("answer", "call", "lacking", "latch", "size")

    def __init__(self, call: Call | Append, lacking: str) -> None:
        self.call = call
        self.size = call.size if isinstance(call, Append) else 0
        self.lacking = lacking
        self.answer: Any = _OPEN
        self.latch = threading.Lock()
        self.latch.acquire()


class Committer:
    """Runs scripts that write, each atomic and answered alone, over one connection."""

    def __init__(self, connections: Connections, ack: Ack) -> None:
        self.connections = connections
        self._ack = ack
        self._lacking = "no answer told whether they are safe" if ack else ""
        self._connection: Any = None
        self._waiting: deque[_Request] = deque()
        self._size = 0
        self._leader: _Request | None = None
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the connection; who still waits for an answer learns that its outcome is unknown."""
        self._drop()

    def call(self, call: Call | Append) -> tuple[Any, str]:
        """Run one script; return its answer, and what it lacks to be as safe as was asked for ('': nothing).

        Raise BrokerUnavailable or Overloaded (nothing done), OutcomeUnknown or BrokerFull.
        """
        request = _Request(call, self._lacking)
        first = self._join(request)
        if not first:
            try:
                request.latch.acquire()
            except BaseException:  # killed while it waits
                self._leave(request)
                raise
        if request.answer is _OPEN:
            self._lead(request, idle=first)
        if isinstance(request.answer, PushError):
            raise request.answer
        return request.answer, request.lacking

    def _join(self, request: _Request) -> bool:
        """Queue up; return whether the request leads."""
        with self._lock:
            waiting = len(self._waiting)
            if waiting and (waiting >= WAITING_CALLS or self._size + request.size > WAITING_BYTES):
                raise Overloaded(f"{waiting} requests of {self._size} bytes wait for Redis")
            self._waiting.append(request)
            self._size += request.size
            if self._leader is None:
                self._leader = request
            return self._leader is request

    def _leave(self, request: _Request) -> None:
        with self._lock:
            if request in self._waiting:
                self._waiting.remove(request)
                self._size -= request.size
            if self._leader is request:
                self._pass_on()

    def _pass_on(self) -> None:
        """Let the next one lead."""
        self._leader = self._waiting[0] if self._waiting else None
        if self._leader is not None:
            self._leader.latch.release()

    def _lead(self, leader: _Request, *, idle: bool) -> None:
        group = self._take()
        try:
            self._commit(group, idle=idle)
        finally:
            # First of all the next group is sent: Redis works on it while this one is answered.
            with self._lock:
                self._pass_on()
            for request in group:
                if request.answer is _OPEN:  # an error of our own, or the leader was killed
                    request.answer = OutcomeUnknown("the round trip was given up")
                if request is not leader:
                    request.latch.release()

    def _take(self) -> list[_Request]:
        """Take the first requests off the queue; the leader is the first of all."""
        calls, most = (WAITING_CALLS, CONFIRMED_BYTES) if self._ack else (GROUP_CALLS, GROUP_BYTES)
        with self._lock:
            group = [self._waiting.popleft()]
            size = group[0].size
            while self._waiting and len(group) < calls and size + self._waiting[0].size <= most:
                group.append(self._waiting.popleft())
                size += group[-1].size
            self._size -= size
            return group

    def _commit(self, group: list[_Request], *, idle: bool) -> None:
        try:
            connection = self._connected(idle=idle)
        except BrokerUnavailable as error:
            with self._lock:  # whoever waits would only find out the same, one group after the other
                late, self._size = list(self._waiting), 0
                self._waiting.clear()
            group += late
            for request in group:  # to each its own: what is raised in many places gathers their tracebacks
                request.answer = BrokerUnavailable(error.detail)
            return
        try:
            again = self._exchange(connection, group, together([request.call for request in group]))
            if again:
                for request in again:
                    request.answer, request.lacking = _OPEN, self._lacking
                self._exchange(connection, again, [Together(at, request.call) for at, request in enumerate(again)])
        except _BROKEN as error:
            self._drop()
            for request in group:
                if request.answer is _OPEN:
                    request.answer = OutcomeUnknown(reason(error))
        except BaseException:
            # An answer still under way must never be read as that of a later call.
            self._drop()
            raise

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()

    def _connected(self, *, idle: bool) -> Any:
        """Return a connection that is not known to be broken; raise BrokerUnavailable.

        Only one that was ``idle`` is looked at: Redis may have closed it meanwhile.
        """
        if self._connection is not None:
            try:
                if not idle or not self._connection.can_read(timeout=0):
                    return self._connection
            except _BROKEN:
                pass
            self._drop()
        self._connection = self.connections.open()
        return self._connection

    def _exchange(self, connection: Any, requests: Sequence[_Request], sent: Sequence[Together]) -> list[_Request]:
        """Send calls and hand out their answers; return the requests that did not run and may now, each by itself."""
        calls = [one.call() for one in sent]
        data = [_packed(calls, self.connections.run(connection))]
        if self._ack:
            data += self._confirming(calls[0].keys[0])
        connection.send_packed_command(data, check_health=False)
        again = []
        states = set()
        for one in sent:
            found = answer(connection)
            states.add(type(found))
            for at, its in zip(one.places, one.answers(found), strict=True):
                requests[at].answer = _OPEN if its is ALONE else its
                if its is ALONE or isinstance(its, Forgotten):
                    again.append(requests[at])
        if self._ack:
            self._confirm(connection, requests)
        if Demoted in states:
            self._drop()  # the next connect finds the primary
            for request in again:
                request.answer = BrokerUnavailable("the primary is a replica now")
            return []
        if Forgotten in states:
            load_scripts(connection)
        return again

    def _confirming(self, key: str) -> list[bytes]:
        """Return the commands that wait until all is confirmed.

        What is waited for is the last write of this connection. A call that finds its events known writes nothing, and
        another connection may have written them: a write of our own behind it makes sure of them, too.
        """
        wait = ("WAITAOF", 1, 0, CONFIRM_MS) if self._ack.fsync else ("WAIT", self._ack.replicas, CONFIRM_MS)
        return [_pack(("HSET", key, "confirmed", 0)), _pack(wait)]

    def _confirm(self, connection: Any, requests: Sequence[_Request]) -> None:
        written, confirmed = answer(connection), answer(connection)
        refused = next((one for one in (written, confirmed) if isinstance(one, PushError)), None)
        if refused is not None:
            log.warning("--ack %s: %s", self._ack, refused.detail)
            return
        if self._ack.fsync:
            lacking = "" if confirmed[0] else f"not on its disk within {CONFIRM_MS} ms"
        else:
            wanted = self._ack.replicas
            lacking = "" if confirmed >= wanted else f"on {confirmed} of {wanted} replicas after {CONFIRM_MS} ms"
        for request in requests:
            request.lacking = lacking


def _packed(calls: Sequence[Call | Append], run: str) -> bytes:
    """Return the bytes of a round trip."""
    return b"".join([_pack(tuple(call.command(run))) for call in calls])
