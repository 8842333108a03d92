"""Compares a client's positions with the logs of its group: where to read from, and what is lost."""

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

from pushsvc.broker.broker import Broker, ReadRequest
from pushsvc.broker.keys import Log
from pushsvc.broker.log import NO_ENTRIES, LogRead
from pushsvc.cursor import Position
from pushsvc.errors import PushError
from pushsvc.hub import messages as sse_messages
from pushsvc.hub.feed.tail import REPLAY_AFTER_RESET
from pushsvc.hub.groups.group import Group
from pushsvc.hub.query import NOTHING_RESELECTED, Reselected
from pushsvc.hub.resume.history import LogPosition
from pushsvc.topic import is_pattern


@dataclass(eq=False)
class ResumePlan:
    """For a client with ``client_positions``: its ``log_positions`` in the logs of events, and the ``lost`` logs.

    ``client_positions`` is None if the client's cursor is unreadable. A client that asks for the ``earliest`` events
    loses nothing. Topics that it has selected since its cursor, as ``reselected`` tells, start as for a new client if
    their partition is not in the cursor. ``refresh_topics(partitions)`` makes the group follow the topics that it
    lacks. Valid as long as no log of the group starts over. Logs that join are looked up too.
    """

    group: Group
    broker: Broker
    refresh_topics: Callable[[Sequence[int]], None]
    wait: float
    client_positions: Mapping[int, Position] | None
    earliest: bool
    reselected: Reselected = NOTHING_RESELECTED

    def __post_init__(self) -> None:
        self.log_positions: dict[Log, LogPosition] = {}
        self._generation = self.group.generation
        self._in_epoch: dict[int, bool] = {}  # partition: whether the client's position is of the current epoch
        self._starts: dict[int, Position] = {}  # of a client that is new in a partition
        self._looked_up: dict[Log, str | None] = {}  # log: why the client's position in it is lost, if it is

    @property
    def outdated(self) -> bool:
        """True when a log of the group started over."""
        return self._generation != self.group.generation

    def position(self, partition: int) -> Position | None:
        """Return the client's position in a partition."""
        return None if self.client_positions is None else self.client_positions.get(partition)

    @property
    def lost(self) -> dict[Log, str]:
        """Return the logs in which the client's position is lost, and why."""
        return {of: reason for of, reason in self._looked_up.items() if reason is not None}

    def look_up(self) -> bool:
        """Look up what is unknown; return whether anything was, as the group may have changed meanwhile.

        Raises what the broker raises.
        """
        for partition in self._unknown_partitions():
            self._in_epoch[partition] = self._exists(partition)
            return True
        logs = [of for of in self.group.logs if of not in self._looked_up]
        created = self._read_metadata(of for of in logs if of.window is None and self._is_created_later(of))
        # The tail does not hear of trimming. A log has its start if nothing was trimmed since its topic was created.
        with_start = {of for of, logged in created.items() if logged.trimmed <= logged.deleted}
        reasons = {of: self._reason_lost(of, with_start) for of in logs}
        self._look_up_offsets({of: reason is not None for of, reason in reasons.items() if of.window is None})
        self._looked_up |= reasons
        return bool(logs)

    def resets(self) -> list[bytes]:
        """Return the messages that positions are lost. Of deleted topics only the client's patterns are known."""
        resets = {(of.topic, reason): None for of, reason in self.lost.items()}
        query = self.group.query
        if any(not known and p not in self.group.followers for p, known in self._in_epoch.items()):
            patterns = filter(is_pattern, (*query.events, *query.statistics))
            resets |= {(pattern, "broker-restarted"): None for pattern in patterns}
        return [sse_messages.reset(topic, reason) for topic, reason in resets]

    def positions(self) -> dict[int, Position]:
        """Return the client's position in each partition of the group, 0 if it is not of the current epoch. None is
        partial: the statistics are sent before the events.

        A client that has everything of a partition is where its follower is.
        """
        found = {}
        changed: dict[int, bool] = {}
        read_from_start = {of.partition for of, at in self.log_positions.items() if not at.offset}
        for of in self.log_positions:
            changed[of.partition] = changed.get(of.partition, False) or not self._has_everything(of)
        for partition, follower in self.group.followers.items():
            position = self.position(partition)
            known = position is not None and self._in_epoch.get(partition, False)
            found[partition] = Position(follower.position.epoch, position.sequence if position and known else 0)
            if not changed.get(partition, True):
                found[partition] = follower.position
            if self.client_positions is not None and position is None and partition not in read_from_start:
                found[partition] = self._starts.get(partition, follower.position)
        return found

    def _has_everything(self, of: Log) -> bool:
        """Return whether the client has all of a log that its follower has."""
        position, tail = self.position(of.partition), self.group.followers[of.partition].tails.get(of)
        if position is None or tail is None or tail.changed is None or self._looked_up.get(of) is not None:
            return False
        return self._in_epoch.get(of.partition, False) and tail.changed <= position.sequence

    def _unknown_partitions(self) -> list[int]:
        """Return the partitions that the cursor names and in which the group, with its patterns, has no topic."""
        if self.client_positions is None or not self.group.query.has_patterns:
            return []
        return sorted(self.client_positions.keys() - self.group.followers.keys() - self._in_epoch.keys())

    def _exists(self, partition: int) -> bool:
        """Return whether the position in a partition without a known topic is of the current epoch.

        If the cursor names an unknown partition, its topics are listed first.
        """
        self.refresh_topics([partition])
        if partition in self.group.followers:
            return self._reaches(partition)
        position = self.position(partition)
        return position is not None and self.broker.read(partition, {}).epoch == position.epoch

    def _reaches(self, partition: int) -> bool:
        """Return whether a position is of the current epoch; wait until its follower has read as far."""
        if partition not in self._in_epoch:
            position = self.position(partition)
            reached = position is None or self.group.followers[partition].wait_for(position, self.wait)
            self._in_epoch[partition] = reached
        return self._in_epoch[partition]

    def _is_created_later(self, of: Log) -> bool:
        """Return whether the topic of a log may be newer than the client's cursor, which lacks its partition."""
        return self._lacks(of) and not self.earliest and not self._is_selected_later(of)

    def _lacks(self, of: Log) -> bool:
        """Return whether the client's cursor has no position for a log."""
        return self.client_positions is not None and of.partition not in self.client_positions

    def _is_selected_later(self, of: Log) -> bool:
        """Return whether the client has selected a log since its cursor. It has a position of all topics named then."""
        reselected = self.reselected.events if of.window is None else self.reselected.statistics
        return self._lacks(of) and (reselected or of.topic in self.group.query.named_topics)

    def _reason_lost(self, of: Log, with_start: Container[Log]) -> str | None:
        """Return why the position in a log is lost; None if it is not, or if a snapshot makes up for it.

        Logs ``with_start`` hold all events of a topic that was created later.
        """
        if self.earliest:
            return None
        position = self.position(of.partition)
        tail = self.group.tail(of)
        if self._is_selected_later(of):
            return None
        if position is None:
            return None if self._is_created_later(of) and (of.window is not None or of in with_start) else "trimmed"
        if not self._reaches(of.partition):
            return "broker-restarted"
        if tail.deleted > position.sequence:
            return "deleted"
        return "trimmed" if of.window is None and tail.trimmed > position.sequence else None

    def _read_metadata(self, logs: Iterable[Log]) -> dict[Log, LogRead]:
        """Return the metadata of logs, in one round trip."""
        wanted: dict[int, dict[Log, int]] = {}
        for of in logs:
            wanted.setdefault(of.partition, {})[of] = NO_ENTRIES
        found: dict[Log, LogRead] = {}
        if not wanted:
            return found
        for read in self.broker.reads([ReadRequest(partition, asked) for partition, asked in wanted.items()]):
            if isinstance(read, PushError):
                raise read
            found |= read.logs
        return found

    def _look_up_offsets(self, lost: Mapping[Log, bool]) -> None:
        """Note where to read logs of events: after the client's position, or some events before the end."""
        sought: dict[Log, int] = {}
        ends = self._read_metadata(of for of, is_lost in lost.items() if is_lost)
        for of, is_lost in lost.items():
            position, source = self.position(of.partition), self.group.followers[of.partition]
            if self._is_selected_later(of):
                self._starts.setdefault(of.partition, source.position)
                self.log_positions[of] = LogPosition(source.offset(of), 0)
            elif is_lost:
                self.log_positions[of] = LogPosition(max(0, ends[of].last - REPLAY_AFTER_RESET), 0)
            elif position is None or not position.sequence:
                self.log_positions[of] = LogPosition(0, 0)
            elif position == source.position or self._has_everything(of):
                self.log_positions[of] = LogPosition(source.offset(of), position.sequence)
            else:
                sought[of] = position.sequence
        if sought:
            offsets = self.broker.seek_sequences([(of.topic, sequence) for of, sequence in sought.items()])
            for (of, sequence), offset in zip(sought.items(), offsets, strict=True):
                self.log_positions[of] = LogPosition(offset, sequence)
