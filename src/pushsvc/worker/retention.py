"""Trims the logs of the partitions that this process owns, also those to which nobody publishes any more.

The publish script trims what is published to; age, and events that windows needed when the last one came, are left to
this.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping

import gevent
from prometheus_client import Counter, Gauge

from pushsvc.broker.broker import Broker
from pushsvc.errors import Fenced, PushError
from pushsvc.settings import TopicRules, TopicSettings

log = logging.getLogger(__name__)

PERIOD = 15.0
"""Seconds from the begin of one round over all topics to the next, at least."""

TOPICS, ENTRIES = 20, 50
"""Topics of one round trip, and entries that go of each: Redis is busy for some milliseconds at most."""

TURNS = 100
"""Round trips for one group of topics in a round, at most: what is left then waits for the next round."""

_UNOWNED = 1.0
"""Seconds between two looks whether a partition is owned meanwhile."""

_PAUSE = 0.02
"""Seconds between two groups, so that a round over very many topics takes longer rather than all of the time."""

BYTES = Gauge("pushsvc_log_bytes", "Bytes of events in the logs that are owned", multiprocess_mode="livesum")
FILL = Gauge("pushsvc_log_fill_ratio", "The fullest log, as a share of where it is full", multiprocess_mode="livemax")
SWEPT = Counter("pushsvc_log_entries_swept_total", "Entries that went while nobody published")


class Sweeper:
    """Goes round the topics for ever. ``fences()`` are the partitions that are owned, with their fencing tokens."""

    def __init__(self, broker: Broker, rules: TopicRules, fences: Callable[[], Mapping[int, int]]) -> None:
        self._broker = broker
        self._rules = rules
        self._fences = fences
        self._greenlet: gevent.Greenlet[..., None] | None = None

    def start(self) -> None:
        self._greenlet = gevent.spawn(self._run)

    def close(self) -> None:
        if self._greenlet is not None:
            self._greenlet.kill()

    def _run(self) -> None:
        while True:
            begun = time.monotonic()
            try:
                self.round()
            except PushError as error:
                log.warning("sweeping: %s", error)
            except Exception:
                log.exception("sweeping")
            period = PERIOD if self._fences() else _UNOWNED
            gevent.sleep(max(_PAUSE, begun + period - time.monotonic()))

    def round(self) -> None:
        """Look at every topic once. Raise what the broker raised last, but Fenced, when all partitions had their turn.

        Then the gauges stay as they were: they would tell of less than there is.
        """
        held, fullest = 0, 0.0
        failure: PushError | None = None
        for partition in sorted(self._fences()):
            try:
                size, full = self._look_at(partition)
            except PushError as error:  # the next ones may be at another primary
                failure = error
            else:
                held, fullest = held + size, max(fullest, full)
        if failure is not None:
            raise failure
        BYTES.set(held)
        FILL.set(fullest)

    def _look_at(self, partition: int) -> tuple[int, float]:
        """Trim the logs of a partition; return the bytes that they hold then, and how full the fullest is."""
        held, fullest = 0, 0.0
        for topics in self._groups(partition):
            for topic, size in self._sweep(partition, topics).items():
                held += size
                full = topics[topic].full_bytes
                fullest = max(fullest, size / full if full else 0.0)
            gevent.sleep(_PAUSE)
        return held, fullest

    def _groups(self, partition: int) -> Iterator[dict[str, TopicSettings]]:
        names = sorted(self._broker.topics_of(partition))
        for at in range(0, len(names), TOPICS):
            yield {name: self._rules.settings_of(name) for name in names[at : at + TOPICS]}

    def _sweep(self, partition: int, topics: Mapping[str, TopicSettings]) -> dict[str, int]:
        """Trim some topics of a partition; return the bytes that their logs hold then."""
        found: dict[str, int] = {}
        for _ in range(TURNS):
            fence = self._fences().get(partition)
            if fence is None or not topics:
                break
            try:
                swept = self._broker.sweep(topics, fence, ENTRIES)
            except Fenced:  # the leases find out by themselves
                break
            SWEPT.inc(sum(one.entries for one in swept.values()))
            found.update({topic: one.bytes for topic, one in swept.items()})
            topics = {topic: topics[topic] for topic, one in swept.items() if one.more}
        return found
