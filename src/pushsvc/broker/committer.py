"""Group commit: concurrent write requests of a process share one connection and one round trip.

No thread or greenlet is dedicated to committing. A request that finds no leader becomes the leader: it sends all
waiting requests as one group, hands out the replies, and passes the lead to the first request that arrived meanwhile. A
single request waits for no other, groups form under load, and the same code serves threads and patched greenlets.

A group's calls for one topic are merged (``append.MergedAppend``): a script call costs Redis as much as 40 events. A
call is sent again only if Redis replied that it did not run.

If memory is not safe enough (``Ack``), each round trip ends with one command that waits for the disk or for replicas.
"""

import logging
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any

import hiredis
from redis import exceptions

from pushsvc.broker.append import RETRY_ALONE, Append, MergedAppend, merge_calls, pack_calls
from pushsvc.broker.connection_pool import ConnectionPool
from pushsvc.broker.limits import BrokerLimits
from pushsvc.broker.replies import Demoted, ScriptMissing, read_reply, reason
from pushsvc.broker.script import ScriptCall, load_scripts
from pushsvc.errors import BrokerUnavailable, OutcomeUnknown, Overloaded, PushError
from pushsvc.settings import Ack

log = logging.getLogger(__name__)

_BROKEN = (exceptions.RedisError, OSError)
_PENDING = object()
_pack: Any = hiredis.pack_command


class PendingCall:
    """One script call, and its reply. ``missing`` says which confirmation the reply lacks ('': none)."""

    __slots__ = ("call", "missing", "reply", "size")

    def __init__(self, call: ScriptCall | Append, missing: str) -> None:
        self.call = call
        self.size = call.size if isinstance(call, Append) else 0
        self.missing = missing
        self.reply: Any = _PENDING


class CommitRequest:
    """Calls that wait together. ``latch`` opens when all replies are there, or when the request becomes the leader."""

    __slots__ = ("calls", "done", "latch", "size")

    def __init__(self, calls: Sequence[PendingCall]) -> None:
        self.calls = calls
        self.size = sum([call.size for call in calls])
        self.done = False
        self.latch = threading.Lock()
        self.latch.acquire()


