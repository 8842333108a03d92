"""Which topics there are, for queries with patterns: listed once, then heard of as they are born."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gevent.event import Event
from gevent.lock import RLock

from pushsvc.errors import BrokerUnavailable
from pushsvc.topic import PARTITIONS

if TYPE_CHECKING:
    from pushsvc.hub.group import Group
    from pushsvc.hub.hub import Hub

_WAIT = 5.0


class Directory:
    """Costs Redis subscriptions only while a pattern is watched."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._groups: dict[Group, None] = {}
        self._topics: set[str] = set()
        self._loading = RLock()
        self._loaded = Event()
        self._stale = True

    def add(self, group: Group) -> None:
        """Tell a group of topics from now on; ``wait`` until it knows those that there are."""
        self._groups[group] = None
        if not self._stale:
            group.extend(sorted(self._topics))

    def discard(self, group: Group) -> None:
        if group not in self._groups:
            return
        del self._groups[group]
        if not self._groups:
            self._stale = True
            self._topics.clear()
            for partition in range(PARTITIONS):
                self._hub.unhear(self._hub.broker.keys.topics(partition))

    def wait(self) -> None:
        """Return once the topics are known; raise BrokerUnavailable."""
        with self._loading:
            if not self._stale:
                return
            confirmed = [self._hub.hear(self._hub.broker.keys.topics(p)) for p in range(PARTITIONS)]
            if not all(event.wait(_WAIT) for event in confirmed):
                raise BrokerUnavailable("Redis did not confirm a subscription in time")
            found = self._hub.broker.topics()
            self._stale = False
            born = self._topics - found.keys()  # heard of since they were listed
            self._topics = set(found) | born
            for group in list(self._groups):
                group.extend(found)

    def hear(self, topic: str) -> None:
        """A topic was born."""
        if topic and topic not in self._topics:
            self._topics.add(topic)
            for group in list(self._groups):
                group.extend([topic], born=True)

    def doubt(self) -> None:
        """What was said meanwhile is lost: list the topics again. One that is new was born unheard."""
        if not self._groups or self._stale:
            return
        for topic in self._hub.broker.topics():
            self.hear(topic)
