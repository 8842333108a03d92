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


class CommitRequest:
    """A waiting call. ``latch`` opens when the reply is there, or when the request becomes the leader.

    ``missing`` says which confirmation the reply lacks ('': none).
    """

    __slots__ = ("call", "latch", "missing", "reply", "size")

    def __init__(self, call: ScriptCall | Append, missing: str) -> None:
        self.call = call
        self.size = call.size if isinstance(call, Append) else 0
        self.missing = missing
        self.reply: Any = _PENDING
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
        self._size = 0
        self._leader: CommitRequest | None = None
        self._lock = threading.Lock()

    @property
    def waiting(self) -> int:
        """The number of requests that wait for the next group."""
        return len(self._waiting)

    def close(self) -> None:
        """Close the connection, so that the outcome of pending requests is unknown; the next call opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()

    def call(self, call: ScriptCall | Append) -> tuple[Any, str]:
        """Run one script; return its reply, and the confirmation that it lacks ('': none).

        Raise BrokerUnavailable or Overloaded (nothing done), OutcomeUnknown or BrokerFull.
        """
        request = CommitRequest(call, self._unconfirmed)
        first = self._join(request)
        if not first:
            try:
                request.latch.acquire()
            except BaseException:  # killed while it waits
                self._leave(request)
                raise
        if request.reply is _PENDING:
            self._lead(request, idle=first)
        if isinstance(request.reply, PushError):
            raise request.reply
        return request.reply, request.missing

    def _join(self, request: CommitRequest) -> bool:
        """Queue up; return whether the request leads."""
        limits = self._limits
        with self._lock:
            waiting = len(self._waiting)
            if waiting and (waiting >= limits.waiting_calls or self._size + request.size > limits.waiting_bytes):
                raise Overloaded(f"{waiting} requests of {self._size} bytes wait for Redis")
            self._waiting.append(request)
            self._size += request.size
            if self._leader is None:
                self._leader = request
            return self._leader is request

    def _leave(self, request: CommitRequest) -> None:
        with self._lock:
            if request in self._waiting:
                self._waiting.remove(request)
                self._size -= request.size
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
            self.commit(group, idle=idle)
        finally:
            # The next group is sent first: Redis works on it while the replies of this one are handed out.
            with self._lock:
                self._pass_lead()
            for request in group:
                if request.reply is _PENDING:  # an internal error, or the leader was killed
                    request.reply = OutcomeUnknown("the round trip was abandoned")
                if request is not leader:
                    request.latch.release()

    def _take_group(self) -> list[CommitRequest]:
        """Take the first requests off the queue; the leader is the first of all."""
        limits = self._limits
        if self._ack:
            max_calls, max_bytes = limits.waiting_calls, limits.confirmed_bytes
        else:
            max_calls, max_bytes = limits.group_calls, limits.group_bytes
        with self._lock:
            group = [self._waiting.popleft()]
            size = group[0].size
            while self._waiting and len(group) < max_calls and size + self._waiting[0].size <= max_bytes:
                group.append(self._waiting.popleft())
                size += group[-1].size
            self._size -= size
            return group

    def commit(self, group: list[CommitRequest], *, idle: bool) -> None:
        """Run the calls of a group, in one round trip if none has to be repeated, and set their replies."""
        try:
            connection = self._connected(idle=idle)
        except BrokerUnavailable as error:
            with self._lock:  # the waiting requests would only fail in the same way, one group after the other
                late, self._size = list(self._waiting), 0
                self._waiting.clear()
            group += late
            for request in group:  # one object each: a shared one would collect the tracebacks of all raises
                request.reply = BrokerUnavailable(error.detail)
            return
        try:
            again = self._exchange(connection, group, merge_calls([request.call for request in group]))
            if again:
                for request in again:
                    request.reply, request.missing = _PENDING, self._unconfirmed
                alone = [MergedAppend(place, request.call) for place, request in enumerate(again)]
                self._exchange(connection, again, alone)
        except _BROKEN as error:
            self.close()
            for request in group:
                if request.reply is _PENDING:
                    request.reply = OutcomeUnknown(reason(error))
        except BaseException:
            # A late reply must never be read as that of a later call.
            self.close()
            raise

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
        self, connection: Any, requests: Sequence[CommitRequest], sent: Sequence[MergedAppend]
    ) -> list[CommitRequest]:
        """Send calls and hand out their replies; return the requests that did not run and may be sent again, alone."""
        calls = [one.call() for one in sent]
        run = self.connections.run_id(connection)
        data = pack_calls(calls, run)
        if self._ack:
            data += self._confirmation_commands(calls[0].keys[0])
        connection.send_packed_command(data, check_health=False)
        again = []
        kinds = set()
        for one in sent:
            found = read_reply(connection)
            kinds.add(type(found))
            for place, reply in zip(one.places, one.replies(found), strict=True):
                requests[place].reply = _PENDING if reply is RETRY_ALONE else reply
                if reply is RETRY_ALONE or isinstance(reply, ScriptMissing):
                    again.append(requests[place])
        if self._ack:
            self._read_confirmation(connection, requests)
        if Demoted in kinds:
            self.close()  # the next connect finds the primary
            for request in again:
                request.reply = BrokerUnavailable("the primary is a replica now")
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

    def _read_confirmation(self, connection: Any, requests: Sequence[CommitRequest]) -> None:
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
        for request in requests:
            request.missing = missing
