"""The hub of a process: one live connection, a follower per partition that somebody watches."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from random import randrange

from gevent import monkey

from pushsvc.broker import Broker, Log
from pushsvc.broker.broker import FROM_SNAPSHOT
from pushsvc.broker.keys import TAGS
from pushsvc.errors import BrokerFull, BrokerUnavailable, StartupError
from pushsvc.hub.follower import Follower, Subscription
from pushsvc.hub.mirror import Mirror

log = logging.getLogger(__name__)

JOIN_SECONDS = 5.0


class Hub:
    """Subscriptions to logs. Starts with its first use, so that it may be made before a fork."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self._followers: dict[int, Follower] = {}
        self._live = broker.live(self._on_message, self._on_up)
        self._run: str | None = None
        self._started = False
        self.draining = False
        self._by_tag = {tag: partition for partition, tag in enumerate(TAGS)}

    def start(self) -> None:
        if not self._started:
            if not monkey.is_module_patched("socket"):
                raise StartupError(
                    "streams need gevent: run pushsvc's own server, or gunicorn with -k gevent, or call "
                    "gevent.monkey.patch_all() first thing"
                )
            self._started = True
            self._live.start()

    def drain(self) -> None:
        """End every stream, each with a jittered retry; new ones end at once."""
        self.draining = True
        for follower in list(self._followers.values()):
            for tail in list(follower.tails.values()):
                for subscription in list(tail.subscriptions):
                    subscription.close()

    def close(self) -> None:
        self._live.close()
        for follower in list(self._followers.values()):
            follower.greenlet.kill()

    def wait_up(self, timeout: float) -> bool:
        """Wait until the live connection hears; return whether it does."""
        self.start()
        return bool(self._live.up.wait(timeout))

    @property
    def hears(self) -> bool:
        return self._live.up.is_set()

    @property
    def healthy(self) -> bool:
        """False when a greenlet ended that never should: only a restart of the process helps."""
        return not self._live.dead

    @contextmanager
    def subscribed(self, logs: Sequence[Log]) -> Iterator[tuple[Subscription, Follower]]:
        """Watch logs of one partition for as long as the context lasts; raise BrokerUnavailable.

        Inside, every tail has been read once. The registry changes first and Redis is asked after, so that of two
        who come at once neither misses anything.
        """
        if self.draining:
            raise BrokerUnavailable("the server is restarting")
        subscription = Subscription(logs)
        follower = self._follower(logs[0].partition)
        follower.add(subscription)
        try:
            self._join(logs, follower)
            yield subscription, follower
        finally:
            follower.discard(subscription)

    def _join(self, logs: Sequence[Log], follower: Follower) -> None:
        if not self.wait_up(JOIN_SECONDS if not self._run else 0.1):
            raise BrokerUnavailable("no connection to Redis")
        for of in logs:
            if not self._live.subscribe(self.broker.keys.live(of)).wait(JOIN_SECONDS):
                raise BrokerUnavailable("Redis did not confirm a subscription in time")
        follower.wake()
        if not follower.wait_loaded(JOIN_SECONDS):
            raise BrokerUnavailable("Redis did not answer in time")

    def _follower(self, partition: int) -> Follower:
        follower = self._followers.get(partition)
        if follower is None or follower.greenlet.dead:
            follower = Follower(self, self.broker, partition, lambda: self._ended(partition))
            self._followers[partition] = follower
        return follower

    def _ended(self, partition: int) -> None:
        follower = self._followers.get(partition)
        if follower is not None and not follower.tails:
            del self._followers[partition]

    @staticmethod
    def jittered(milliseconds: int) -> int:
        """Spread reconnects over one to two times the delay, so that they do not come all at once."""
        return milliseconds + randrange(milliseconds)

    def unwatch(self, of: Log) -> None:
        self._live.unsubscribe(self.broker.keys.live(of))

    def mirror(self, of: Log) -> tuple[Mirror, int, int, bool]:
        """Return the state of a statistics log, with its epoch and sequence and whether an aggregator is alive.

        What somebody watches is at hand; for the rest the log is read from its last snapshot on.
        """
        mirror = Mirror(of)
        after = FROM_SNAPSHOT
        while True:
            read = self.broker.read(of.partition, {of: after})
            logged = read.logs[of]
            for entry in logged.entries:
                mirror.apply(entry)
                after = entry.last
            if not logged.more:
                return mirror, read.epoch, read.sequence, read.owned

    def _on_message(self, channel: str, data: bytes) -> None:
        tag = channel[channel.index("{") + 1 : channel.index("}")]
        follower = self._followers.get(self._by_tag[tag])
        if follower is not None:
            follower.wake()

    def _on_up(self, run: str) -> None:
        if run != self._run:
            try:
                self.broker.open_partitions()
            except BrokerFull as error:
                log.warning("a new epoch cannot be written yet: %s", error)
                run = ""  # reading works on a full disk too; the next connection tries again
        self._run = run
        for follower in list(self._followers.values()):
            follower.wake()
