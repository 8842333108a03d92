"""Composes the feed of a process: one live connection, a follower per followed partition, the directory of topics."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from gevent.event import Event

from pushsvc.broker.broker import Broker
from pushsvc.broker.keys import Log
from pushsvc.hub.feed.directory import Directory
from pushsvc.hub.feed.follower import Follower
from pushsvc.hub.feed.limits import FeedLimits
from pushsvc.hub.feed.subscriptions import Subscriptions


class Feed:
    """Gives the entries of followed logs to consumers, while the writer has ``room``. At most ``most`` logs."""

    def __init__(self, broker: Broker, room: Event, most: int, limits: FeedLimits | None = None) -> None:
        self.limits = limits or FeedLimits()
        self.subscriptions = Subscriptions(broker, most, self._on_notification, self._on_new_topic, self._on_up)
        self.directory = Directory(broker, self.subscriptions, self.limits.wait)
        self.has_been_up = False
        self._broker = broker
        self._room = room
        self._followers: dict[int, Follower] = {}

    def close(self) -> None:
        self.subscriptions.close()
        for follower in list(self._followers.values()):
            follower.greenlet.kill()

    @property
    def healthy(self) -> bool:
        """False when a greenlet ended that never should."""
        ended = any(follower.greenlet.dead for follower in self._followers.values() if follower.tails)
        return not self.subscriptions.dead and not ended

    def follower(self, partition: int) -> Follower:
        """Return the follower of a partition, a new one if there is none."""
        follower = self._followers.get(partition)
        if follower is None or follower.greenlet.dead:
            follower = self._followers[partition] = Follower(
                partition,
                self._broker,
                self.subscriptions,
                self._room,
                lambda partition: self.directory.refresh([partition]),
                partial(self._on_end, partition),
                self.limits,
            )
        return follower

    def _on_end(self, partition: int) -> None:
        follower = self._followers.get(partition)
        if follower is not None and not follower.tails:
            del self._followers[partition]

    def _on_notification(self, of: Log, message: bytes) -> None:
        follower = self._followers.get(of.partition)
        if follower is not None:
            follower.on_notification(of, message)

    def _on_new_topic(self, topic: str) -> None:
        self.directory.on_new_topic(topic)

    def _on_up(self, partitions: Sequence[int]) -> None:
        """Read and list again: notifications may be lost. The next read of each partition shows a restart of Redis."""
        self.has_been_up = True
        self.directory.refresh(partitions)
        for partition in partitions:
            if (follower := self._followers.get(partition)) is not None:
                follower.wake()
