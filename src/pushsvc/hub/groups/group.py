"""Streams with equal queries: what they are sent is made once, and said to all."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from gevent.event import Event

from pushsvc import sse
from pushsvc.broker.keys import Log
from pushsvc.broker.log import EventsEntry, LogEntry
from pushsvc.cursor import Position, UnreadableCursor, decode, encode, sequence_encoder
from pushsvc.errors import TooManyLogsFollowed
from pushsvc.hub import messages as frames
from pushsvc.hub import metrics
from pushsvc.hub.delivery.backlog import Chunk
from pushsvc.hub.delivery.channel import Channel
from pushsvc.hub.groups.conflate import Conflation

if TYPE_CHECKING:
    from pushsvc.hub.delivery.connection import Connection
    from pushsvc.hub.feed.follower import Follower, Tail
    from pushsvc.hub.hub import Hub
    from pushsvc.hub.query import Query

log = logging.getLogger(__name__)

FAR = 4
"""Chunks by which a stream of statistics alone may be behind before they are conflated for it."""


class Group(Channel):
    """The logs of a query, the frames made of them, and the connections that get them.

    ``settled`` is set while every log has been read once and its state is known.
    """

    def __init__(self, hub: Hub, query: Query) -> None:
        super().__init__(hub, query, encode({}), visible_heartbeat=query.visible_heartbeat)
        self.query = query
        self.logs: dict[Log, None] = {}
        self.topics: set[str] = set()
        self.followers: dict[int, Follower] = {}
        self.settled = Event()
        self.renewals = 0  # how often a log was forgotten
        self.told_apart = bool(query.every or query.selection.top)
        self.is_beyond_room = False
        self._opened = False
        self._awaited: set[Log] = set()
        # What cursors name of partitions whose logs were not all read for this group yet; None: nothing.
        self._held: dict[int, Position | None] = {}
        self._skip: dict[Log, int] = {}
        self._resets: dict[tuple[str, str], int] = {}  # topics and reasons that were told, by the partition to be read
        self._conflation = Conflation(self)

    # Logs

    def extend(self, topics: Iterable[str], *, born: bool = False) -> None:
        """Follow topics too. Those ``born`` while somebody watches are read from their start."""
        self.hear(self.follow(topics, born=born))

    def follow(self, topics: Iterable[str], *, born: bool = False) -> list[Log]:
        """Do the part of ``extend`` that asks Redis nothing; return the logs that are to be heard."""
        new: list[Log] = []
        for topic in topics:
            logs = [of for of in self.query.logs_of(topic, self.hub.rules) if of not in self.logs]
            if not logs:
                continue
            if not self.hub.has_room(logs):
                self.is_beyond_room = True
                self.hub.end_channel(self, TooManyLogsFollowed.title)
                break
            self.topics.add(topic)
            if self.crowded:
                self.hub.end_channel(self, f"more than {self.query.topics} topics")
                return []
            self._follow(logs, born)
            new += logs
        return new

    def hear(self, logs: Iterable[Log]) -> None:
        """Subscribe to what wakes the followers of logs."""
        for of in logs:
            if not self.closed:
                self.hub.watch(of)

    def _follow(self, logs: list[Log], born: bool) -> None:
        self.settled.clear()
        self.logs.update(dict.fromkeys(logs))
        self._awaited.update(of for of in logs if of.window is not None)
        follower = self.hub.follower(logs[0].partition)
        if follower.partition not in self.followers:
            self._held[follower.partition] = None
        self.followers[follower.partition] = follower
        follower.add(self, logs, from_start=born)

    def skip(self, of: Log, offset: int) -> None:
        """Take nothing of a log up to an offset: it is read again for somebody else."""
        self._skip[of] = max(offset, self._skip.get(of, 0))

    @property
    def crowded(self) -> bool:
        """True when there are more topics than one stream may have."""
        return len(self.topics) > self.query.topics

    def tail(self, of: Log) -> Tail:
        return self.followers[of.partition].tails[of]

    @property
    def has_events(self) -> bool:
        return any(of.window is None for of in self.logs)

    @property
    def has_statistics(self) -> bool:
        return any(of.window is not None for of in self.logs)

    def cursor(self) -> str:
        """Return the position of who has everything up to now."""
        return self._conflation.told or encode(self._positions())

    def cursor_at(self, partition: int, sequence: int) -> str:
        """Return the position of who has a partition up to a sequence, and of the others everything."""
        return self._cursors(partition)(sequence)

    def _cursors(self, partition: int) -> Callable[[int], str]:
        """Return what makes cursors for sequences of a partition, as ``cursor_at``, while nothing else moves.

        While statistics of the partition have still to be said, it is the position before: who resumed from behind
        events alone would be told only what changed of the statistics since.
        """
        positions = self._positions()
        if not self._lacks_statistics(partition):
            return sequence_encoder(positions, partition, self.followers[partition].position.epoch)
        before = encode(positions)
        return lambda sequence: before

    def _lacks_statistics(self, partition: int) -> bool:
        return partition in self._held and any(of.partition == partition for of in self._awaited)

    def _positions(self) -> dict[int, Position]:
        """Return up to where everything was said. A follower may be ahead of what a partition that joins, or begins
        anew, has to say here: who resumes is told all of it."""
        held, followers = self._held, self.followers.items()
        return {p: position for p, f in followers if (position := held.get(p, f.position)) is not None}

    # What is to be said

    def take(self, partition: int, batch: Sequence[tuple[Log, LogEntry]], rendering: frames.Rendering) -> None:
        """Make frames of entries of a partition, which come in order of sequence."""
        begun = self._begun(partition)
        messages = self._states(begun)
        states = len(messages)
        cursors = self._cursors(partition)
        for of, entry in batch:
            if of in begun or of in self._awaited or entry.last <= self._skip.get(of, 0):
                continue
            if isinstance(entry, EventsEntry):
                messages += self._events(cursors, rendering.events(of, entry, self.query.named), entry)
            elif self.told_apart:
                self._conflation.note(of, entry)
            elif (message := rendering.statistics(entry, self.query.selection)) is not None:
                messages.append(sse.with_id(message, cursors(entry.sequence)))
        through = batch[-1][1].sequence
        if states and len(messages) == states:
            messages[-1] = sse.with_id(messages[-1], cursors(through))
        self.say(messages)
        self._conflation.tell()
        if partition in self._held and not self._lacks_statistics(partition):
            self._held[partition] = Position(self.followers[partition].position.epoch, through)

    def _begun(self, partition: int) -> set[Log]:
        """Return the statistics logs of a partition whose state is known now and has still to be said."""
        found = {of for of in self._awaited if of.partition == partition and not self.tail(of).fresh}
        self._awaited -= found
        return found

    def _states(self, logs: Iterable[Log]) -> list[bytes]:
        """Return states without an id: the next message has one."""
        wanted = set(logs) if self._opened else ()
        return [self._conflation.snapshot(of) for of in self.logs if of in wanted] if wanted else []

    @staticmethod
    def _events(cursors: Callable[[int], str], messages: list[bytes], entry: EventsEntry) -> list[bytes]:
        first = entry.sequence_of(entry.first)
        return [sse.with_id(message, cursors(sequence)) for sequence, message in enumerate(messages, first)]

    def forget(self, of: Log, reason: str) -> None:
        """Tell that a log is no longer what it was. Statistics follow as a snapshot, events as what is left."""
        self.settled.clear()
        self.renewals += 1
        self._skip.pop(of, None)
        self._hold(of.partition)
        if of.window is not None:
            self._awaited.add(of)
            self._conflation.renew(of)
        if reason == "trimmed" and of.window is not None:
            return  # nothing is lost: the snapshot says it all
        if self._opened and (of.topic, reason) not in self._resets:
            self._resets[of.topic, reason] = of.partition
            self.say([frames.reset(of.topic, reason)])

    def _hold(self, partition: int) -> None:
        """Let cursors name what was told of a partition in this life of Redis, until the rest is told."""
        position = self.followers[partition].position
        held = self._held.get(partition, position)
        self._held[partition] = held if held is None or held.epoch == position.epoch else position

    def look(self) -> None:
        """Say the state of logs that are new or begin anew, each partition's once it is read; then be settled."""
        if self.settled.is_set():
            return
        unread = {of.partition for of in self.logs if self.tail(of).fresh}
        if unread and not self._opened:
            return
        self._held = {p: position for p, position in self._held.items() if p in unread}
        self._resets = {told: p for told, p in self._resets.items() if p in unread}
        awaited = [of for of in self.logs if of in self._awaited and of.partition not in unread]
        self._awaited.difference_update(awaited)
        if awaited and self._opened:
            self.say(self.snapshots(awaited))
        if not unread:
            self._settle()

    def _settle(self) -> None:
        self.settled.set()
        self._opened = True
        # Logs that joined begin here: who resumes from before is to read them up to this place.
        self.seal()
        self.tape.end.cursor = self.cursor()

    def snapshots(self, logs: Iterable[Log] | None = None) -> list[bytes]:
        """Return the state as messages, of which only the last has an id, so that a cut skips no part."""
        wanted = [of for of in (self.logs if logs is None else logs) if of.window is not None]
        messages = [self._conflation.snapshot(of) for of in wanted]
        if messages:
            messages[-1] = sse.with_id(messages[-1], self.cursor())
        return messages

    def first(self) -> bytes:
        """Return the state for who comes now; the same bytes for all who come in the same second."""
        return self._conflation.first()

    def resumed(self, cursor: str) -> bytes | None:
        """Return what who comes with a cursor lacks, where statistics are all they want and nothing was lost; else
        None. The same bytes for all who come with it in the same second."""
        if not self._can_conflate:
            return None
        try:
            positions = decode(cursor)
        except UnreadableCursor:
            return None
        if not all(self._is_within_reach(of, positions.get(of.partition)) for of in self.logs):
            return None
        if self.query.has_patterns and not positions.keys() <= self.followers.keys():
            return None
        return self._conflation.resumed(cursor, positions)

    def _is_within_reach(self, of: Log, position: Position | None) -> bool:
        follower, tail = self.followers[of.partition], self.tail(of)
        if position is None or position.epoch != follower.position.epoch:
            return False
        return max(tail.deleted, tail.trimmed) <= position.sequence <= follower.position.sequence

    def changes_since(self, position: Position, of: Log, *, whole: bool, slow: bool = False) -> bytes | None:
        """Return what of a window changed behind a position; a snapshot if ``whole`` or where that is shorter."""
        return self._conflation.since(of, position.sequence, whole=whole, slow=slow)

    # Connections that are behind

    def _is_far(self, at: Chunk) -> bool:
        return self.tape.end.number - at.number > FAR and self._can_conflate

    @property
    def _can_conflate(self) -> bool:
        """True when the newest rows are all that a stream needs."""
        return self.has_statistics and not self.has_events and self.settled.is_set()

    def _recover(self, connection: Connection, at: Chunk) -> None:
        if at.lost:
            metrics.DROPPED.inc()
        if not self._can_conflate:
            self.hub.replays.begin(self, connection, decode(at.cursor), slow=True)
            return
        self.seal()
        data = self._conflation.since_chunk(at)
        connection.at = self.tape.end
        if connection.push(data):
            self.slow.discard(connection)

    def close(self) -> None:
        super().close()
        self._conflation.close()
        for follower in self.followers.values():
            follower.discard(self, list(self.logs))
