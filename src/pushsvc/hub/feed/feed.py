"""Composes the feed of a process: one live connection, a follower per followed partition, the directory of topics."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from operator import attrgetter

from gevent.event import Event
from gevent.lock import BoundedSemaphore

from pushsvc.broker.broker import Broker
from pushsvc.broker.keys import Log
from pushsvc.errors import TooManyLogsFollowed
from pushsvc.event.conditions import EventFilter
from pushsvc.hub.feed.demand import WindowDemand
from pushsvc.hub.feed.directory import Directory
from pushsvc.hub.feed.follower import Follower
from pushsvc.hub.feed.loading import WindowLoader
from pushsvc.hub.feed.reads import SharedReads
from pushsvc.hub.feed.router import LogSource, Router
from pushsvc.hub.feed.subscriptions import Subscriptions
from pushsvc.hub.feed.tally import Tally
from pushsvc.hub.feed.topic_list import TopicList
from pushsvc.hub.limits import FeedLimits
from pushsvc.topic import PARTITIONS

log = logging.getLogger(__name__)


class Feed:
    """Gives the entries of followed logs to consumers, while the writer has ``room``.

    At most ``most`` logs are followed: each costs a subscription in Redis and state in this process. The rows of their
    windows are bounded, too: at the bound no window is added, and if those that are followed grow beyond it, the
    streams of the largest ones end.
    """

    def __init__(self, broker: Broker, room: Event, most: int, limits: FeedLimits | None = None) -> None:
        self.limits = limits or FeedLimits()
        self.live = broker.live_connection(self._on_message, self._on_up, on_unhandled=self._on_other_message)
        self.subscriptions = Subscriptions(self.live, broker.keys)
        self.topics = TopicList(broker)
        self.directory = Directory(broker.keys, self.topics, self.live, self.limits)
        self._demand = WindowDemand(broker.demand, self._on_window, self.limits)
        self.has_been_up = False
        self.opening = BoundedSemaphore()  # of the group that follows its next topics
        self._reads = SharedReads(broker, self.limits.read_logs)
        self.tally = Tally(self.limits.followed_bytes, self._make_room)
        self.loader = WindowLoader(self._reads, self.tally, self.limits)
        self._room = room
        self._most = most
        self._followers: dict[int, Follower] = {}
        self._routers: dict[Log, Router] = {}
        self._listeners: dict[str, Callable[[bytes], None]] = {}
        self._topic_channels = {broker.keys.topics(partition): partition for partition in range(PARTITIONS)}

    def close(self) -> None:
        self.live.close()
        self._demand.close()
        for follower in list(self._followers.values()):
            follower.greenlet.kill()

    @property
    def healthy(self) -> bool:
        """False when a greenlet ended that never should."""
        ended = any(follower.greenlet.dead for follower in self._followers.values() if follower.tails)
        return not self.live.dead and not ended and self._demand.healthy

    @property
    def followed(self) -> int:
        """Return how many logs are followed."""
        return self.tally.logs

    @property
    def followed_bytes(self) -> int:
        """Return about how many bytes the rows of the followed windows take."""
        return self.tally.bytes

    def listen(self, channel: str, on_message: Callable[[bytes], None]) -> None:
        """Call back with each message of a channel in the reading greenlet, so it must not block. An empty message
        means that earlier ones may be lost: every later one will arrive."""
        self._listeners[channel] = on_message
        self.live.subscribe(channel)

    def refusal(self, logs: Sequence[Log]) -> TooManyLogsFollowed | None:
        """Return why logs cannot be followed beside those that are, if they cannot."""
        new = [of for of in logs if (known := self._followers.get(of.partition)) is None or of not in known.tails]
        if any(of.window is not None for of in new) and not self.tally.has_room():
            return self.tally.refusal
        if new and self.followed + len(new) > self._most:
            return TooManyLogsFollowed("limits.followed is reached: raise it, or run more web processes")
        return None

    def _make_room(self) -> None:
        """Let the largest windows go, until a tenth of the bound is free: not each new row must look for them."""
        tails = [tail for follower in self._followers.values() for tail in follower.tails.values() if tail.counted]
        for tail in sorted(tails, key=attrgetter("counted"), reverse=True):
            if self.tally.bytes < self.tally.most * 0.9:
                return
            log.warning("the streams of %s end: %s", tail.log, self.tally.refusal)
            tail.refuse(self.tally.refusal)

    def follower(self, partition: int) -> Follower:
        """Return the follower of a partition, a new one if there is none."""
        follower = self._followers.get(partition)
        if follower is None or follower.greenlet.dead:
            if follower is not None:
                follower.leave_tally()
            follower = Follower(
                partition, self._reads, self.subscriptions, self._room, self.directory, self._demand,
                partial(self._on_end, partition), self.limits, self.tally, self.loader,
            )  # fmt: skip
            self._followers[partition] = follower
        return follower

    def source(self, of: Log, filter: EventFilter) -> LogSource:
        """Return what gives a consumer the entries of a log: its follower, or a router for what a filter selects."""
        follower = self.follower(of.partition)
        if filter.selects_all:
            return follower
        router = self._routers.get(of)
        if router is None:
            router = self._routers[of] = Router(of, follower, self._reads, self.limits, partial(self._on_routed, of))
        return router

    def _on_routed(self, of: Log) -> None:
        del self._routers[of]

    def has_room_for(self, filter: EventFilter, of: Log) -> bool:
        """Return whether the events of a log may be compared with one more filter."""
        router = self._routers.get(of)
        return router is None or router.has_room(filter)

    def _on_end(self, partition: int) -> None:
        follower = self._followers.get(partition)
        if follower is not None and not follower.tails:
            del self._followers[partition]

    def _on_window(self, of: Log, current: bool) -> None:
        if (follower := self._followers.get(of.partition)) is not None:
            follower.on_window(of, current)

    def _on_message(self, channel: str, message: bytes) -> bool:
        """Pass on a notification of a log; return False for a message of any other channel.

        Runs in gevent's hub and must not wait.
        """
        of = self.subscriptions.logs.get(channel)
        if of is None:
            return False
        follower = self._followers.get(of.partition)
        if follower is not None:
            follower.on_notification(of, message)
        return True

    def _on_other_message(self, channel: str, message: bytes) -> None:
        if (listener := self._listeners.get(channel)) is not None:
            listener(message)
        partition = self._topic_channels.get(channel)
        if partition is None:
            return
        if message:
            self.directory.on_new_topic(message.decode())
            # Last: the consumers get the topic in slices, between which a follower would take it for known.
            if (follower := self._followers.get(partition)) is not None:
                follower.on_announcement()
        else:
            self.directory.on_subscribed(partition)

    def _on_up(self, partitions: Sequence[int]) -> None:
        """Read and list again: notifications may be lost. The next read of each partition shows a restart of Redis."""
        self.has_been_up = True
        self.directory.refresh(partitions)
        self._demand.ask_again(partitions)
        for partition in partitions:
            if (follower := self._followers.get(partition)) is not None:
                follower.advance()
