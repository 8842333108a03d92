"""The topics that exist, for consumers with patterns: listed once, then notified of as they are created."""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from gevent.lock import RLock

from pushsvc.broker.cluster.cluster_live import ClusterLiveConnection
from pushsvc.broker.keys import Keys, Log
from pushsvc.broker.live import LiveConnection
from pushsvc.errors import BrokerUnavailable
from pushsvc.hub.feed.few import Few, excluding, including
from pushsvc.hub.feed.topic_list import PartitionTopics, TopicList
from pushsvc.hub.limits import FeedLimits
from pushsvc.pause import Pause
from pushsvc.slices import Slices
from pushsvc.topic import PARTITIONS, Shapes, range_of


class TopicConsumer(Protocol):
    """Gets the topics that match its ``patterns``. ``from_start`` is true for those created while it was subscribed."""

    @property
    def patterns(self) -> Iterable[str]: ...

    def follow(self, topics: Iterable[str], *, from_start: bool = False) -> list[Log]:
        """Register for the logs of topics without asking Redis; return the logs to subscribe to."""

    def subscribe(self, logs: Iterable[Log]) -> None:
        """Subscribe to the notifications of logs."""


class Patterns:
    """The consumers by their patterns. ``lookups`` counts the patterns that were looked for."""

    def __init__(self, consumers: Iterable[TopicConsumer] = ()) -> None:
        self.lookups = 0
        self._shapes = Shapes()
        self._consumers: dict[str, Few[TopicConsumer]] = {}
        for consumer in consumers:
            self.add(consumer)

    def add(self, consumer: TopicConsumer) -> None:
        for pattern in consumer.patterns:
            if pattern not in self._consumers:
                self._shapes.add(pattern)
            self._consumers[pattern] = including(self._consumers.get(pattern, ()), consumer)

    def discard(self, consumer: TopicConsumer) -> None:
        for pattern in consumer.patterns:
            left = excluding(self._consumers.get(pattern, ()), consumer)
            if left:
                self._consumers[pattern] = left
            elif self._consumers.pop(pattern, None) is not None:
                self._shapes.discard(pattern)

    def matching(self, topic: str, pause: Pause) -> list[TopicConsumer]:
        """Return the consumers with a pattern that matches a topic, each once."""
        found: dict[TopicConsumer, None] = {}
        for pattern in self._shapes.candidates(topic):
            self.lookups += 1
            found.update(dict.fromkeys(self._consumers.get(pattern, ())))
            pause()
        return list(found)

    def among(self, names: Sequence[str], pause: Pause) -> Iterator[str]:
        """Yield the names in a sorted list that a pattern may match: those that share its first words."""
        if len(self._consumers) >= len(names):
            yield from names
            return
        end = 0
        for found in sorted(self._ranges(names, pause), key=lambda found: found.start):
            yield from names[max(end, found.start) : found.stop]
            end = max(end, found.stop)

    def _ranges(self, names: Sequence[str], pause: Pause) -> Iterator[range]:
        for pattern in list(self._consumers):
            pause()
            yield range_of(pattern, names)


