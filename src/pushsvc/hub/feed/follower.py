"""Follows the logs of one partition: by notifications, and by reads of the logs that are in doubt.

A notification with the very next entry of its log leaves nothing to read. Any other puts its log in doubt, as a new
subscription and a reconnect do. Only logs in doubt are read. A read also returns the partition's sequence at that
instant. Redis has sent the entries of all other logs up to there on the live connection: once they have arrived,
everything up to that sequence is known, and is handed out in order. Until then later entries wait.
"""

import logging
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from math import inf
from time import monotonic
from typing import Any

import gevent
from gevent import get_hub
from gevent.event import Event

from pushsvc.broker.keys import Log
from pushsvc.broker.log import NO_ENTRIES, LogEntry, LogNotification, StatisticsEntry
from pushsvc.cursor import Position
from pushsvc.errors import PushError
from pushsvc.hub.feed.demand import WindowDemand
from pushsvc.hub.feed.directory import Directory
from pushsvc.hub.feed.guarded import guarded
from pushsvc.hub.feed.hand_out import Batch, HandOut, Progress
from pushsvc.hub.feed.loading import WindowLoader
from pushsvc.hub.feed.reads import SharedReads
from pushsvc.hub.feed.subscriptions import Subscriptions
from pushsvc.hub.feed.tail import Joiner, LogConsumer, Tail
from pushsvc.hub.feed.tail_reads import Restarted, TailRead, TailReader, TailReads, complete_through
from pushsvc.hub.feed.tally import Tally
from pushsvc.hub.limits import FeedLimits
from pushsvc.slices import Slices

log = logging.getLogger(__name__)

Notified = list[tuple[Log | None, bytes]]  # notifications as they arrived; no log: a new topic was announced


