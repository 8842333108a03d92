"""The topics that exist, for consumers with patterns: listed once, then notified of as they are created."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from gevent.lock import RLock

from pushsvc.broker.broker import Broker
from pushsvc.broker.cluster.cluster_live import ClusterLiveConnection
from pushsvc.broker.keys import Log
from pushsvc.broker.live import LiveConnection
from pushsvc.errors import BrokerUnavailable
from pushsvc.topic import PARTITIONS


class TopicConsumer(Protocol):
    """Gets all topics, and chooses its own. ``from_start`` is true for topics created while it was subscribed."""

    def follow(self, topics: Iterable[str], *, from_start: bool = False) -> list[Log]:
        """Register for the logs of topics without asking Redis; return the logs to subscribe to."""

    def subscribe(self, logs: Iterable[Log]) -> None:
        """Subscribe to the notifications of logs."""


class Directory:
    """Subscribes to new topics while there is a consumer with patterns.

    A listing is not kept, because topics are deleted too: new consumers need the current list.
    """

    def __init__(self, broker: Broker, live: LiveConnection | ClusterLiveConnection, wait: float) -> None:
        self._broker = broker
        self._live = live
        self._wait = wait
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
        return partition not in self._stale and self._live.is_confirmed(self._broker.keys.topics(partition))

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

    def has_listed(self, consumer: TopicConsumer) -> bool:
        """Return whether a consumer got the existing topics, or needs none."""
        return consumer not in self._unlisted

    def discard(self, consumer: TopicConsumer) -> None:
        if consumer not in self._consumers:
            return
        del self._consumers[consumer]
        self._unlisted.pop(consumer, None)
        for partition in range(PARTITIONS):
            if self._consumers:  # looked at each time, as a consumer may join while Redis is asked
                return
            self._live.unsubscribe(self._broker.keys.topics(partition))

    def wait_listed(self) -> None:
        """Return once every consumer got the existing topics; raise BrokerUnavailable."""
        with self._listing:
            if not self._unlisted:
                return
            confirmed = [self._live.subscribe(self._broker.keys.topics(partition)) for partition in range(PARTITIONS)]
            if not all(event.wait(self._wait) for event in confirmed):
                raise BrokerUnavailable("Redis did not confirm a subscription in time")
            waiting, stale = list(self._unlisted), dict(self._stale)
            new = {}
            found = self._list()
            # First all consumers are registered, then Redis is asked: a topic created in between reaches each of them.
            for consumer in waiting:
                if consumer in self._unlisted:  # else it was discarded meanwhile
                    del self._unlisted[consumer]
                    new[consumer] = consumer.follow(found)
            if len(self._consumers) == len(new):
                self._mark_current(stale)
            for consumer, logs in new.items():
                consumer.subscribe(logs)

    def _list(self) -> dict[str, int]:
        """Return all topics. Partitions that ``refresh`` listed meanwhile, for other consumers, are listed again."""
        self._relisted.clear()
        found = self._broker.topics()
        while self._relisted:
            partitions, self._relisted = sorted(self._relisted), set()
            found.update(self._broker.topics(partitions))
        return found

    def on_new_topic(self, topic: str) -> None:
        for consumer in list(self._consumers):
            if consumer in self._consumers:
                consumer.subscribe(consumer.follow([topic], from_start=True))

    def refresh(self, partitions: Sequence[int]) -> None:
        """List the topics of partitions again: notifications may be lost. Topics that a consumer lacks are new."""
        if not self._consumers:
            return
        self._relisted.update(partitions)
        stale = {partition: self._stale[partition] for partition in partitions if partition in self._stale}
        listed = [consumer for consumer in self._consumers if consumer not in self._unlisted]
        found = self._broker.topics(partitions)
        for consumer in listed:
            if consumer in self._consumers:
                consumer.subscribe(consumer.follow(found, from_start=True))
        self._mark_current(stale)
