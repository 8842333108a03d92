"""Trims the logs of the partitions that this process owns, and ends topics that are not used any more.

The publish script trims the log that it appends to. This room enforces the bound on age, removes events that a window
needed when the last event came, and forgets topics that ended long ago.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence

import gevent
from prometheus_client import Counter, Gauge

from pushsvc.broker.broker import Broker, EndedTopics
from pushsvc.errors import Fenced, PushError
from pushsvc.settings import TopicRules, TopicSettings
from pushsvc.slices import Slices

log = logging.getLogger(__name__)

PERIOD = 15.0  # least seconds from the start of one round over all topics to the next
# Topics of one round trip, and entries removed from each: Redis is busy for a few milliseconds at most.
TOPICS, ENTRIES = 20, 50
_ROUND_TRIPS = 100  # most round trips for one batch of topics; the rest waits for the next round
_UNOWNED = 1.0  # seconds between two rounds while no partition is owned
_FILL_SLICE = 0.005  # seconds of work on newest events and indexes after which the event loop gets a turn
_INDEX_STEPS = 500  # of filling an index in one round: at most 1,000,000 values, or 100 MB
_PAUSE = 0.02  # seconds between two batches, so that many topics do not take all of the CPU

BYTES = Gauge("pushsvc_log_bytes", "Bytes of events in the owned logs", multiprocess_mode="livesum")
FILL = Gauge("pushsvc_log_fill_ratio", "Size of the fullest log, as a share of its limit", multiprocess_mode="livemax")
EXPIRED = Counter("pushsvc_topics_expired_total", "Topics that ended because they had no events and no streams")
REMEMBERED = Gauge(
    "pushsvc_topics_remembered", "Ended topics of the owned partitions whose offsets would go on",
    multiprocess_mode="livesum",
)  # fmt: skip
FORGOTTEN = Gauge(
    "pushsvc_topics_forgotten", "Ended topics of the owned partitions that were forgotten early, for lack of room",
    multiprocess_mode="livesum",
)  # fmt: skip
SWEPT = Counter("pushsvc_log_entries_swept_total", "Entries trimmed while no events were published")


class Sweeper:
    """Sweeps all topics in rounds. ``fences()`` returns the owned partitions with their fencing tokens."""

    def __init__(self, broker: Broker, rules: TopicRules, fences: Callable[[], Mapping[int, int]]) -> None:
        self._broker = broker
        self._rules = rules
        self._fences = fences
        self._cursors: dict[int, bytes] = {}  # by partition: where the next step over its ended topics begins

    def run(self) -> None:
        """Sweep in rounds, until the greenlet is killed."""
        while True:
            begun = time.monotonic()
            try:
                self.round()
            except PushError as error:
                log.warning("trimming of old events failed: %s", error)
            except Exception:
                log.exception("trimming of old events failed")
            period = PERIOD if self._fences() else _UNOWNED
            gevent.sleep(max(_PAUSE, begun + period - time.monotonic()))

    def round(self) -> None:
        """Sweep every topic once; at the end raise the last error of the broker, except Fenced.

        After an error the gauges stay: the sums would lack a partition.
        """
        held, fullest, remembered, forgotten = 0, 0.0, 0, 0
        failure: PushError | None = None
        for partition in sorted(self._fences()):
            try:
                size, full = self._sweep_partition(partition)
                ended = self._forget_ended(partition)
            except Fenced:  # the next renewal of the leases notices it
                continue
            except PushError as error:  # the next partitions may be at another primary
                failure = error
            else:
                held, fullest = held + size, max(fullest, full)
                remembered, forgotten = remembered + ended.remembered, forgotten + ended.forgotten
        if failure is not None:
            raise failure
        BYTES.set(held)
        FILL.set(fullest)
        REMEMBERED.set(remembered)
        FORGOTTEN.set(forgotten)

    def _forget_ended(self, partition: int) -> EndedTopics:
        """Forget some topics of a partition that ended long ago; return what is remembered."""
        cursor = self._cursors.get(partition, b"0")
        ended = self._broker.forget_ended(partition, self._fences().get(partition, 0), cursor)
        self._cursors[partition] = ended.cursor
        return ended

    def _sweep_partition(self, partition: int) -> tuple[int, float]:
        """Trim the logs of a partition; return their bytes afterwards, and the fill ratio of the fullest."""
        held, fullest = 0, 0.0
        names = sorted(self._broker.topics_of(partition))
        self._fill_latest(names)
        for at in range(0, len(names), TOPICS):
            topics = {name: self._rules.settings_of(name) for name in names[at : at + TOPICS]}
            for topic, size in self._sweep(partition, topics).items():
                held += size
                full = topics[topic].full_bytes
                fullest = max(fullest, size / full if full else 0.0)
            gevent.sleep(_PAUSE)
        self._fill_indexes(names)
        return held, fullest

    def _fill_latest(self, names: Sequence[str]) -> None:
        """Fold logs into the newest events that topics keep beside them, before they are trimmed: the setting may just
        have been switched on."""
        keeping = {name: settings for name in names if (settings := self._rules.settings_of(name)).latest}
        for topic in self._broker.latest.behind(list(keeping)):
            self._broker.latest.fill(topic, keeping[topic], Slices(_FILL_SLICE))

    def _fill_indexes(self, names: Sequence[str]) -> None:
        """Add events to the indexes of topics that lack some: the setting may just have been switched on or changed."""
        indexed = {name: settings.index for name in names if (settings := self._rules.settings_of(name)).index}
        for topic in self._broker.index.behind(indexed):
            self._broker.index.fill(topic, indexed[topic], _INDEX_STEPS, Slices(_FILL_SLICE))

    def _sweep(self, partition: int, topics: Mapping[str, TopicSettings]) -> dict[str, int]:
        """Trim some topics of a partition, and end those not used; return the bytes of the logs afterwards."""
        found: dict[str, int] = {}
        for _ in range(_ROUND_TRIPS):
            fence = self._fences().get(partition)
            if fence is None or not topics:
                break
            try:
                swept = self._broker.sweep(topics, fence, ENTRIES)
            except Fenced:  # the next renewal of the leases notices it
                break
            SWEPT.inc(sum(one.entries for one in swept.values()))
            found.update({topic: one.bytes for topic, one in swept.items()})
            for topic in [topic for topic, one in swept.items() if one.idle]:
                if self._broker.expire(topic, fence, topics[topic].expire_after):
                    EXPIRED.inc()
                    del found[topic], swept[topic]
            topics = {topic: topics[topic] for topic, one in swept.items() if one.more}
        return found
