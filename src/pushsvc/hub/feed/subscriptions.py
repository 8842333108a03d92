"""The Redis channels to which the process subscribes, all on one live connection."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from gevent.event import Event

from pushsvc.broker.broker import Broker
from pushsvc.broker.keys import Log
from pushsvc.topic import PARTITIONS


class Subscriptions:
    """Subscribes to the channels of followed logs, and of partitions for their new topics.

    At most ``most`` logs are followed: each costs a subscription in Redis and state in this process.
    ``on_notification(log, message)`` runs in gevent's hub and must not wait. ``on_new_topic(topic)`` may wait, though
    not long. ``on_up(partitions)`` means that earlier notifications may be lost, and new ones arrive.
    """

    def __init__(
        self,
        broker: Broker,
        most: int,
        on_notification: Callable[[Log, bytes], None],
        on_new_topic: Callable[[str], None],
        on_up: Callable[[Sequence[int]], None],
    ) -> None:
        self._keys = broker.keys
        self._most = most
        self._on_notification = on_notification
        self._on_new_topic = on_new_topic
        self._followed: set[Log] = set()
        self._logs: dict[str, Log] = {}  # by channel
        self._topic_channels = {self._keys.topics(partition) for partition in range(PARTITIONS)}
        self._live = broker.live_connection(self._on_message, on_up, on_unhandled=self._on_other_message)

    # Life

    def start(self) -> None:
        self._live.start()

    def close(self) -> None:
        self._live.close()

    @property
    def dead(self) -> bool:
        return self._live.dead

    def wait_up(self, timeout: float) -> bool:
        """Wait until the live connection receives notifications; return whether it does."""
        return self._live.wait_up(timeout)

    def receives(self, partitions: Iterable[int]) -> bool:
        """Return whether notifications of partitions arrive now."""
        return self._live.receives(partitions)

    # Logs

    @property
    def followed(self) -> int:
        """Return how many logs are followed."""
        return len(self._followed)

    def has_room(self, logs: Iterable[Log]) -> bool:
        """Return whether logs may be followed beside those that are."""
        new = self._followed.union(logs)
        return len(new) == len(self._followed) or len(new) <= self._most

    def follow(self, of: Log) -> None:
        """Count a log as followed. Asks Redis nothing."""
        self._followed.add(of)

    def unfollow(self, of: Log) -> None:
        """Unsubscribe from the notifications of a log."""
        self._followed.discard(of)
        channel = self._keys.log_channel(of)
        self._logs.pop(channel, None)
        self._live.unsubscribe(channel)

    def subscribe(self, of: Log) -> Event:
        """Subscribe to the notifications of a log; return what is set once Redis has confirmed it."""
        channel = self._keys.log_channel(of)
        self._logs[channel] = of
        return self._live.subscribe(channel)

    def are_confirmed(self, logs: Iterable[Log]) -> bool:
        """Return whether every notification of logs arrives from now on."""
        return all(self._live.is_confirmed(self._keys.log_channel(of)) for of in logs)

    # New topics

    def subscribe_topics(self, partition: int) -> Event:
        """Subscribe to the new topics of a partition; return what is set once Redis has confirmed it."""
        return self._live.subscribe(self._keys.topics(partition))

    def unsubscribe_topics(self, partition: int) -> None:
        self._live.unsubscribe(self._keys.topics(partition))

    # Messages

    def _on_message(self, channel: str, data: bytes) -> bool:
        """Pass on a notification of a log; return False for a message of any other channel."""
        of = self._logs.get(channel)
        if of is None:
            return False
        self._on_notification(of, data)
        return True

    def _on_other_message(self, channel: str, data: bytes) -> None:
        if channel in self._topic_channels and data:
            self._on_new_topic(data.decode())