class Follower:
    """Reads the followed logs of one partition and gives their entries to consumers, in order of sequence.

    It reads while ``room`` is set. ``on_end`` is called when no log is left.
    """

    def __init__(  # noqa: PLR0913
        self,
        partition: int,
        reader: SharedReads,
        subscriptions: Subscriptions,
        room: Event,
        directory: Directory,
        demand: WindowDemand,
        on_end: Callable[[], None],
        limits: FeedLimits,
        tally: Tally,
        loader: WindowLoader,
    ) -> None:
        self.partition = partition
        self.tails: dict[Log, Tail] = {}
        # For groups with topics of this partition alone: a dictionary of its own would take 224 bytes of each.
        self.alone: Mapping[int, Follower] = {partition: self}
        self.epoch: int | None = None
        self._through = 0
        self._newest_topic_sequence: int | None = None  # None: before the first read
        self._announced = False  # a topic was announced after that one
        self.hand_out = HandOut(partition, self.tails, room, limits)
        self._reader = reader
        self._tail_reader = TailReader(partition, reader, subscriptions, limits)
        self._subscriptions = subscriptions
        self._room = room
        self._directory = directory
        self._demand = demand
        self._on_end = on_end
        self._limits = limits
        self._tally = tally
        self._loader = loader
        self._wake = Event()
        self._moved = Event()
        self._failing = False
        self._doubted: dict[Log, Tail] = {}  # to be read before any later entry of the partition is handed out
        self._unconfirmed: dict[Log, Tail] = {}  # new: to be read once Redis has confirmed the subscription
        self._joining: dict[Joiner, dict[Log, None]] = {}  # consumers of logs that need not be read for them
        self._reading = False
        self._checked: int | None = None  # changes up to this sequence were checked; None: before the first read
        self._check_at = monotonic() + limits.read_anyway
        self._notified: Notified = []
        self.notified_bytes = 0
        self._taking = False  # the notifications of this turn of the loop will be taken
        self._failed = False
        self._timer: Any = None
        self.greenlet = gevent.spawn(self._run)

    @property
    def position(self) -> Position:
        """Return the position up to which the consumers got every entry of every log."""
        return Position(self.epoch or 0, self.through)

    @property
    def through(self) -> int:
        """The sequence of the position."""
        held = self.hand_out.held
        return self._through if held is None else held.through

    def offset(self, of: Log) -> int:
        """Return the offset in a log that belongs to the position."""
        after, held = self.tails[of].after, self.hand_out.held
        return after if held is None else held.offsets.get(of, after)

    def advance(self) -> None:
        """Move soon to the current position of the partition."""
        self._wake.set()

    def wake(self) -> None:
        """Look soon for entries whose notification was lost."""
        self._check_at = 0.0
        self._wake.set()

    # Doubt

    def doubt(self, logs: Iterable[Log]) -> None:
        """Read logs soon: something of them may be missing."""
        for of in logs:
            if (tail := self.tails.get(of)) is not None:
                self._doubt(tail)
        self._wake.set()

    def _doubt(self, tail: Tail) -> None:
        tail.continuous = False
        self._unconfirmed.pop(tail.log, None)
        self._doubted[tail.log] = tail

    def _doubt_all(self) -> None:
        for tail in self.tails.values():
            tail.continuous = False
        self._doubted = dict(self.tails)
        self._unconfirmed.clear()
        self._wake.set()

    # Notifications

    def on_notification(self, of: Log, message: bytes) -> None:
        """Take a notification of a log, together with all others of this turn of the loop."""
        tail = self.tails.get(of)
        if tail is None:
            return
        if not message:
            self._on_confirmed(tail)
            return
        if tail.window_state is not None:
            self._demand.on_frame(of)
        self._notified.append((of, message))
        self.notified_bytes += len(message)
        if not self._room.is_set() or self.notified_bytes > self._limits.notified_bytes:
            self._drop_notified()
        elif self._reading:
            pass  # they are taken with what is read
        elif self._doubted:
            self._wake.set()
        elif not self._taking:
            self._taking = True
            get_hub().loop.run_callback(self._take_notified)

    def on_announcement(self) -> None:
        """Note that a new topic was announced. ``add`` follows if a consumer wants it."""
        self._notified.append((None, b""))

    def _on_confirmed(self, tail: Tail) -> None:
        """Every later notification of a log arrives. If earlier ones did too, the connection was interrupted."""
        if tail.continuous:
            self._doubt_all()
        elif not self._demand.awaits(tail.log):
            self._doubt(tail)
        if self._subscriptions.is_up:  # else the other logs are confirmed first
            self._wake.set()

    def on_window(self, of: Log, current: bool) -> None:
        """Note whether the frames of a window are current. The log of a new one is read once it is subscribed to."""
        tail = self.tails.get(of)
        if tail is None:
            return
        tail.stale = not current
        if of in self._unconfirmed and self._subscriptions.is_confirmed(of):
            self._doubt(tail)
            self._wake.set()

    def _drop_notified(self) -> None:
        """Leave what waits in Redis, to be read."""
        notified, self._notified, self.notified_bytes = self._notified, [], 0
        self._announced |= any(of is None for of, _ in notified)
        self.doubt(of for of, _ in notified if of is not None)

    @property
    def is_live(self) -> bool:
        """True while notifications take the place of reads."""
        waits = self._doubted or self._unconfirmed or self._reading or self._wake.is_set()
        return not waits and self._room.is_set()

    def _take_notified(self) -> None:
        """Hand out the entries of notifications, up to the first that needs a read."""
        self._taking = False
        if self._reading or not self._notified:
            return
        if not self._room.is_set():
            self._drop_notified()
        elif self._doubted:
            self._wake.set()
        else:
            try:
                taken, limit, rest = self._continuation(self._notified, {}, sys.maxsize, self._limits.handed_out)
                if len(taken) == 1 and self._is_wide(taken[0]):
                    self._wake.set()  # the greenlet can pause between two consumers
                    return
                self._keep_notified(rest)
                if taken:
                    self._offer({}, taken, min(limit, taken[-1][0]))
                if rest and not self._doubted and not self._wake.is_set():
                    self._take_notified_soon()
            except Exception:
                log.exception("partition %d", self.partition)
                self._start_over()

    def _is_wide(self, one: tuple[int, Tail, LogEntry]) -> bool:
        """Return whether an entry brings its consumers more events than one turn of the loop has time for."""
        _, tail, entry = one
        return (entry.last - entry.before) * len(tail.consumers) > self._limits.handed_out

    def _take_notified_soon(self) -> None:
        """Go on after everything else has had its turn, which a callback would not wait for."""
        self._taking = True
        if self._timer is None:
            self._timer = get_hub().loop.timer(0)
        self._timer.start(self._take_notified)

    def _keep_notified(self, notified: Notified) -> None:
        self._notified = notified
        self.notified_bytes = sum(len(message) for _, message in notified)

    def _continuation(
        self, notified: Notified, reads: Mapping[Log, TailRead], limit: int, most: float = inf
    ) -> tuple[Batch, int, Notified]:
        """Return the entries of notifications that continue logs, after reads of some of them, up to a sequence.

        Of several entries not more are returned than bring ``most`` events to consumers, each counted for each of them.

        Also returns up to where nothing is missing, at most that sequence, and the notifications that have to wait.
        """
        batch: Batch = []
        ends = {of: (read.end, read.sequence) for of, read in reads.items()}
        for number, (of, message) in enumerate(notified):
            tail = None if of is None else self.tails.get(of)
            self._announced |= of is None
            if of is None or tail is None:
                continue
            after, complete = ends.get(of) or (tail.after, tail.complete)
            if after < 0:
                continue  # the log was never read
            notification = LogNotification.parse(of, message)
            sequence = int(message) if notification is None else notification.entry.sequence
            if notification is not None and notification.epoch != self.epoch:
                self._doubt_all()
                return [], self._through, []
            if sequence <= complete or (notification is not None and notification.entry.last <= after):
                continue
            if sequence > limit:
                return batch, limit, notified[number:]
            if notification is None:  # an entry that is too large, or a deletion
                self.doubt([of])
                return batch, sequence - 1, notified[number:]
            if not self._knows_topics(notification.newest_topic_sequence):
                self._wake.set()
                return batch, sequence - 1, notified[number:]
            if notification.entry.before != after:  # what is missing may be older than the entries before this one
                self.doubt([of])
                return [], self._through, notified
            entry = notification.entry
            most -= (entry.last - entry.before) * len(tail.consumers)
            if most < 0 and batch:
                return batch, sequence - 1, notified[number:]
            ends[of] = (notification.entry.last, sequence)
            batch.append((sequence, tail, notification.entry))
        return batch, limit, []

    def _knows_topics(self, newest_topic_sequence: int) -> bool:
        """Return whether the consumers know the newest topic. Its announcement precedes every later notification."""
        known = self._newest_topic_sequence
        if known is None or newest_topic_sequence > known:
            announced = known is None or self._announced or not self._directory.has_consumers
            if not announced or not self._directory.is_current(self.partition):
                return False
            self._newest_topic_sequence, self._announced = newest_topic_sequence, False
        return True

    # Consumers

    def add(self, consumer: LogConsumer, logs: Sequence[Log], *, from_start: bool = False) -> None:
        """Register a consumer for logs, for events at the end or ``from_start`` on. ``on_read`` tells when it has them.

        Asks Redis nothing.
        """
        for of in logs:
            tail = self.tails.get(of)
            if tail is None or (from_start and tail.window_state is None and tail.after != 0):
                self._tally.logs += tail is None
                if of.window is not None:
                    self._demand.add(of, awaited=not from_start)
                tail = self.tails[of] = self._new_tail(of, tail, from_start=from_start)
                self._await_confirmation(tail, from_start=from_start)
            elif tail.catching_up and tail.window_state is None and tail.after != NO_ENTRIES and not from_start:
                tail.add_at_end([consumer])
            if tail.continuous:
                self.join(consumer, [of])
            tail.add([consumer])
            tail.created_while_followed |= from_start

    def join(self, joiner: Joiner, logs: Iterable[Log]) -> None:
        """Tell a joiner by ``on_read`` once everything up to now was handed out, of logs that need not be read."""
        self._joining.setdefault(joiner, {}).update(dict.fromkeys(logs))
        self._wake.set()

    def _new_tail(self, of: Log, before: Tail | None, *, from_start: bool) -> Tail:
        """Return a new tail. If it replaces one, the log is read again and the former consumers skip what they have."""
        tail = Tail(of)
        if from_start and tail.window_state is None:
            tail.after = 0
        if before is not None:
            tail.add(before.consumers)
            tail.end = before.end
            tail.add_at_end(before.consumers if before.after == NO_ENTRIES else before.starting_at_end)
            for consumer in before.consumers:
                self.hand_out.skip(consumer, of, before.after)
        return tail

    def _await_confirmation(self, tail: Tail, *, from_start: bool) -> None:
        """Read a new log, once its subscription is confirmed if that is to be expected, and its frames are current."""
        soon = self._subscriptions.is_up and not self._subscriptions.is_confirmed(tail.log)
        self._doubted.pop(tail.log, None)
        if (soon and not from_start) or self._demand.awaits(tail.log):
            self._unconfirmed[tail.log] = tail
        else:
            self._doubt(tail)  # entries of a new topic come before later ones of other topics
        if not soon:
            self._wake.set()

    def discard(self, consumer: LogConsumer, logs: Sequence[Log]) -> None:
        """Remove a consumer from logs. Logs without a consumer are not followed any more."""
        for of in logs:
            tail = self.tails.get(of)
            if tail is None or consumer not in tail.consumers:
                continue
            tail.discard(consumer)
            if not tail.consumers:
                del self.tails[of]
                self._tally.discard(tail)
                if tail.window_state is not None:
                    self._loader.drop(tail.window_state)
                self._doubted.pop(of, None)
                self._unconfirmed.pop(of, None)
                self._subscriptions.unsubscribe(of)
                if of.window is not None:
                    self._demand.discard(of)
        self._joining.pop(consumer, None)
        if not self.tails:
            self._wake.set()

    def leave_tally(self) -> None:
        """Count no more: another follower takes the place of this one."""
        for tail in self.tails.values():
            self._tally.discard(tail)
        self._tally = Tally(self._tally.most, lambda: None)

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
            self.advance()
            self._moved.wait(self._limits.pause)
        return reached

    # Reads

    def _run(self) -> None:
        try:
            while True:
                self._wake.wait(max(0.0, self._check_at - monotonic()))
                # Entries that cannot be sent fast enough wait in Redis, not here.
                self._room.wait()
                self._wake.clear()
                if not self.tails:
                    return
                self.step()
        finally:
            self._on_end()

    def step(self) -> None:
        """Read the logs in doubt, and hand out what is new."""
        self._reading = True
        try:
            if self._failed:
                self._failed = False
                self._start_over()
            if monotonic() >= self._check_at:
                self._find_changed()
            self._read_doubted()
            self._failing = False
        except PushError as error:
            if not self._failing:  # once: Redis may be away for long, and there may be 64 followers
                log.warning("partition %d: %s", self.partition, error)
            self._failing = True
            self._wake.set()
            gevent.sleep(self._limits.pause)
        except Exception:
            log.exception("partition %d", self.partition)
            self._start_over()
            gevent.sleep(self._limits.pause)
        finally:
            self._reading = False
        self._take_notified()

    def _find_changed(self) -> None:
        """Doubt the logs that changed without a notification."""
        for tail in list(self._unconfirmed.values()):
            if not self._demand.awaits(tail.log):
                self._doubt(tail)
        while self._checked is not None:
            changed = self._reader.changed(self.partition, self._checked)
            if changed.epoch != self.epoch:
                self._doubt_all()
                break
            for name, sequence in changed.sequences.items():
                of = self._subscriptions.named(self.partition, name)
                if of in self.tails and self.tails[of].complete < sequence:
                    self._doubt(self.tails[of])
            self._checked = changed.through
            if not changed.more:
                break
        self._check_at = monotonic() + self._limits.read_anyway

    def _read_doubted(self) -> None:
        doubted, self._doubted = self._doubted, {}
        joining, self._joining = self._joining, {}
        done = False
        try:
            done = self._read_and_offer(doubted)
        except Restarted as restarted:
            self._on_restart(restarted.epoch)
        finally:
            if not done:
                kept = {of: tail for of, tail in doubted.items() if self.tails.get(of) is tail}
                self._doubted = kept | self._doubted
                for consumer, logs in joining.items():
                    self._joining[consumer] = logs | self._joining.get(consumer, {})
        if done:
            for consumer, logs in joining.items():
                joined = [of for of in logs if of in self.tails]
                if joined:
                    guarded(consumer, consumer.on_read, joined)
            if self._checked is None:
                self._checked = self._through

    def _read_and_offer(self, doubted: dict[Log, Tail]) -> bool:
        """Read logs and hand out everything up to then, theirs and that of others; return False if it is to be redone.

        ``doubted`` gets the logs that come into doubt meanwhile.
        """
        reads: TailReads = {}
        read = self._tail_reader.read(doubted.values(), reads, self.epoch)
        self.epoch = read.epoch
        self._take_large(reads)
        known = self._newest_topic_sequence
        new_topics = (known is None or read.newest_topic_sequence > known) and self._directory.has_consumers
        pieces = len(reads) > self._limits.read_logs
        loading = sum(tail.loading for tail in self.tails.values()) if self._loader.is_busy else 0
        partly = len(reads) + loading < len(self.tails)  # what is loaded is read again
        waits = read.sequence > self._through and (partly or pieces or new_topics)
        if waits and not self._tail_reader.wait_arrived(self.tails, reads):
            self._doubt_all()
            if partly:
                return False
        self._announced |= any(of is None for of, _ in self._notified)
        if not self._knows_topics(read.newest_topic_sequence):
            self._directory.refresh([self.partition])
            self._newest_topic_sequence, self._announced = read.newest_topic_sequence, False
        # Logs that came into doubt before the last of these notifications may have entries below them.
        notified, self._notified, self.notified_bytes = self._notified, [], 0
        late = {of: tail for of, tail in self._doubted.items() if of not in reads and tail.after != NO_ENTRIES}
        try:
            if late:
                for of in late:
                    del self._doubted[of]
                doubted |= late
                self._tail_reader.read(late.values(), reads, self.epoch)
                self._take_large(reads)
            reads = {of: one for of, one in reads.items() if of in self.tails}
            replaced = any(self.tails[of] is not one.tail for of, one in reads.items())
            if replaced or self._rewind_lost(reads):
                self._wake.set()
                return False
            taken, limit, notified = self._continuation(notified, reads, complete_through(reads, read.sequence))
        finally:
            self._keep_notified(notified + self._notified)
        self._offer(reads, taken, limit, may_pause=True)
        self._drop_replaced(reads.values())
        return True

    def _take_large(self, reads: TailReads) -> None:
        """Take large windows that no consumer knows yet out of reads, to be loaded.

        Other large frames are parsed and put into their windows in slices. That is done for the first entry of a log:
        a read ends before a later one.
        """
        pause = Slices(self._limits.slice)
        for of, one in list(reads.items()):
            tail = one.tail
            if tail.window_state is None or not self._loader.is_large(one.log.entries):
                continue
            if tail.catching_up:
                del reads[of]
                if not tail.loading and self.follows(tail):
                    self._loader.load(self, tail, one.log.entries)
                continue
            for number, entry in enumerate(one.log.entries):
                if isinstance(entry, StatisticsEntry) and self._loader.is_large([entry]):
                    if number:
                        one.log = replace(one.log, entries=one.log.entries[:number], more=True)
                        break
                    entry.decode(pause)
                    tail.window_state.stage(entry, pause)

    def _drop_replaced(self, reads: Iterable[TailRead]) -> None:
        pause = Slices(self._limits.slice)
        for one in reads:
            if one.tail.window_state is not None:
                one.tail.window_state.drop_replaced(pause)

    # Windows that are loaded

    def follows(self, tail: Tail) -> bool:
        return self.tails.get(tail.log) is tail

    def on_loaded(self, tail: Tail) -> None:
        self._count(tail)
        self.doubt([tail.log])

    def _count(self, tail: Tail) -> None:
        if tail.window_state is not None and self.follows(tail):
            self._tally.count(tail, tail.window_state.memory)

    def on_failed(self) -> None:
        self._failed = True
        self._wake.set()

    def _start_over(self) -> None:
        """Continue after an entry that cannot be processed: one entry must not stop the process."""
        self._keep_notified([])
        self._reset_all("trimmed", {})

    def _on_restart(self, epoch: int) -> None:
        """Start over in a new epoch, at most some entries before the end of each log."""
        last = self._tail_reader.read_ends(self.tails, epoch)
        if last is None:
            self._wake.set()
            return
        self.epoch, self._through, self._newest_topic_sequence, self._checked = epoch, 0, 0, None
        self._announced = False
        self._tail_reader.distrust()
        self._keep_notified([])
        self._reset_all("broker-restarted", last)
        self._signal_moved()

    def _signal_moved(self) -> None:
        self._moved.set()
        self._moved.clear()

    def _rewind_lost(self, reads: Mapping[Log, TailRead]) -> bool:
        """Rewind the tails whose position in the log was deleted or trimmed; return whether there were any."""
        rewound = False
        for of, one in reads.items():
            tail = one.tail
            tail.trimmed, tail.deleted = one.log.trimmed, one.log.deleted
            lost = max(tail.trimmed, tail.deleted)
            if tail.catching_up:
                if tail.window_state is not None and tail.window_state.exists and lost > tail.window_state.sequence:
                    rewound = True
                    self._rewind(tail)  # no consumer has anything of it
            elif lost > self._through:
                rewound = True
                self._rewind(tail, one.log.last)
                for consumer in tail.consumers:
                    consumer.reset(of, "deleted" if tail.deleted > self._through else "trimmed")
        return rewound

    def _rewind(self, tail: Tail, last: int | None = None) -> None:
        before = tail.window_state
        tail.rewind(last)
        if before is not None:
            self._loader.drop(before)

    def _offer(self, reads: Mapping[Log, TailRead], taken: Batch, limit: int, *, may_pause: bool = False) -> None:
        """Hand out the entries of reads and notifications up to a sequence, and advance past them.

        With ``may_pause`` the event loop gets a turn between two consumers, if they need long.
        """
        before = self._progress(reads, taken) if may_pause else None
        # A new log whose read was cut may end below what the consumers of others already got.
        below = limit < self._through
        self._through = max(self._through, limit)
        batch: Batch = []
        for one in reads.values():
            self._advance(one, limit, batch, below=below)
        for sequence, tail, entry in taken:
            tail.after, tail.complete, tail.changed = entry.last, sequence, sequence
        batch += taken
        if reads:
            batch.sort(key=lambda item: item[0])
        self.hand_out.give(batch, self._through, before)
        for _, tail, _ in batch:
            self._count(tail)
        read: dict[LogConsumer, list[Log]] = {}
        for of, one in reads.items():
            for consumer in one.tail.consumers:
                read.setdefault(consumer, []).append(of)
        for consumer, logs in read.items():
            guarded(consumer, consumer.on_read, logs)
        self._signal_moved()

    def _advance(self, one: TailRead, limit: int, batch: Batch, *, below: bool) -> None:
        """Take the entries of a read up to a sequence. The log stays in doubt if there are more."""
        tail, logged = one.tail, one.log
        if tail.after == NO_ENTRIES and one.sequence > limit:
            self.doubt([tail.log])  # its end is above the limit
            return
        for consumer in tail.starting_at_end:
            consumer.skip(tail.log, logged.last)
            tail.end = logged.last
        tail.starting_at_end = ()
        tail.after = max(logged.after, tail.after)
        if logged.changed is not None:
            tail.changed = logged.changed
        entries = [entry for entry in logged.entries if entry.sequence <= limit]
        for entry in entries:
            batch.append((entry.sequence, tail, entry))
            tail.after, tail.changed = entry.last, entry.sequence
        cut = logged.more or len(entries) < len(logged.entries)
        tail.catching_up = tail.catching_up and (below or (cut and tail.after < tail.end))
        tail.complete = limit if cut else one.sequence
        if cut or tail.catching_up:
            self.doubt([tail.log])
        elif not tail.continuous:
            self._doubt(tail)

    def _progress(self, reads: Mapping[Log, TailRead], taken: Batch) -> Progress:
        """Return the position, and the offsets that belong to it, of logs that move on."""
        tails = [*(one.tail for one in reads.values()), *(tail for _, tail, _ in taken)]
        return Progress(self._through, {tail.log: tail.after for tail in tails if tail.after >= 0})

    def _reset_all(self, reason: str, last: Mapping[Log, int]) -> None:
        for of, tail in self.tails.items():
            if last and tail.catching_up and of not in last:
                continue  # it was added during the read: its consumers got nothing, and it starts where it was to
            self._rewind(tail, last.get(of))
            for consumer in tail.consumers:
                consumer.reset(of, reason)
        self._doubt_all()
