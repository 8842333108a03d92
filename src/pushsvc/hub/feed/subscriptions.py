"""Subscriptions to the Redis channels of logs, and of partitions for their new topics."""

from __future__ import annotations

from collections.abc import Iterable

from gevent.event import Event

from pushsvc.broker.cluster.cluster_live import ClusterLiveConnection
from pushsvc.broker.keys import Keys, Log
from pushsvc.broker.live import LiveConnection


class Subscriptions:
    """The subscriptions of the process, all on its live connection. ``logs`` holds the subscribed logs by channel.

    The events that are returned are set once Redis has confirmed the subscription.
    """

    def __init__(self, live: LiveConnection | ClusterLiveConnection, keys: Keys) -> None:
        self.logs: dict[str, Log] = {}
        self._live = live
        self._keys = keys

    def subscribe(self, of: Log) -> Event:
        channel = self._keys.log_channel(of)
        self.logs[channel] = of
        return self._live.subscribe(channel)

    def unsubscribe(self, of: Log) -> None:
        channel = self._keys.log_channel(of)
        self.logs.pop(channel, None)
        self._live.unsubscribe(channel)

    def are_confirmed(self, logs: Iterable[Log]) -> bool:
        """Return whether every notification of logs arrives from now on."""
        return all(self._live.is_confirmed(self._keys.log_channel(of)) for of in logs)

    def subscribe_topics(self, partition: int) -> Event:
        return self._live.subscribe(self._keys.topics(partition))

    def unsubscribe_topics(self, partition: int) -> None:
        self._live.unsubscribe(self._keys.topics(partition))
