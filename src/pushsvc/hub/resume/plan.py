"""Looks in the logs of a group for what a client has of them: where to read on, and what is lost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pushsvc.broker.keys import Log
from pushsvc.broker.log import NO_ENTRIES
from pushsvc.cursor import Position
from pushsvc.hub import messages as frames
from pushsvc.hub.feed.follower import REPLAY_AFTER_RESET
from pushsvc.topic import is_pattern

if TYPE_CHECKING:
    from pushsvc.hub.groups.group import Group

WAIT = 5.0
"""Seconds for which a survey waits until a follower has read as far as the client."""


@dataclass(slots=True)
class Place:
    """Where the reading of a log stands: behind an offset, and behind a sequence that the client has."""

    offset: int
    sequence: int


class Survey:
    """What was found for a client that has ``have`` of each partition: its ``places`` in the logs of events.

    It holds as long as the group does not begin anew. Logs that join are looked up, too. ``have`` is None where the
    client's position cannot be read; ``earliest`` asks for all that there is, and nothing of it can be lost.
    """

    def __init__(self, group: Group, have: Mapping[int, Position] | None, *, earliest: bool) -> None:
        self.places: dict[Log, Place] = {}
        self._group = group
        self._broker = group.hub.broker
        self._renewals = group.renewals
        self._have = have
        self._earliest = earliest
        self._known: dict[int, bool] = {}  # partition: whether the client's position in it is of this life of Redis
        self._looked_up: dict[Log, str | None] = {}  # log: why the position in it is lost, if it is

    @property
    def outdated(self) -> bool:
        """True when the group began anew."""
        return self._renewals != self._group.renewals

    def again(self) -> Survey:
        """Return one that knows nothing yet."""
        return Survey(self._group, self._have, earliest=self._earliest)

    def position(self, partition: int) -> Position | None:
        """Return what the client has of a partition."""
        return None if self._have is None else self._have.get(partition)

    @property
    def lost(self) -> dict[Log, str]:
        """Return the logs in which the client's position is lost, and why."""
        return {of: reason for of, reason in self._looked_up.items() if reason is not None}

    def look_up(self) -> bool:
        """Look up what is not known yet; return whether there was something, as the group may have changed meanwhile.
        Raises what the broker raises."""
        for partition in self._unheard():
            self._known[partition] = self._exists(partition)
            return True
        logs = [of for of in self._group.logs if of not in self._looked_up]
        for of in logs:
            reason = self._reason(of)
            if of.window is None:
                self.places[of] = self._find(of, lost=reason is not None)
            self._looked_up[of] = reason
        return bool(logs)

    def resets(self) -> list[bytes]:
        """Return what says that positions are lost. Of topics that are there no more only the patterns are known."""
        told = {(of.topic, reason): None for of, reason in self.lost.items()}
        query = self._group.query
        if any(not known and p not in self._group.followers for p, known in self._known.items()):
            patterns = filter(is_pattern, (*query.events, *query.statistics))
            told |= {(pattern, "broker-restarted"): None for pattern in patterns}
        return [frames.reset(topic, reason) for topic, reason in told]

    def positions(self) -> dict[int, Position]:
        """Return what the client has of each partition, in this life of Redis."""
        found = {}
        for partition, follower in self._group.followers.items():
            position = self.position(partition)
            known = position is not None and self._known.get(partition, False)
            found[partition] = Position(follower.position.epoch, position.sequence if position and known else 0)
        return found

    def _unheard(self) -> list[int]:
        """Return the partitions that the client has heard of, but not the group with its patterns."""
        if self._have is None or not self._group.query.has_patterns:
            return []
        return sorted(self._have.keys() - self._group.followers.keys() - self._known.keys())

    def _exists(self, partition: int) -> bool:
        """Tell whether a partition without a topic for the group is what the client knew; look for topics first."""
        self._group.hub.list_again(partition)
        if partition in self._group.followers:
            return self._reaches(partition)
        position = self.position(partition)
        return position is not None and self._broker.read(partition, {}).epoch == position.epoch

    def _reaches(self, partition: int) -> bool:
        """Tell whether a position is of this life of Redis; wait until its follower has read as far."""
        if partition not in self._known:
            position = self.position(partition)
            reached = position is None or self._group.followers[partition].wait_for(position, WAIT)
            self._known[partition] = reached
        return self._known[partition]

    def _reason(self, of: Log) -> str | None:
        """Return why the place in a log is lost; None where it is not, or where a snapshot says it all."""
        if self._earliest:
            return None
        position = self.position(of.partition)
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

    def _find(self, of: Log, *, lost: bool) -> Place:
        """Return the place to read an events log from: behind the position, or the last events before its end."""
        if lost:
            last = self._broker.read(of.partition, {of: NO_ENTRIES}).logs[of].last
            return Place(max(0, last - REPLAY_AFTER_RESET), 0)
        position = self.position(of.partition)
        if position is None or not position.sequence:
            return Place(0, 0)
        if position == self._group.followers[of.partition].position:
            return Place(self._group.tail(of).after, position.sequence)  # nothing was missed
        return Place(self._broker.seek_sequence(of.topic, position.sequence), position.sequence)
