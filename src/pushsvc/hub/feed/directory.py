"""Which topics there are, for queries with patterns: listed once, then heard of as they are born."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gevent.lock import RLock

from pushsvc.errors import BrokerUnavailable
from pushsvc.topic import PARTITIONS

if TYPE_CHECKING:
    from pushsvc.hub.groups.group import Group
    from pushsvc.hub.hub import Hub

_WAIT = 5.0


class Directory:
    """Costs Redis subscriptions only while a pattern is watched.

    Nothing is kept of a listing: topics are deleted too, and who comes is to be told of those that are there.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._groups: dict[Group, None] = {}
        self._unlisted: dict[Group, None] = {}  # those of them that have still to be told what there is
        self._doubted: set[int] = set()  # partitions that were listed again meanwhile
        self._listing = RLock()

    def add(self, group: Group) -> None:
        """Tell a group of topics from now on; ``wait`` until it knows those that there are."""
        self._groups[group] = self._unlisted[group] = None

    def knows(self, group: Group) -> bool:
        """Tell whether nothing of what there is has still to be told to a group."""
        return group not in self._unlisted

    def discard(self, group: Group) -> None:
        if group not in self._groups:
            return
        del self._groups[group]
        self._unlisted.pop(group, None)
        for partition in range(PARTITIONS):
            if self._groups:  # also one that came meanwhile
                return
            self._hub.unhear(self._hub.broker.keys.topics(partition))

    def wait(self) -> None:
        """Return once the topics are known; raise BrokerUnavailable."""
        with self._listing:
            if not self._unlisted:
                return
            confirmed = [self._hub.hear(self._hub.broker.keys.topics(p)) for p in range(PARTITIONS)]
            if not all(event.wait(_WAIT) for event in confirmed):
                raise BrokerUnavailable("Redis did not confirm a subscription in time")
            waiting = list(self._unlisted)
            new = {}
            found = self._list()
            for group in waiting:
                if group in self._unlisted:  # else it ended meanwhile
                    del self._unlisted[group]
                    new[group] = group.follow(found)
            for group, logs in new.items():
                group.hear(logs)

    def _list(self) -> dict[str, int]:
        """Return all topics, those too of whose birth others were told meanwhile, as somebody read behind it."""
        self._doubted.clear()
        found = self._hub.broker.topics()
        while self._doubted:
            doubted, self._doubted = sorted(self._doubted), set()
            found.update(self._hub.broker.topics(doubted))
        return found

    def hear(self, topic: str) -> None:
        """A topic was born."""
        if topic:
            for group in list(self._groups):
                if group in self._groups:
                    group.extend([topic], born=True)

    def doubt(self, partitions: Sequence[int]) -> None:
        """What was said meanwhile is lost: list the topics of partitions again. One that is new was born unheard."""
        if not self._groups:
            return
        self._doubted.update(partitions)
        listed = [group for group in self._groups if group not in self._unlisted]
        found = self._hub.broker.topics(partitions)
        for group in listed:
            if group in self._groups:
                group.extend(found, born=True)
