"""Trims the logs of the partitions that this process owns, and ends topics that are not used any more.

The publish script trims the log that it appends to. This module enforces the bound on age, removes events that a window
needed when the last event came, and forgets topics that ended long ago.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import gevent
from prometheus_client import Counter, Gauge

from pushsvc.broker.broker import Broker, EndedTopics
from pushsvc.broker.keys import is_statistics
from pushsvc.errors import BrokerFull, Fenced, PushError, Unavailable
from pushsvc.settings import TopicRules
from pushsvc.slices import Slices
from pushsvc.worker.sweep_schedule import SweepSchedule

log = logging.getLogger(__name__)

PERIOD = 15.0  # least seconds from the start of one round to the next
# Topics of one round trip, and entries removed from each: Redis is busy for a few milliseconds at most.
TOPICS, ENTRIES = 20, 50
_SETTLED = 60.0  # seconds after which a changed topic is checked; the publish itself has trimmed its log
_NEWEST = 2**62  # a sequence after which nothing has changed
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
FAILED = Counter("pushsvc_sweeps_failed_total", "Checks of a topic that failed; it is checked again after a pause")


class Sweeper:
    """Sweeps the topics that need it in rounds. ``fences()`` returns the owned partitions with their fencing tokens.

    After a takeover it checks all topics of the partition, later those that changed and those whose oldest entry
    reached its age limit.
    """

    def __init__(self, broker: Broker, rules: TopicRules, fences: Callable[[], Mapping[int, int]]) -> None:
        self._broker = broker
        self._rules = rules
        self._fences = fences
        self._schedules: dict[int, SweepSchedule] = {}  # by partition
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
        """Sweep what is due; at the end raise the last error of a partition, except Fenced.

        After an error the gauges stay: the sums would lack a partition.
        """
        held, fullest, remembered, forgotten = 0, 0.0, 0, 0
        failure: Exception | None = None
        fences = self._fences()
        self._schedules = {number: one for number, one in self._schedules.items() if fences.get(number) == one.fence}
        for partition, fence in sorted(fences.items()):
            schedule = self._schedules.setdefault(partition, SweepSchedule(fence))
            try:
                schedule = self._note_changes(partition, schedule)
                self._sweep_due(partition, schedule)
                ended = self._forget_ended(partition)
            except Fenced:  # the next renewal of the leases notices it
                continue
            except Exception as error:  # noqa: BLE001 - the next partitions may be at another primary
                failure = error
            else:
                held, fullest = held + schedule.bytes, max(fullest, schedule.fullest)
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

    def _note_changes(self, partition: int, schedule: SweepSchedule) -> SweepSchedule:
        """Take over which topics changed since the last round; return the schedule, a new one after a failover."""
        more = True
        while more:
            changed = self._broker.changed(partition, schedule.through)
            if changed.epoch != schedule.epoch:  # Redis may have lost changes that were seen here
                schedule = self._schedules[partition] = SweepSchedule(schedule.fence)
                changed = self._broker.changed(partition, _NEWEST)
                schedule.epoch = changed.epoch
                schedule.add(self._broker.topics_of(partition), 0.0)
            names = [name for name in changed.sequences if not is_statistics(name)]
            schedule.add(names, time.monotonic() + _SETTLED)
            schedule.through, more = changed.through, changed.more
        return schedule

    def _sweep_due(self, partition: int, schedule: SweepSchedule) -> None:
        """Trim the logs of the topics that are due, and complete what is kept beside them."""

        def trim(names: Sequence[str]) -> None:
            self._fill_latest(names)
            self._sweep(partition, names, schedule)

        def fill_indexes(names: Sequence[str]) -> None:
            schedule.add(self._fill_indexes(names), 0.0)

        due = schedule.take(time.monotonic())
        left = set(due)
        indexed: list[str] = []
        failures: dict[str, Exception] = {}
        try:
            for names in _batches(due):
                trimmed = self._try_each(names, trim, failures)
                indexed += [name for name in trimmed if self._rules.settings_of(name).index]
                done = set(trimmed).difference(indexed)
                schedule.note_success(done)
                left -= done | failures.keys()
                gevent.sleep(_PAUSE)
            for names in _batches(indexed):
                filled = self._try_each(names, fill_indexes, failures)
                schedule.note_success(filled)
                left.difference_update(names)
        finally:
            schedule.add(left, 0.0)
            self._note_failures(partition, schedule, failures)

    def _try_each(
        self, names: Sequence[str], work: Callable[[Sequence[str]], None], failures: dict[str, Exception]
    ) -> Sequence[str]:
        """Work on topics together, or if that fails on one after the other. Return the topics without a failure.

        The others are added to the failures. Errors that are not of a topic are raised.
        """
        try:
            work(names)
        except Exception as error:  # one topic must not hold up the others
            if isinstance(error, (Fenced, Unavailable)) and not isinstance(error, BrokerFull):
                raise
            if len(names) > 1:
                return [done for name in names for done in self._try_each([name], work, failures)]
            failures[names[0]] = error
            return []
        return names

    def _note_failures(self, partition: int, schedule: SweepSchedule, failures: Mapping[str, Exception]) -> None:
        """Let topics rest whose checks failed, and log those that did not fail the time before, in one line."""
        FAILED.inc(len(failures))
        now = time.monotonic()
        begun = [name for name in failures if schedule.note_failure(name, now)]
        if begun:
            error = failures[begun[0]]
            log.warning(
                "partition %d: topics that cannot be trimmed are tried again later: %d, the first is %r: %s",
                partition, len(begun), begun[0], error, exc_info=None if isinstance(error, PushError) else error,
            )  # fmt: skip

    def _fill_latest(self, names: Sequence[str]) -> None:
        """Fold logs into the newest events that topics keep beside them, before they are trimmed: the setting may just
        have been switched on."""
        keeping = {name: settings for name in names if (settings := self._rules.settings_of(name)).latest}
        for topic in self._broker.latest.behind(list(keeping)):
            self._broker.latest.fill(topic, keeping[topic], Slices(_FILL_SLICE))

    def _fill_indexes(self, names: Sequence[str]) -> list[str]:
        """Add events to the indexes of topics that lack some: the setting may just have been switched on or changed.
        Return the topics whose indexes still lack some."""
        indexed = {name: self._rules.settings_of(name).index for name in names}
        behind = self._broker.index.behind(indexed)
        return [
            name
            for name in behind
            if not self._broker.index.fill(name, indexed[name], _INDEX_STEPS, Slices(_FILL_SLICE))
        ]

    def _sweep(self, partition: int, names: Sequence[str], schedule: SweepSchedule) -> None:
        """Trim some topics of a partition, and end those not used."""
        waiting = {name: self._rules.settings_of(name) for name in names}
        for _ in range(_ROUND_TRIPS):
            fence = self._fences().get(partition)
            if fence is None or not waiting:
                break
            try:
                swept = self._broker.sweep(waiting, fence, ENTRIES)
            except Fenced:  # the next renewal of the leases notices it
                break
            SWEPT.inc(sum(one.entries for one in swept.values()))
            now = time.monotonic()
            for topic, settings in waiting.items():
                one = swept.get(topic)
                if one is None:  # it was deleted
                    schedule.forget(topic)
                elif one.idle and self._broker.expire(topic, fence, settings.expire_after):
                    schedule.forget(topic)
                    EXPIRED.inc()
                else:
                    schedule.set_size(topic, one.bytes, settings.full_bytes)
                    if one.wait is not None:
                        schedule.add([topic], now + one.wait / 1000)
            waiting = {topic: waiting[topic] for topic, one in swept.items() if one.more}
        schedule.add(waiting, 0.0)


def _batches(names: Sequence[str]) -> Iterator[Sequence[str]]:
    return (names[at : at + TOPICS] for at in range(0, len(names), TOPICS))
