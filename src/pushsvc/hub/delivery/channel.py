"""Messages for many connections: the connections, the messages that wait for them, and those already sent."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Set
from time import monotonic
from typing import Any, Protocol

import gevent

from pushsvc.hub import messages as sse_messages
from pushsvc.hub import metrics
from pushsvc.hub.delivery.backlog import Backlog, Chunk
from pushsvc.hub.delivery.chunked import frame
from pushsvc.hub.delivery.connection import Connection
from pushsvc.hub.delivery.roster import Roster
from pushsvc.hub.delivery.slow import SlowChannels
from pushsvc.hub.delivery.wheel import Clock
from pushsvc.hub.limits import FanoutLimits

_NONE: frozenset[Connection] = frozenset()
_LARGE = 64_000  # bytes of a first message that are counted at once: members that begin together share them
_NO_MESSAGES: list[bytes] = []  # never changed: most channels have none, most of the time


class Recovery(Protocol):
    """What a channel means: the position of its messages, and what serves a connection that is far behind."""

    def cursor(self) -> str | None:
        """Return the position of a client that has every message; None if a client cannot resume from one."""

    @property
    def moves_silently(self) -> bool:
        """Return whether the position may move without a message, so that heartbeats carry it."""

    def is_far(self, chunk: Chunk) -> bool:
        """Return whether a connection at ``chunk`` should recover instead of being sent every message since."""

    def recover(self, connection: Connection, chunk: Chunk) -> None:
        """Continue a connection at ``chunk`` that is far behind, or whose chunk is lost."""


class Writer(Protocol):
    """Sends the messages of channels. ``size`` is the number of new bytes of a channel."""

    @property
    def limits(self) -> FanoutLimits: ...
    def schedule(self, channel: Channel, size: int) -> None: ...


class WatchedChannels:
    """The channels of a hub that need work of it: ``slow`` ones have slow members, ``empty`` ones have no member.

    The channel that is empty for the longest time comes first.
    """

    __slots__ = ("empty", "slow")

    def __init__(self) -> None:
        self.slow: SlowChannels[Channel] = SlowChannels()
        self.empty: dict[Channel, None] = {}


class NoRecovery:
    """The Recovery of a channel on which nothing is broadcast: no member is ever behind."""

    moves_silently = False

    def cursor(self) -> None:
        return None

    def is_far(self, chunk: Chunk) -> bool:
        return False

    def recover(self, connection: Connection, chunk: Chunk) -> None:
        raise AssertionError("no message was broadcast")


class _Ended(NoRecovery):
    """The Recovery of a channel that has ended: its last members end, too."""

    def recover(self, connection: Connection, chunk: Chunk) -> None:
        """Do nothing."""


_ENDED = _Ended()


class Channel:
    """Sends every message broadcast from now on to each connection that joined.

    ``on_left`` is called for each connection that closes. ``on_failed`` is called with ``recovery``, in a greenlet of
    its own, after an error that all connections share; it must end them. ``name`` stands in log lines.

    Connections that are behind, or read history, are in ``slow``. ``in_pass`` is true from the schedule of a pass to
    its end. ``idle_since`` is the tick since which no connection is left. A channel notes in ``watched`` what it needs.
    """

    def __init__(
        self,
        writer: Writer,
        clock: Clock,
        recovery: Recovery,
        on_left: Callable[[], None],
        on_failed: Callable[[Any], None],
        *,
        name: Hashable = "",
        visible_heartbeat: bool = False,
        watched: WatchedChannels | None = None,
    ) -> None:
        self.clock = clock
        self.name = name
        self.backlog = Backlog(recovery.cursor() or "", writer.limits)
        self.roster: Roster[Connection] = Roster()
        self.slow: Set[Connection] = _NONE
        self.in_pass = False
        self.closed = False
        self._writer = writer
        self._recovery: Recovery = recovery
        self._on_left = on_left
        self._on_failed = on_failed
        self._visible_heartbeat = visible_heartbeat
        self._messages: list[bytes] = _NO_MESSAGES
        self._read_at = 0.0
        self._heartbeat: tuple[int, int, bytes, bytes] | None = None
        self._watched = watched or WatchedChannels()
        self.touch()

    # Messages

    def broadcast(self, messages: list[bytes]) -> None:
        """Send messages to every member, together with all others of this turn of the loop."""
        if not messages:
            return
        if not self._messages:
            self._messages = []
            self._read_at = monotonic()
        self._messages += messages
        self._writer.schedule(self, sum(map(len, messages)))

    def seal(self) -> Chunk:
        """Make one chunk of the waiting messages; return the newest chunk."""
        if self._messages:
            messages, self._messages = self._messages, _NO_MESSAGES
            self.backlog.append(frame(*messages), len(messages), self._recovery.cursor() or "", self._read_at)
        return self.backlog.end

    def move_end(self, cursor: str) -> None:
        """Move the position of the newest chunk, unless messages wait: it has advanced without a message."""
        if not self._messages:
            self.backlog.end.cursor = cursor

    def restart(self) -> bool:
        """Let every member recover once it has room, if all of them are slow; return whether they are."""
        if self.in_pass or self._messages or self.roster.count > len(self.slow):
            return False
        kept = self.backlog.size
        self.backlog.restart(self._recovery.cursor() or "")
        if kept and self.slow:
            self.recount()
        return True

    def heartbeat(self, connection: Connection) -> bytes:
        """Return a framed heartbeat; empty if messages are on their way to the connection.

        It has an id if the connection has a position that the last message may not tell, or is visible anyway. Seals
        first: the id must not be ahead of the messages.
        """
        end = self.seal()
        if connection.at is None:
            return frame(sse_messages.heartbeat(self._visible_heartbeat, None))
        if connection.at is not end:
            return b""
        made = self._heartbeat
        if made is None or made[:2] != (self.clock.tick, end.number):
            carries_id = self._visible_heartbeat or self._recovery.moves_silently
            ids = (self._recovery.cursor() if carries_id else None, None)
            with_id, without = (frame(sse_messages.heartbeat(self._visible_heartbeat, id_)) for id_ in ids)
            made = self._heartbeat = (self.clock.tick, end.number, with_id, without)
        return made[2] if end.number > connection.joined_after else made[3]

    # Connections

    def touch(self) -> None:
        """Begin the time anew for which the channel is kept without a member."""
        self.idle_since = self.clock.tick
        self._watched.empty.pop(self, None)
        if self.roster.is_empty and not self.closed:
            self._watched.empty[self] = None

    def join(self, connection: Connection) -> None:
        connection.pushed_at = self.clock.tick
        self._watched.empty.pop(self, None)
        self.roster.add(connection)

    def start(self, connection: Connection, chunk: Chunk, first: bytes) -> None:
        """Send a connection its first bytes, which are framed, and then the messages after ``chunk``."""
        connection.at = chunk
        self.add_slow(connection)
        if connection.push_framed(first):
            self.resume(connection)
        elif len(first) > _LARGE:
            self.recount()
        else:
            self.note_rest(len(first))

    def resume(self, connection: Connection) -> None:
        """Send a connection the chunks that it lacks, as long as its socket has room."""
        while connection.at is not None and not connection.closed:
            if connection.at.lost or self._recovery.is_far(connection.at):
                self._recovery.recover(connection, connection.at)
                return
            chunk = connection.at.next
            if chunk is None:
                self.discard_slow(connection)
                return
            connection.at = chunk
            metrics.DELIVERIES.inc(chunk.count)
            if not connection.push_framed(chunk.data):
                return

    def add_slow(self, connection: Connection) -> None:
        if isinstance(self.slow, set):
            self.slow.add(connection)
        else:
            self.slow = {connection}
            self._watched.slow.add(self)

    def discard_slow(self, connection: Connection) -> None:
        if isinstance(self.slow, set):
            self.slow.discard(connection)
            if not self.slow:
                self.slow = _NONE  # most channels have one connection, which is never slow for long
                self._watched.slow.discard(self)

    def chunk_at(self, position: int) -> Chunk:
        """Return the newest chunk of a caught-up connection at a position of the roster."""
        front = self.backlog.front
        return front.next if position < self.roster.position and front.next is not None else front

    def discard(self, connection: Connection) -> None:
        """Remove a connection that was closed."""
        self.discard_slow(connection)
        self.roster.note_closed(in_pass=self.in_pass)
        if self.roster.is_empty:
            self.touch()
        if connection.is_stream:
            self._on_left()

    # Memory

    def note_rest(self, size: int) -> None:
        """Note that a member holds ``size`` more bytes that no other has."""
        self._watched.slow.add_rest(self, size)

    def note_backlog(self) -> None:
        """Note what is kept for slow members. There are some."""
        self._watched.slow.count(self)

    def recount(self) -> int:
        """Count everything that is kept for slow members; return the bytes."""
        # Members share the chunks of the backlog, whose bytes are counted there, and the messages made for several.
        alone = {}
        for member in self.slow:
            at, rest = member.at, member.rest
            if rest is not None and (at is None or rest.obj is not at.data):
                alone[id(rest.obj)] = memoryview(rest.obj).nbytes
        rests = sum(alone.values())
        self._watched.slow.count(self, rests)
        return self.backlog.size + rests

    @property
    def backlog_bytes(self) -> int:
        return self.backlog.size

    def end_slow(self) -> None:
        """End the members that hold bytes, and drop the backlog: the process has no room for it.

        These clients come back and resume. Members that read history go on: they hold nothing yet.
        """
        for member in list(self.slow):
            if member.rest is not None:
                metrics.SLOW_CLOSES.inc()
                member.close()
        self.backlog.trim(behind=False)
        if self.slow:
            self.recount()

    # The end

    def finish(self, connection: Connection, farewell: bytes) -> None:
        """End a stream after the messages that were broadcast until now."""
        if connection.closed:
            return
        self.seal()
        at = connection.at
        while connection.rest is None and not connection.closed and at is not None and (at := at.next) is not None:
            connection.at = at
            connection.push_framed(at.data)
        connection.end(farewell)

    def fail(self) -> None:
        """End every stream after an error of our own. The clients come back and resume."""
        metrics.ERRORS.inc()
        # In a greenlet of its own: ending asks Redis, which a callback or a loop over several channels must not.
        gevent.spawn(self._on_failed, self._recovery)

    def close(self) -> None:
        self.closed = True
        self._watched.empty.pop(self, None)

    def forget(self) -> None:
        """Drop the references of this closed channel to its group and its former members, which refer to it. In a cycle
        only Python's collector could free them, and it seldom looks at objects that have lived long."""
        self._recovery = _ENDED
        if not self.in_pass:
            self.roster = Roster()
