"""Follows the logs of one partition: one script reads them all, and notifications continue from there.

A read of all logs at one instant gives what a cursor needs: the sequence of the partition up to which nothing of them
is missing. From there on every notification arrives, in order, on one connection. A notification with the very next
entry of its log leaves nothing to read. Any other notification leads to a read of all logs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from time import monotonic
from typing import Protocol

import gevent
from gevent import get_hub
from gevent.event import Event

from pushsvc.broker.broker import Broker
from pushsvc.broker.cluster.cluster_live import ClusterLiveConnection
from pushsvc.broker.keys import Keys, Log
from pushsvc.broker.live import LiveConnection
from pushsvc.broker.log import (
    FROM_SNAPSHOT,
    NO_ENTRIES,
    LogEntry,
    LogNotification,
    LogRead,
    PartitionRead,
    StatisticsEntry,
)
from pushsvc.cursor import Position
from pushsvc.errors import PushError
from pushsvc.hub.limits import FeedLimits
from pushsvc.hub.messages import Rendering
from pushsvc.hub.window_state import WindowState

log = logging.getLogger(__name__)

REPLAY_AFTER_RESET = 1_000  # the most events that are sent of the rest of a log after a reset


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


class LogConsumer(Protocol):
    """Gets the entries of the logs for which it is registered at a follower. All but ``fail`` may raise."""

    def take(self, partition: int, batch: Sequence[tuple[Log, LogEntry]], rendering: Rendering) -> None:
        """Process entries of a partition, which come in order of sequence. At least one."""

    def on_read(self) -> None:
        """Note that logs of this consumer were read, with or without entries."""

    def reset(self, of: Log, reason: str) -> None:
        """Note that a log starts over: its entries so far may come again or be lost."""

    def skip(self, of: Log, offset: int) -> None:
        """Ignore the entries of a log up to an offset: they come because another consumer reads them."""

    def fail(self) -> None:
        """End after an error of our own."""


class Tail:
    """Where the next read of a log continues: ``after`` an offset, FROM_SNAPSHOT or NO_ENTRIES.

    A tail is ``catching_up`` until its log was read as far as the other logs of its partition, and up to ``end``.
    ``starting_at_end`` are the consumers that ignore what the next read finds, ``created_while_followed`` is true for
    a log whose topic was created while a consumer was subscribed.
    """

    def __init__(self, of: Log) -> None:
        self.log = of
        self.consumers: dict[LogConsumer, None] = {}
        self.starting_at_end: dict[LogConsumer, None] = {}
        self.window_state = WindowState(of) if of.window is not None else None
        self.trimmed = self.deleted = 0
        self.created_while_followed = False
        self.rewind()

    def rewind(self, last: int | None = None) -> None:
        """Start over: at the last snapshot, or for events at the end or at most some before the offset ``last``."""
        self.catching_up = True
        self.end = 0
        self.starting_at_end.clear()
        if self.window_state is not None:
            self.window_state = WindowState(self.log)
            self.after = FROM_SNAPSHOT
        else:
            self.after = NO_ENTRIES if last is None else max(0, last - REPLAY_AFTER_RESET)


Batch = list[tuple[int, Tail, LogEntry]]  # entries of several logs in order of their sequences


class Follower:
    """Reads the followed logs of one partition and gives their entries to consumers, in order of sequence.

    It reads while ``room`` is set. ``on_new_topics(partitions)`` is called when the partition has a topic that is not
    known here; it returns once the topic is followed. ``on_end`` is called when no log is left.
    """

    def __init__(
        self,
        partition: int,
        reader: Broker,
        subscriptions: Subscriptions,
        room: Event,
        on_new_topics: Callable[[Sequence[int]], None],
        on_end: Callable[[], None],
        limits: FeedLimits,
    ) -> None:
        self.partition = partition
        self.tails: dict[Log, Tail] = {}
        self.epoch: int | None = None
        self.through = 0
        self._newest_topic_sequence = 0
        self._reader = reader
        self._subscriptions = subscriptions
        self._room = room
        self._on_new_topics = on_new_topics
        self._on_end = on_end
        self._limits = limits
        self._wake = Event()
        self._moved = Event()
        self._failing = False
        self._complete = False  # the last read was complete and every later notification arrived
        self._unsure_until = 0.0
        self._notified: list[tuple[Log, bytes]] = []
        self._notified_bytes = 0
        self.greenlet = gevent.spawn(self._run)

    @property
    def position(self) -> Position:
        """Return the position up to which the consumers got every entry of every log."""
        return Position(self.epoch or 0, self.through)

    def wake(self) -> None:
        """Read soon."""
        self._wake.set()

    # Notifications

    def on_notification(self, of: Log, message: bytes) -> None:
        """Take a notification of a log, together with all others of this turn of the loop."""
        if not self.is_live or self._notified_bytes + len(message) > self._limits.notified_bytes:
            self._wake.set()
            return
        if not self._notified:
            get_hub().loop.run_callback(self._take_notified)
        self._notified.append((of, message))
        self._notified_bytes += len(message)

    @property
    def is_live(self) -> bool:
        """True while notifications take the place of reads."""
        sure = self._complete and monotonic() >= self._unsure_until
        return sure and not self._wake.is_set() and self._room.is_set()

    def _take_notified(self) -> None:
        notified, self._notified, self._notified_bytes = self._notified, [], 0
        if not self.is_live:
            self._wake.set()
            return
        try:
            batch = self._continuation(notified)
            if batch:
                self._hand_out(batch)
                self._signal_moved()
        except Exception:
            log.exception("partition %d: reading its logs failed", self.partition)
            self._start_over()

    def _continuation(self, notified: list[tuple[Log, bytes]]) -> Batch:
        """Return the entries of notifications, up to the first that needs a read, and advance past them."""
        batch: Batch = []
        for of, message in notified:
            tail = self.tails.get(of)
            if tail is None:
                continue
            notification = LogNotification.parse(of, message)
            if notification is None or notification.epoch != self.epoch:
                self._wake.set()
                break
            entry = notification.entry
            if entry.last <= tail.after:
                continue
            knows_topics = notification.newest_topic_sequence <= self._newest_topic_sequence
            if not knows_topics or entry.before != tail.after or entry.sequence <= self.through:
                self._wake.set()
                break
            tail.after, self.through = entry.last, entry.sequence
            batch.append((entry.sequence, tail, entry))
        return batch

    # Consumers

    def add(self, consumer: LogConsumer, logs: Sequence[Log], *, from_start: bool = False) -> None:
        """Register a consumer for logs, for events at the end or ``from_start`` on. ``on_read`` tells when it has them.

        Asks Redis nothing.
        """
        for of in logs:
            tail = self.tails.get(of)
            if tail is None or (from_start and tail.window_state is None and tail.after != 0):
                tail = self.tails[of] = self._new_tail(of, tail, from_start=from_start)
            elif tail.catching_up and tail.window_state is None and tail.after != NO_ENTRIES and not from_start:
                tail.starting_at_end[consumer] = None
            tail.consumers[consumer] = None
            tail.created_while_followed |= from_start
        self._wake.set()

    @staticmethod
    def _new_tail(of: Log, before: Tail | None, *, from_start: bool) -> Tail:
        """Return a new tail. If it replaces one, the log is read again and the former consumers skip what they have."""
        tail = Tail(of)
        if from_start and tail.window_state is None:
            tail.after = 0
        if before is not None:
            tail.consumers.update(before.consumers)
            tail.end = before.end
            tail.starting_at_end.update(before.consumers if before.after == NO_ENTRIES else before.starting_at_end)
            for consumer in before.consumers:
                consumer.skip(of, before.after)
        return tail

    def discard(self, consumer: LogConsumer, logs: Sequence[Log]) -> None:
        """Remove a consumer from logs. Logs without a consumer are not followed any more."""
        for of in logs:
            tail = self.tails.get(of)
            if tail is None or consumer not in tail.consumers:
                continue
            del tail.consumers[consumer]
            if not tail.consumers:
                del self.tails[of]
                self._subscriptions.unsubscribe(of)
        if not self.tails:
            self._wake.set()

    def wait_for(self, position: Position, timeout: float) -> bool:
        """Wait until the consumers got everything up to a position; return False if Redis has not been there.

        A client may come from another worker, which had read further.
        """
        deadline = monotonic() + timeout
        while not (reached := position.epoch == self.epoch and position.sequence <= self.through):
            read = self._reader.read(self.partition, {})
            # In another epoch this follower has still to notice the restart, which it reports once.
            known = read.epoch == self.epoch
            if known and (position.epoch != read.epoch or read.sequence < position.sequence):
                return False
            if monotonic() >= deadline:
                break
            self.wake()
            self._moved.wait(self._limits.pause)
        return reached

    # Reads

    def _run(self) -> None:
        more = True
        try:
            while True:
                if not more:
                    self._wake.wait(self._limits.read_anyway)
                # Entries that cannot be sent fast enough wait in Redis, not here.
                self._room.wait()
                self._wake.clear()
                self._complete = False
                if not self.tails:
                    return
                confirmed = self._subscriptions.are_confirmed(self.tails)
                more = self.step()
                self._complete = confirmed and not more and not any(t.catching_up for t in self.tails.values())
        finally:
            self._on_end()

    def step(self) -> bool:
        """Read all logs once and hand out what is new; return whether there is more to read at once."""
        try:
            requested = dict(self.tails)
            read = self._reader.read(self.partition, {of: tail.after for of, tail in requested.items()})
            self._failing = False
            return self._take(read, requested)
        except PushError as error:
            if not self._failing:  # once: Redis may be away for long, and there may be 64 followers
                log.warning("partition %d cannot be read: %s", self.partition, error)
            self._failing = True
        except Exception:
            log.exception("partition %d: reading its logs failed", self.partition)
            self._start_over()
        gevent.sleep(self._limits.pause)
        return True

    def _start_over(self) -> None:
        """Continue after an entry that cannot be processed: one entry must not stop the process."""
        self._reset_all("trimmed", {})
        self._wake.set()

    def _signal_moved(self) -> None:
        self._moved.set()
        self._moved.clear()

    def _take(self, read: PartitionRead, requested: dict[Log, Tail]) -> bool:
        if self.epoch is not None and read.epoch != self.epoch:
            self.epoch, self.through, self._newest_topic_sequence = read.epoch, 0, 0
            self._unsure_until = monotonic() + self._limits.unsure
            self._reset_all("broker-restarted", {of: logged.last for of, logged in read.logs.items()})
            self._signal_moved()
            return True
        self.epoch = read.epoch
        if read.newest_topic_sequence > self._newest_topic_sequence:
            self._on_new_topics([self.partition])
            self._newest_topic_sequence = read.newest_topic_sequence
        if any(requested.get(of) is not tail and tail.created_while_followed for of, tail in self.tails.items()):
            return True  # a topic was created before some of these entries: its own must come first
        # A tail that replaced another meanwhile stands elsewhere: this read does not continue it.
        found = {of: logged for of, logged in read.logs.items() if self.tails.get(of) is requested[of]}
        if self._rewind_lost(found):
            return True
        # A log whose read was cut may continue below entries of others: nothing above its end is handed out yet.
        cuts = [logged.entries[-1].sequence for logged in found.values() if logged.more]
        limit = min(cuts, default=read.sequence)
        if cuts:
            # A log that is followed from its end has this end above the limit: it starts with a later read.
            found = {of: logged for of, logged in found.items() if self.tails[of].after != NO_ENTRIES}
        # A new log whose read was cut may end below what the consumers of others already got.
        below = limit < self.through
        self.through = max(self.through, limit)
        self._offer(found, limit, below=below, cut=bool(cuts))
        self._signal_moved()
        return bool(cuts) or len(found) < len(self.tails)

    def _rewind_lost(self, found: dict[Log, LogRead]) -> bool:
        """Rewind the tails whose position in the log was deleted or trimmed; return whether there were any."""
        rewound = False
        for of, logged in found.items():
            tail = self.tails[of]
            tail.trimmed, tail.deleted = logged.trimmed, logged.deleted
            if not tail.catching_up and max(tail.trimmed, tail.deleted) > self.through:
                rewound = True
                tail.rewind(logged.last)
                for consumer in tail.consumers:
                    consumer.reset(of, "deleted" if tail.deleted > self.through else "trimmed")
        return rewound

    def _offer(self, found: dict[Log, LogRead], limit: int, *, below: bool, cut: bool) -> None:
        """Hand out the entries up to a sequence, and advance past them."""
        batch: Batch = []
        for of, logged in found.items():
            tail = self.tails[of]
            for consumer in tail.starting_at_end:
                consumer.skip(of, logged.last)
                tail.end = logged.last
            tail.starting_at_end.clear()
            tail.after = max(logged.after, tail.after)
            for entry in logged.entries:
                if entry.sequence > limit:
                    break
                batch.append((entry.sequence, tail, entry))
                tail.after = entry.last
            tail.catching_up = tail.catching_up and (below or (cut and tail.after < tail.end))
        batch.sort(key=lambda item: item[0])
        self._hand_out(batch)
        for consumer in {consumer: None for of in found for consumer in self.tails[of].consumers}:
            self._guarded(consumer, consumer.on_read)

    def _hand_out(self, batch: Batch) -> None:
        """Apply entries to the window states, and give each consumer its own."""
        shares: dict[LogConsumer, list[tuple[Log, LogEntry]]] = {}
        for _, tail, entry in batch:
            if tail.window_state is not None and isinstance(entry, StatisticsEntry):
                tail.window_state.apply(entry)
            for consumer in tail.consumers:
                shares.setdefault(consumer, []).append((tail.log, entry))
        rendering = Rendering()
        for consumer, share in shares.items():
            self._guarded(consumer, partial(consumer.take, self.partition, share, rendering))

    @staticmethod
    def _guarded(consumer: LogConsumer, call: Callable[[], None]) -> None:
        """Call a consumer. If it raises, it ends; the other consumers are not affected."""
        try:
            call()
        except Exception:
            log.exception("%s failed", consumer)
            consumer.fail()

    def _reset_all(self, reason: str, last: Mapping[Log, int]) -> None:
        for of, tail in self.tails.items():
            if last and tail.catching_up and of not in last:
                continue  # it was added during the read: its consumers got nothing, and it starts where it was to
            tail.rewind(last.get(of))
            for consumer in tail.consumers:
                consumer.reset(of, reason)
