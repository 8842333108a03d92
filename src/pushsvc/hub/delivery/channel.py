"""What is said to many: their connections, the frames that wait for them, and what they were sent."""

from __future__ import annotations

from array import array
from collections.abc import Hashable
from time import monotonic
from typing import TYPE_CHECKING

import gevent

from pushsvc.hub import messages as frames
from pushsvc.hub import metrics
from pushsvc.hub.delivery.backlog import Chunk, Tape

if TYPE_CHECKING:
    from pushsvc.hub.delivery.connection import Connection
    from pushsvc.hub.hub import Hub


class Channel:
    """The ``members`` get everything that is said from when they join. Those that are behind, or read history, are in
    ``slow``; ``place`` is how far a walk has come among the members. ``key`` is how the hub knows the channel.

    Most of them are ``in_step``: they have all that a walk has brought to their place, and nothing hinders the next
    chunk. That array holds, at the place of each member, its descriptor if it is one of those, else -1; so a walk need
    not look at them. Objects spread over the memory, as integers are, would take longer to find than to send to.
    """

    def __init__(self, hub: Hub, key: Hashable, cursor: str = "", *, visible_heartbeat: bool = False) -> None:
        self.hub = hub
        self.key = key
        self.tape = Tape(cursor)
        self.members: list[Connection] = []
        self.in_step = array("i")
        self.slow: set[Connection] = set()
        self.walking = False
        self.place = 0
        self.idle_since = hub.tick
        self.closed = False
        self._visible_heartbeat = visible_heartbeat
        self._gone = 0  # closed connections that are still among the members
        self._frames: list[bytes] = []
        self._read_at = 0.0
        self._heartbeat: tuple[int, int, bytes, bytes] | None = None

    def cursor(self) -> str | None:
        """Return the position of who has everything up to now; None where there is none to resume from."""
        return None

    # What is said

    def say(self, messages: list[bytes]) -> None:
        """Send messages to every member, with whatever else is said in this turn of the loop."""
        if not messages:
            return
        if not self._frames:
            self._read_at = monotonic()
        self._frames += messages
        self.hub.flush.schedule(self, sum(map(len, messages)))

    def seal(self) -> None:
        """Make one chunk of the frames there are."""
        if self._frames:
            made, self._frames = self._frames, []
            self.tape.append(b"".join(made), len(made), self.cursor() or "", self._read_at)

    def heartbeat(self, connection: Connection) -> bytes:
        """Return what breaks the silence of a connection: with an id if it has a position, nothing if it is not silent.

        What is ready is sealed first: the id must not be ahead of what was sent.
        """
        self.seal()
        end = self.tape.end
        if connection.at is None:
            return frames.heartbeat(self._visible_heartbeat, None)
        if connection.at is not end:
            return b""
        made = self._heartbeat
        if made is None or made[:2] != (self.hub.tick, end.number):
            with_id, without = (frames.heartbeat(self._visible_heartbeat, id_) for id_ in (self.cursor(), None))
            made = self._heartbeat = (self.hub.tick, end.number, with_id, without)
        return made[2] if end.number > connection.first else made[3]

    # Connections

    def join(self, connection: Connection) -> None:
        self.members.append(connection)
        self.in_step.append(-1)

    def reached(self, place: int) -> Chunk:
        """Return the newest chunk that who is in step at a place has."""
        front = self.tape.front
        return front.next if place < self.place and front.next is not None else front

    def discard(self, connection: Connection) -> None:
        """Forget a connection that was closed."""
        self.slow.discard(connection)
        self._gone += 1
        if not self.walking and self._gone > 64 + len(self.members) // 4:
            self.compact()
        if self.idle:
            self.idle_since = self.hub.tick
        self.hub.left()

    def compact(self) -> None:
        """Let go of closed connections, if they are many or all."""
        if self._gone and (self._gone > 64 or self._gone >= len(self.members) // 4):
            self.members = [member for member in self.members if not member.closed]
            self.in_step = array("i", [-1]) * len(self.members)
            for place, member in enumerate(self.members):
                if member.place >= 0:
                    member.fall_in(place)
            self._gone = 0

    @property
    def idle(self) -> bool:
        """True when no connection is left."""
        return self._gone >= len(self.members)

    def catch_up(self, connection: Connection) -> None:
        """Give a connection whose socket has room again what it lacks, for as long as there is room."""
        while connection.at is not None and not connection.closed:
            if connection.at.lost or self._is_far(connection.at):
                self._recover(connection, connection.at)
                return
            chunk = connection.at.next
            if chunk is None:
                self.slow.discard(connection)
                return
            connection.at = chunk
            metrics.DELIVERIES.inc(chunk.frames)
            if not connection.push(chunk.data):
                return

    def _is_far(self, at: Chunk) -> bool:
        """Tell whether a connection is so far behind that something else serves it better than all of it."""
        return False

    def _recover(self, connection: Connection, at: Chunk) -> None:
        """Bring back a connection whose place on the tape is lost."""
        metrics.DROPPED.inc()
        self.hub.end(connection, "too slow")

    @property
    def held(self) -> int:
        """Return the bytes that are kept for connections that are behind."""
        return self.tape.size + sum(len(c.rest) for c in self.slow if c.rest is not None)

    # Its end

    def fail(self) -> None:
        """End every stream after an error of our own: the clients come back and resume."""
        # Apart from here: it asks Redis, and this may be a callback, or somebody in the middle of handing out.
        gevent.spawn(self.hub.end_channel, self, "an error of the server")

    def close(self) -> None:
        """Hear of nothing any more."""
        self.closed = True