class Directory:
    """Subscribes to new topics while there is a consumer with patterns.

    Topics are deleted too, so new consumers need the current list. Consumers get topics in slices, between which the
    event loop serves others.
    """

    def __init__(
        self, keys: Keys, topics: TopicList, live: LiveConnection | ClusterLiveConnection, limits: FeedLimits
    ) -> None:
        self.patterns = Patterns()
        self._keys = keys
        self._topics = topics
        self._live = live
        self._limits = limits
        self._consumers: dict[TopicConsumer, None] = {}
        self._unlisted: dict[TopicConsumer, None] = {}  # consumers that still need the current list
        self._relisted: set[int] = set()  # partitions that were listed again during a listing
        self._stale: dict[int, object] = {}  # partitions to be listed: announcements before the subscription were lost
        self._listing = RLock()

    @property
    def has_consumers(self) -> bool:
        return bool(self._consumers)

    def is_current(self, partition: int) -> bool:
        """Return whether the consumers know every topic of a partition that has been announced until now."""
        if not self._consumers:
            return True
        return partition not in self._stale and self._live.is_confirmed(self._keys.topics(partition))

    def on_subscribed(self, partition: int) -> None:
        """Note that every later announcement of a topic arrives. Earlier ones may be lost."""
        self._stale[partition] = object()

    def _mark_current(self, stale: Mapping[int, object]) -> None:
        """Note that partitions were listed, unless they were subscribed to again meanwhile."""
        for partition, mark in stale.items():
            if self._stale.get(partition) is mark:
                del self._stale[partition]

    def add(self, consumer: TopicConsumer) -> None:
        """Pass new topics to a consumer from now on. ``wait_listed`` passes the existing ones."""
        self._consumers[consumer] = self._unlisted[consumer] = None
        self.patterns.add(consumer)

    def has_listed(self, consumer: TopicConsumer) -> bool:
        """Return whether a consumer got the existing topics, or needs none."""
        return consumer not in self._unlisted

    def discard(self, consumer: TopicConsumer) -> None:
        if consumer not in self._consumers:
            return
        del self._consumers[consumer]
        self._unlisted.pop(consumer, None)
        self.patterns.discard(consumer)
        for partition in range(PARTITIONS):
            if self._consumers:  # looked at each time, as a consumer may join while Redis is asked
                return
            self._live.unsubscribe(self._keys.topics(partition))

    def wait_listed(self) -> None:
        """Return once every consumer got the existing topics; raise BrokerUnavailable."""
        with self._listing:
            if not self._unlisted:
                return
            confirmed = [self._live.subscribe(self._keys.topics(partition)) for partition in range(PARTITIONS)]
            if not all(event.wait(self._limits.wait) for event in confirmed):
                raise BrokerUnavailable("Redis did not confirm a subscription in time")
            waiting, stale = dict(self._unlisted), dict(self._stale)
            patterns = Patterns(waiting)
            self._relisted.clear()
            partitions: Sequence[int] = range(PARTITIONS)
            # Partitions that ``refresh`` lists meanwhile, for other consumers, are listed again.
            while partitions:
                self._pass(self._topics.read(partitions), patterns, self._unlisted)
                partitions, self._relisted = sorted(self._relisted), set()
            for consumer in waiting:
                self._unlisted.pop(consumer, None)
            if self._consumers.keys() <= waiting.keys():
                self._mark_current(stale)

    def _pass(
        self,
        topics: Iterable[PartitionTopics],
        patterns: Patterns,
        wanted: Container[TopicConsumer],
        *,
        from_start: bool = False,
    ) -> None:
        """Let consumers follow the topics that they want. Each has all its logs of a partition before Redis is asked
        for them: a topic created in between reaches it."""
        pause = Slices(self._limits.slice)
        for partition in topics:
            for name in patterns.among(partition.names, pause):
                self._follow(name, patterns.matching(name, pause), wanted, pause, from_start=from_start)

    def _follow(
        self,
        topic: str,
        consumers: Iterable[TopicConsumer],
        wanted: Container[TopicConsumer],
        pause: Pause,
        *,
        from_start: bool,
    ) -> None:
        for consumer in consumers:
            if consumer in wanted and consumer in self._consumers:  # else it was discarded meanwhile
                consumer.subscribe(consumer.follow([topic], from_start=from_start))
                pause()

    def on_new_topic(self, topic: str) -> None:
        """Pass on a topic that was announced. The next announcement must not come before it returns."""
        pause = Slices(self._limits.slice)
        self._follow(topic, self.patterns.matching(topic, pause), self._consumers, pause, from_start=True)

    def refresh(self, partitions: Sequence[int]) -> None:
        """List the topics of partitions again: notifications may be lost. Topics that a consumer lacks are new."""
        if not self._consumers:
            return
        self._relisted.update(partitions)
        stale = {partition: self._stale[partition] for partition in partitions if partition in self._stale}
        listed = self._consumers.keys() - self._unlisted.keys()
        self._pass(self._topics.read(partitions), self.patterns, listed, from_start=True)
        self._mark_current(stale)