class Committer:
    """Runs scripts that write over one connection. Each call is atomic and gets its own reply."""

    def __init__(self, connections: ConnectionPool, ack: Ack, limits: BrokerLimits) -> None:
        self.connections = connections
        self._ack = ack
        self._limits = limits
        self._unconfirmed = "no confirmation arrived" if ack else ""
        self._connection: Any = None
        self._waiting: deque[CommitRequest] = deque()
        self._calls = self._size = 0  # of the waiting requests
        self._leader: CommitRequest | None = None
        self._lock = threading.Lock()

    @property
    def waiting(self) -> int:
        """The number of calls that wait for the next group."""
        return self._calls

    def close(self) -> None:
        """Close the connection, so that the outcome of pending requests is unknown; the next call opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()

    def call(self, call: ScriptCall | Append) -> tuple[Any, str]:
        """Run one script; return its reply, and the confirmation that it lacks ('': none).

        Raise BrokerUnavailable or Overloaded (nothing done), OutcomeUnknown or BrokerFull.
        """
        [(reply, missing)] = self.call_all([call])
        if isinstance(reply, PushError):
            raise reply
        return reply, missing

    def call_all(self, calls: Sequence[ScriptCall | Append]) -> list[tuple[Any, str]]:
        """Run scripts in one round trip; return what ``call`` would for each, and in place of a reply what it would
        raise."""
        if not calls:
            return []
        request = CommitRequest([PendingCall(call, self._unconfirmed) for call in calls])
        try:
            first = self._join(request)
        except Overloaded as error:
            return [(Overloaded(error.detail), "") for _ in calls]
        if not first:
            try:
                request.latch.acquire()
            except BaseException:  # killed while it waits
                self._leave(request)
                raise
        if not request.done:
            self._lead(request, idle=first)
        return [(one.reply, one.missing) for one in request.calls]

    def _join(self, request: CommitRequest) -> bool:
        """Queue up; return whether the request leads."""
        limits = self._limits
        with self._lock:
            waiting = self._calls
            if waiting and (waiting >= limits.waiting_calls or self._size + request.size > limits.waiting_bytes):
                raise Overloaded(f"{waiting} requests of {self._size} bytes wait for Redis")
            self._waiting.append(request)
            self._count(request, 1)
            if self._leader is None:
                self._leader = request
            return self._leader is request

    def _count(self, request: CommitRequest, sign: int) -> None:
        """Count a request that begins (1) or ends (-1) to wait. Hold the lock."""
        self._calls += sign * len(request.calls)
        self._size += sign * request.size

    def _leave(self, request: CommitRequest) -> None:
        with self._lock:
            if request in self._waiting:
                self._waiting.remove(request)
                self._count(request, -1)
            if self._leader is request:
                self._pass_lead()

    def _pass_lead(self) -> None:
        """Make the first waiting request the leader."""
        self._leader = self._waiting[0] if self._waiting else None
        if self._leader is not None:
            self._leader.latch.release()

    def _lead(self, leader: CommitRequest, *, idle: bool) -> None:
        group = self._take_group()
        try:
            refusal = self.commit([call for request in group for call in request.calls], idle=idle)
            if refusal is not None:
                group += self._refuse_waiting(refusal)
        finally:
            # The next group is sent first: Redis works on it while the replies of this one are handed out.
            with self._lock:
                self._pass_lead()
            for request in group:
                for call in request.calls:
                    if call.reply is _PENDING:  # an internal error, or the leader was killed
                        call.reply = OutcomeUnknown("the round trip was abandoned")
                request.done = True
                if request is not leader:
                    request.latch.release()

    def _refuse_waiting(self, refusal: BrokerUnavailable) -> list[CommitRequest]:
        """Refuse all waiting requests, and return them: they would only fail in the same way, one group after the
        other."""
        with self._lock:
            late, self._calls, self._size = list(self._waiting), 0, 0
            self._waiting.clear()
        _refuse([call for request in late for call in request.calls], refusal)
        return late

    def _take_group(self) -> list[CommitRequest]:
        """Take the first requests off the queue; the leader is the first of all."""
        limits = self._limits
        if self._ack:
            max_calls, max_bytes = limits.waiting_calls, limits.confirmed_bytes
        else:
            max_calls, max_bytes = limits.group_calls, limits.group_bytes
        group: list[CommitRequest] = []
        calls = size = 0
        with self._lock:
            while self._waiting:
                request = self._waiting[0]
                calls, size = calls + len(request.calls), size + request.size
                if group and (calls > max_calls or size > max_bytes):
                    break
                self._count(request, -1)
                group.append(self._waiting.popleft())
            return group

    def commit(self, calls: Sequence[PendingCall], *, idle: bool) -> BrokerUnavailable | None:
        """Run the calls of a group, in one round trip if none has to be repeated, and set their replies. Return why
        Redis could not be reached, if so: then nothing was done."""
        try:
            connection = self._connected(idle=idle)
        except BrokerUnavailable as error:
            _refuse(calls, error)
            return error
        try:
            again = self._exchange(connection, calls, merge_calls([one.call for one in calls]))
            if again:
                for one in again:
                    one.reply, one.missing = _PENDING, self._unconfirmed
                alone = [MergedAppend(place, one.call) for place, one in enumerate(again)]
                self._exchange(connection, again, alone)
        except _BROKEN as error:
            self.close()
            for one in calls:
                if one.reply is _PENDING:
                    one.reply = OutcomeUnknown(reason(error))
        except BaseException:
            # A late reply must never be read as that of a later call.
            self.close()
            raise
        return None

    def _connected(self, *, idle: bool) -> Any:
        """Return a connection that is not known to be broken; raise BrokerUnavailable.

        Only an ``idle`` connection is checked: Redis may have closed it meanwhile.
        """
        if self._connection is not None:
            try:
                if not idle or not self._connection.can_read(timeout=0):
                    return self._connection
            except _BROKEN:
                pass  # it is replaced by a new one
            self.close()
        self._connection = self.connections.open()
        return self._connection

    def _exchange(
        self, connection: Any, pending: Sequence[PendingCall], sent: Sequence[MergedAppend]
    ) -> list[PendingCall]:
        """Send calls and hand out their replies; return those that did not run and may be sent again, alone."""
        calls = [merged.call() for merged in sent]
        run = self.connections.run_id(connection)
        data = pack_calls(calls, run)
        if self._ack:
            data += self._confirmation_commands(calls[0].keys[0])
        connection.send_packed_command(data, check_health=False)
        again = []
        kinds = set()
        for merged in sent:
            found = read_reply(connection)
            kinds.add(type(found))
            for place, reply in zip(merged.places, merged.replies(found), strict=True):
                pending[place].reply = _PENDING if reply is RETRY_ALONE else reply
                if reply is RETRY_ALONE or isinstance(reply, ScriptMissing):
                    again.append(pending[place])
        if self._ack:
            self._read_confirmation(connection, pending)
        if Demoted in kinds:
            self.close()  # the next connect finds the primary
            for call in again:
                call.reply = BrokerUnavailable("the primary is a replica now")
            return []
        if ScriptMissing in kinds:
            load_scripts(connection)
        return again

    def _confirmation_commands(self, key: str) -> list[bytes]:
        """Return the commands that wait until all data is confirmed.

        Redis waits for this connection's last write. A call whose events are all known writes nothing, and another
        connection may have stored them: a write of our own after it covers them too.
        """
        timeout = self._limits.confirm_ms
        wait = ("WAITAOF", 1, 0, timeout) if self._ack.fsync else ("WAIT", self._ack.replicas, timeout)
        return [_pack(("HSET", key, "confirmed", 0)), _pack(wait)]

    def _read_confirmation(self, connection: Any, pending: Sequence[PendingCall]) -> None:
        written, confirmed = read_reply(connection), read_reply(connection)
        refused = next((one for one in (written, confirmed) if isinstance(one, PushError)), None)
        if refused is not None:
            log.warning("--ack %s: %s", self._ack, refused.detail)
            return
        timeout = self._limits.confirm_ms
        if self._ack.fsync:
            missing = "" if confirmed[0] else f"not on its disk within {timeout} ms"
        else:
            wanted = self._ack.replicas
            missing = "" if confirmed >= wanted else f"on {confirmed} of {wanted} replicas after {timeout} ms"
        for one in pending:
            one.missing = missing


def _refuse(calls: Sequence[PendingCall], refusal: BrokerUnavailable) -> None:
    """Refuse calls, with one object each: a shared one would collect the tracebacks of all raises."""
    for one in calls:
        one.reply = BrokerUnavailable(refusal.detail)
