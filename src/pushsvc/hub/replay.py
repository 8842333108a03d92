"""Brings a connection from a position to the live stream, out of the logs and at the pace of its socket."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import gevent

from pushsvc import sse
from pushsvc.broker import EventsEntry, Log, Read
from pushsvc.broker.broker import NOTHING
from pushsvc.cursor import Position, decode, encode
from pushsvc.errors import BrokerUnavailable, PushError
from pushsvc.hub import frames, metrics
from pushsvc.hub.follower import REPLAY_AFTER_RESET
from pushsvc.topic import is_pattern

if TYPE_CHECKING:
    from pushsvc.hub.connection import Connection
    from pushsvc.hub.group import Group

log = logging.getLogger(__name__)

READERS = 8
"""Connections for which logs are read at the same time, at most."""

CHUNK_BYTES = 256_000
"""Bytes of a log that are read at once for one connection; the next follow when its socket has taken them."""

WAIT = 5.0
_PAUSE, _LOOK = 1.0, 0.02


@dataclass(slots=True)
class _Place:
    """Where the reading of a log stands: behind an offset, and behind a sequence that the client has."""

    offset: int
    sequence: int


class _Survey:
    """What was found in the logs of a group for a client: its places in those of events, and why its position in a log
    is ``lost`` (None: it is not). ``known`` tells of which partitions it is of this life of Redis.

    It holds as long as the group does not begin anew. Logs that join are looked up, too.
    """

    def __init__(self, renewals: int) -> None:
        self.renewals = renewals
        self.known: dict[int, bool] = {}
        self.lost: dict[Log, str | None] = {}
        self.places: dict[Log, _Place] = {}


class Replays:
    """Replays that have something to do, and the few greenlets that do it. Those whose group does not know its logs
    are ``parked``: as long as a primary is away, they would take the readers from all others."""

    def __init__(self) -> None:
        self._queue: deque[Replay] = deque()
        self._parked: dict[Group, list[Replay]] = {}
        self._readers = 0

    def begin(
        self,
        group: Group,
        connection: Connection,
        have: Mapping[int, Position] | None,
        *,
        earliest: bool = False,
        whole: bool = False,
        slow: bool = False,
    ) -> None:
        """Bring a connection to the live stream from what it has (None: a position that cannot be read).

        ``whole``: it has no statistics yet. One that was too ``slow`` is told how many updates were skipped.
        """
        if connection.closed:
            return
        connection.at = None
        connection.replay = Replay(group, connection, have, earliest=earliest, slow=slow, whole=whole)
        group.slow.add(connection)
        self.submit(connection.replay)

    def submit(self, replay: Replay) -> None:
        self._queue.append(replay)
        if self._readers < READERS:
            self._readers += 1
            gevent.spawn(self._work)

    def _work(self) -> None:
        try:
            while self._queue:
                replay = self._queue.popleft()
                connection = replay.connection
                if replay.is_early:
                    self._park(replay)
                    continue
                try:
                    replay.step()
                except PushError as error:
                    self._wait(replay, error)
                except Exception:
                    log.exception("a replay of %s", connection.channel.key)
                    connection.fail()
                else:
                    if connection.replay is replay and connection.rest is None:
                        self._queue.append(replay)
        finally:
            self._readers -= 1

    def _park(self, replay: Replay) -> None:
        waiting = self._parked.setdefault(replay.group, [])
        waiting.append(replay)
        if len(waiting) == 1:
            gevent.spawn(self._unpark, replay.group)

    def _unpark(self, group: Group) -> None:
        """Go on with those who wait for a group once it is settled; meanwhile say why nothing comes."""
        while not group.settled.wait(WAIT) and self._parked[group]:
            alive = [replay for replay in self._parked[group] if replay.is_early]
            self._parked[group] = [one for one in alive if one.connection.push(sse.comment(BrokerUnavailable.title))]
        for replay in self._parked.pop(group):
            self.submit(replay)

    def _wait(self, replay: Replay, error: PushError) -> None:
        """Keep the stream open while Redis is away."""
        connection = replay.connection
        if connection.replay is replay and connection.push(sse.comment(error.title)):
            gevent.spawn_later(_PAUSE, self.submit, replay)


class Replay:
    """One connection's way to the live stream.

    A chunk of the tape is the goal: the logs are read up to its position, and there the connection goes on live. If
    the goal was lost meanwhile the next one is chosen. So nothing is sent twice, and nothing is left out.
    """

    def __init__(
        self,
        group: Group,
        connection: Connection,
        have: Mapping[int, Position] | None,
        *,
        earliest: bool,
        slow: bool,
        whole: bool,
    ) -> None:
        self.connection = connection
        self._group = group
        self._broker = group.hub.broker
        self._have = None if have is None else dict(have)
        self._earliest = earliest
        self._survey = _Survey(group.renewals)
        self._places: dict[Log, _Place] | None = None
        self._goal = group.tape.end
        self._slow = slow
        self._whole = whole

    @property
    def group(self) -> Group:
        return self._group

    @property
    def is_early(self) -> bool:
        """True when nothing can be done yet, as the group does not know its logs."""
        wanted = not self.connection.closed and self.connection.replay is self
        return wanted and self._places is None and not self._group.settled.is_set()

    def step(self) -> None:
        """Do the next piece of it: at most one read of a log, and what it brings. Raises what the broker raises."""
        if self.connection.closed or self.connection.replay is not self:
            return
        if self._places is None:
            self._begin()
        elif not self._read_on():
            self._join()

    def _begin(self) -> None:
        """Find the places in the logs; then choose the goal, say what is lost and what the statistics are."""
        group = self._group
        if not group.settled.wait(WAIT):
            raise BrokerUnavailable("the logs were not read in time")
        if self._survey.renewals != group.renewals:
            self._survey = _Survey(group.renewals)
        if self._look_up():
            return  # Redis was asked, and meanwhile the group may have changed: once more
        # From here on nothing yields: what is said is the state at the goal.
        group.seal()
        self._goal = group.tape.end
        # Nothing was said behind it, but the logs went on: who resumes from a heartbeat may have more than it had then.
        self._goal.cursor = group.cursor()
        lost = {of: reason for of, reason in self._survey.lost.items() if reason is not None}
        told = self._resets(lost) + self._statistics(lost)
        self._have = self._positions()
        self._whole = False
        self._places = places = self._survey.places
        if not places:
            self._join(told or [sse.move_cursor(group.cursor())])
        elif told:
            self._push(told)

    def _look_up(self) -> bool:
        """Look up what is not known yet; return whether there was something."""
        for partition in self._unheard():
            self._survey.known[partition] = self._exists(partition)
            return True
        logs = [of for of in self._group.logs if of not in self._survey.lost]
        for of in logs:
            reason = self._lost(of)
            if of.window is None:
                self._survey.places[of] = self._find(of, reason)
            self._survey.lost[of] = reason
        return bool(logs)

    def _unheard(self) -> list[int]:
        """Return the partitions that the client has heard of, but not the group with its patterns."""
        if not self._group.query.has_patterns:
            return []
        unheard = (self._have or {}).keys() - self._group.followers.keys()
        return sorted(unheard - self._survey.known.keys())

    def _exists(self, partition: int) -> bool:
        """Tell whether a partition without a topic for the group is what the client knew; look for topics first."""
        self._group.hub.list_again(partition)
        if partition in self._group.followers:
            return self._reaches(partition)
        assert self._have is not None
        return self._broker.read(partition, {}).epoch == self._have[partition].epoch

    def _reaches(self, partition: int) -> bool:
        """Tell whether a position is of this life of Redis; wait until its follower has read as far."""
        if partition not in self._survey.known:
            position = (self._have or {}).get(partition)
            reached = position is None or self._group.followers[partition].wait_for(position, WAIT)
            self._survey.known[partition] = reached
        return self._survey.known[partition]

    def _lost(self, of: Log) -> str | None:
        """Return why the place in a log is gone; None where it is not, or where a snapshot says it all."""
        if self._earliest:
            return None
        position = None if self._have is None else self._have.get(of.partition)
        tail = self._group.tail(of)
        if position is None:
            born_later = self._have is not None and of.topic not in self._group.query.named_topics
            begins = of.window is not None or tail.trimmed <= tail.deleted
            return None if born_later and begins else "trimmed"
        if not self._reaches(of.partition):
            return "broker-restarted"
        if tail.deleted > position.sequence:
            return "deleted"
        return "trimmed" if of.window is None and tail.trimmed > position.sequence else None

    def _resets(self, lost: Mapping[Log, str]) -> list[bytes]:
        """Return what says that positions are lost. Of topics that are there no more only the patterns are known."""
        told = {(of.topic, reason): None for of, reason in lost.items()}
        query = self._group.query
        if any(not known and p not in self._group.followers for p, known in self._survey.known.items()):
            patterns = filter(is_pattern, (*query.events, *query.statistics))
            told |= {(pattern, "broker-restarted"): None for pattern in patterns}
        return [frames.reset(topic, reason) for topic, reason in told]

    def _find(self, of: Log, lost: str | None) -> _Place:
        """Return the place to read an events log from: behind the position, or the last events before its end."""
        if lost is not None:
            last = self._broker.read(of.partition, {of: NOTHING}).logs[of].last
            return _Place(max(0, last - REPLAY_AFTER_RESET), 0)
        position = (self._have or {}).get(of.partition)
        if position is None or not position.sequence:
            return _Place(0, 0)
        if position == self._group.followers[of.partition].position:
            return _Place(self._group.tail(of).after, position.sequence)  # nothing was missed
        return _Place(self._broker.seek_sequence(of.topic, position.sequence), position.sequence)

    def _positions(self) -> dict[int, Position]:
        """Return what the client has of each partition, in this life of Redis."""
        found = {}
        for partition, follower in self._group.followers.items():
            position = (self._have or {}).get(partition)
            known = position is not None and self._survey.known.get(partition, False)
            found[partition] = Position(follower.position.epoch, position.sequence if position and known else 0)
        return found

    def _statistics(self, lost: Mapping[Log, str]) -> list[bytes]:
        """Return the statistics that the client lacks, the last with an id unless events follow."""
        group, have = self._group, self._have or {}
        apart = group.told_apart and group.has_events  # the position may be ahead of what was said of them
        messages = []
        for of in group.logs:
            if of.window is not None:
                position = have.get(of.partition)
                whole = self._whole or apart or of in lost or position is None
                since = Position(0, 0) if position is None else position
                message = group.changes_since(since, of, whole=whole, slow=self._slow)
                messages += [] if message is None else [message]
        if messages and not group.has_events:
            messages[-1] = sse.with_id(messages[-1], group.cursor())
        return messages

    def _read_on(self) -> bool:
        """Send the next events up to the goal; return whether there were some to look for."""
        assert self._have is not None
        assert self._places is not None
        goal = decode(self._goal.cursor)
        for partition, position in self._have.items():
            until = goal.get(partition)
            logs = {of: place.offset for of, place in self._places.items() if of.partition == partition}
            if not logs or until is None or position == until:
                continue
            read = self._broker.read(partition, logs, budget=CHUNK_BYTES)
            if read.epoch != until.epoch or self._was_trimmed(read):
                self._begin_again(partition)
                return True
            self._send(partition, read, until)
            return True
        return False

    def _was_trimmed(self, read: Read) -> bool:
        places = self._places or {}
        return any(logged.trimmed > places[of].sequence > 0 for of, logged in read.logs.items())

    def _begin_again(self, partition: int) -> None:
        """What was to be read is no longer there: say so, once the follower knows it too."""
        self._places, self._survey = None, _Survey(self._group.renewals)
        self._earliest = False
        self._group.followers[partition].wake()
        gevent.sleep(_LOOK)

    def _send(self, partition: int, read: Read, until: Position) -> None:
        """Send the entries of a read in the order of their sequences, as far as they are whole."""
        assert self._have is not None
        assert self._places is not None
        cuts = [logged.entries[-1].sequence for logged in read.logs.values() if logged.more]
        limit = min([until.sequence, *cuts])
        found = sorted(
            ((entry.sequence, of, entry) for of, logged in read.logs.items() for entry in logged.entries),
            key=lambda item: item[0],
        )
        messages: list[bytes] = []
        for sequence, of, entry in found:
            if sequence > limit:
                break
            messages += self._events(partition, of, entry)
            self._places[of].offset = entry.last
        self._have[partition] = Position(until.epoch, max(limit, self._have[partition].sequence))
        if messages:
            metrics.DELIVERIES.inc(len(messages))
            self._push(messages)

    def _events(self, partition: int, of: Log, entry: EventsEntry) -> Iterator[bytes]:
        """Yield the messages of an entry that lie behind the place in its log, and move the position along."""
        assert self._have is not None
        assert self._places is not None
        place = self._places[of]
        for offset, message in enumerate(frames.events(of, entry, self._group.query.named), entry.first):
            sequence = entry.sequence_of(offset)
            if offset > place.offset and sequence > place.sequence:
                self._have[partition] = Position(self._have[partition].epoch, sequence)
                yield sse.with_id(message, encode(self._have))

    def _push(self, messages: list[bytes]) -> None:
        """Send messages, unless the stream was ended while logs were read."""
        if self.connection.replay is self:
            self.connection.push(b"".join(messages))

    def _join(self, told: list[bytes] | None = None) -> None:
        """Go on live from the goal; if it is lost, from there to the next one."""
        if self.connection.replay is not self:
            return
        if self._goal.lost:
            self._have, self._earliest = decode(self._goal.cursor), False
            self._places, self._survey = None, _Survey(self._group.renewals)
            if told:
                self._push(told)
            return
        connection = self.connection
        connection.replay = None
        connection.at = self._goal
        if told is None and self._group.has_statistics:
            told = [sse.move_cursor(self._goal.cursor)]
        if not told or connection.push(b"".join(told)):
            self._group.catch_up(connection)
