"""Gives groups with filters the events that they select, by what the events have: routing by value.

Each event of a log is parsed once in a process. Filters that fix a key cost one look-up together, every other distinct
filter is evaluated once. A group that gets nothing costs nothing: its position is that of its router.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from time import monotonic
from typing import NamedTuple, Protocol

import gevent
from gevent import get_hub

from pushsvc.broker.keys import Log
from pushsvc.broker.log import NO_ENTRIES, Correction, EventsEntry, LogEntry
from pushsvc.cursor import Position
from pushsvc.errors import BrokerUnavailable, PushError
from pushsvc.event import Event
from pushsvc.event.conditions import EventFilter
from pushsvc.hub.feed.few import Few, excluding, including
from pushsvc.hub.feed.follower import Follower
from pushsvc.hub.feed.guarded import guarded
from pushsvc.hub.feed.reads import SharedReads
from pushsvc.hub.feed.tail import REPLAY_AFTER_RESET, LogConsumer, Tail
from pushsvc.hub.limits import FeedLimits
from pushsvc.hub.messages import Rendering
from pushsvc.pause import Pause

log = logging.getLogger(__name__)


class FilteredConsumer(LogConsumer, Protocol):
    """Gets the events of one log that its filter selects, instead of all entries."""

    @property
    def filter(self) -> EventFilter: ...

    @property
    def is_settled(self) -> bool:
        """Return whether ``on_read`` is of no use any more."""

    def take_selected(self, of: Log, entry: EventsEntry, offsets: Sequence[int], rendering: Rendering) -> None:
        """Process the events at some offsets of an entry. At least one."""


class _Branch:
    """The consumers with equal filters."""

    __slots__ = ("consumers", "filter", "tests")

    def __init__(self, filter: EventFilter) -> None:
        self.filter = filter
        self.tests = filter.has_tests
        self.consumers: Few[FilteredConsumer] = ()


class _Joiner(NamedTuple):
    """Joins a log at its follower for a consumer that has come after its router."""

    router: "Router"
    consumer: FilteredConsumer

    def on_read(self, logs: Iterable[Log]) -> None:
        self.router.on_joined(self.consumer)

    def fail(self) -> None:
        self.consumer.fail()


class Router:
    """Stands between the follower of a log of events and the consumers with filters: to these it is the follower.

    ``look_ups`` counts searches by key, ``evaluations`` the filters that were evaluated. A filter with a type or
    conditions is evaluated for every event, or for those of its keys; the limits bound how many of them an event meets.

    An entry that takes longer than a slice is finished in a greenlet, and later entries wait for it. Beyond a bound of
    bytes they are dropped and read from the log: too much work makes this log's filtered streams late, and no other.
    """

    def __init__(
        self, of: Log, follower: Follower, reader: SharedReads, limits: FeedLimits, on_end: Callable[[], None],
    ) -> None:  # fmt: skip
        self.look_ups = self.evaluations = 0
        self.alone: Mapping[int, Router] = {of.partition: self}
        self.partition = of.partition
        self._log = of
        self._follower = follower
        self._reader = reader
        self._limits = limits
        self._on_end = on_end
        self._branches: dict[EventFilter, _Branch] = {}
        self._by_key: dict[str, Few[_Branch]] = {}
        self._of_any_key: Few[_Branch] = ()
        self._unsettled: dict[FilteredConsumer, None] = {}
        self._joined: dict[FilteredConsumer, int] = {}  # settle once everything up to a sequence was routed
        self._queue: deque[EventsEntry] = deque()
        self._queued_bytes = 0
        self._behind = False  # entries were dropped: they are read from the log
        self._steps: Iterator[None] | None = None  # the rest of the work; None: there is none
        self._generation = 0  # of the log: increases when it starts over
        self._epoch = self._offset = self._sequence = 0  # up to where events were routed, while there is work
        self._given = 0, 0  # offset and sequence of the last entry that came

    def __str__(self) -> str:
        return f"the filters of {self._log.topic}"

    # To the consumers: a follower

    @property
    def tails(self) -> Mapping[Log, Tail]:
        return self._follower.tails

    @property
    def is_idle(self) -> bool:
        """Return whether every entry that came was routed."""
        return self._steps is None

    @property
    def position(self) -> Position:
        """Return the position up to which the consumers got every event that they select."""
        if not self.is_idle:
            return Position(self._epoch, self._sequence)
        return Position(self._follower.epoch or 0, self._reached()[1])

    def offset(self, of: Log) -> int:
        """Return the offset of the log that belongs to the position."""
        return self._reached()[0] if self.is_idle else self._offset

    def _reached(self) -> tuple[int, int]:
        """Return the offset and the sequence up to which every entry came: while the follower hands out an entry in
        slices, it still is at the one before."""
        sequence = self._follower.through
        return self._given if self._given[1] > sequence else (self._follower.offset(self._log), sequence)

    def wait_for(self, position: Position, timeout: float) -> bool:
        """Wait as a follower; raise BrokerUnavailable if the filters are so far behind."""
        deadline = monotonic() + timeout
        if not self._follower.wait_for(position, timeout):
            return False
        while self.position.epoch == position.epoch and self.position.sequence < position.sequence:
            if monotonic() >= deadline:
                raise BrokerUnavailable(f"{self} are behind")
            gevent.sleep(self._limits.slice)
        return True

    def doubt(self, logs: Iterable[Log]) -> None:
        self._follower.doubt(logs)

    def advance(self) -> None:
        self._follower.advance()

    def wake(self) -> None:
        self._follower.wake()

    def has_room(self, filter: EventFilter) -> bool:
        """Return whether events may be compared with a filter, beside all others."""
        if filter in self._branches or not filter.has_tests:
            return True
        meeting = [self._of_any_key] if filter.keys is None else [self._by_key.get(key, ()) for key in filter.keys]
        return all(sum(branch.tests for branch in branches) < self._limits.filters for branches in meeting)

    def add(self, consumer: FilteredConsumer, logs: Sequence[Log], *, from_start: bool = False) -> None:
        """Register a consumer, as a follower does."""
        branch = self._branches.get(consumer.filter)
        if branch is None:
            branch = self._branches[consumer.filter] = _Branch(consumer.filter)
            if branch.filter.keys is None:
                self._of_any_key = including(self._of_any_key, branch)
            for key in branch.filter.keys or ():
                self._by_key[key] = including(self._by_key.get(key, ()), branch)
        branch.consumers = including(branch.consumers, consumer)
        tail = self.tails.get(self._log)
        if tail is None or self not in tail.consumers:
            self._unsettled[consumer] = None
            self._follower.add(self, logs, from_start=from_start)
        elif tail.continuous:
            self._follower.join(_Joiner(self, consumer), logs)
        else:
            if tail.catching_up and tail.after != NO_ENTRIES:
                tail.add_at_end([consumer])
            self._unsettled[consumer] = None

    def discard(self, consumer: FilteredConsumer, logs: Sequence[Log]) -> None:
        """Remove a consumer. Without one the log is not followed for its router any more."""
        self._unsettled.pop(consumer, None)
        self._joined.pop(consumer, None)
        branch = self._branches.get(consumer.filter)
        if branch is None:
            return
        branch.consumers = excluding(branch.consumers, consumer)
        if branch.consumers:
            return
        del self._branches[branch.filter]
        self._of_any_key = excluding(self._of_any_key, branch)
        for key in branch.filter.keys or ():
            if left := excluding(self._by_key[key], branch):
                self._by_key[key] = left
            else:
                del self._by_key[key]
        if not self._branches:
            self._forget_work()
            self._follower.discard(self, logs)
            self._on_end()

    def on_joined(self, consumer: FilteredConsumer) -> None:
        """Settle a consumer, if it is still here, as soon as everything up to now was routed."""
        branch = self._branches.get(consumer.filter)
        if branch is not None and consumer in branch.consumers:
            self._settle_soon([consumer])

    def _settle_soon(self, consumers: Iterable[FilteredConsumer]) -> None:
        offset, sequence = self._reached()
        self._joined.update(dict.fromkeys(consumers, sequence))
        if self.is_idle and self._joined:
            self._begin(offset, sequence)

    # To the follower: a consumer of the log

    def take(self, partition: int, batch: Sequence[tuple[Log, LogEntry]], rendering: Rendering) -> None:
        newest = batch[-1][1]
        self._given = newest.last, newest.sequence
        if self._behind:
            return
        for _, entry in batch:
            if isinstance(entry, EventsEntry):
                self._queue.append(entry)
                self._queued_bytes += entry.size
        if self._steps is not None:
            if self._queued_bytes > self._limits.notified_bytes:
                self._drop_queue(behind=True)
        elif self._queue:
            first = self._queue[0]
            self._begin(first.before, first.sequence_of(first.first) - 1)

    def prepare_messages(self, batch: Sequence[tuple[Log, LogEntry]], rendering: Rendering, pause: Pause) -> None:
        """Do nothing: there are no statistics."""

    def note_taken(self, partition: int, sequence: int) -> None:
        """Do nothing: the consumers know what they were given."""

    def on_read(self, logs: Iterable[Log]) -> None:
        unsettled, self._unsettled = self._unsettled, {}
        self._settle_soon(unsettled)

    def reset(self, of: Log, reason: str) -> None:
        self._forget_work()
        self._reset_consumers(reason)

    def _reset_consumers(self, reason: str) -> None:
        for consumer in self._consumers():
            self._unsettled[consumer] = None
            guarded(consumer, consumer.reset, self._log, reason)

    def skip(self, of: Log, offset: int) -> None:
        for consumer in self._consumers():
            self._unsettled[consumer] = None
            consumer.skip(of, offset)

    def refuse(self, reason: PushError) -> None:
        for consumer in self._consumers():
            consumer.refuse(reason)

    def fail(self) -> None:
        self.reset(self._log, "trimmed")  # until they have ended, none may count as served
        for consumer in self._consumers():
            consumer.fail()

    def _consumers(self) -> list[FilteredConsumer]:
        return [consumer for branch in self._branches.values() for consumer in branch.consumers]

    # Work

    def _begin(self, offset: int, sequence: int) -> None:
        """Route what waits, from a position on: now if it takes no longer than a slice, else in a greenlet."""
        self._epoch, self._offset, self._sequence = self._follower.position.epoch, offset, sequence
        self._steps = self._work()
        if self._advance():
            self._steps = None
        else:
            gevent.spawn(self._finish, self._generation)

    def _advance(self) -> bool:
        """Work for a slice; return whether all is done."""
        steps, until = self._steps, monotonic() + self._limits.slice
        return steps is None or not any(monotonic() >= until for _ in steps)

    def _finish(self, generation: int) -> None:
        hub = get_hub()
        try:
            while True:
                hub.wait(hub.loop.timer(0))
                if generation != self._generation:
                    return
                if not self._advance():
                    continue
                if not self._behind:
                    self._steps = None
                    return
                try:
                    self._read(generation)
                except PushError as error:
                    log.warning("%s cannot be read: %s", self, error)
                    self._behind = True
                    gevent.sleep(self._limits.pause)
                if generation == self._generation:
                    self._steps = self._work()
        except Exception:
            log.exception("%s failed", self)
            self.fail()

    def _read(self, generation: int) -> None:
        """Read on in the log. Entries that come meanwhile wait behind those that are read."""
        self._behind = False
        read = self._reader.read(self.partition, {self._log: self._offset})
        if generation != self._generation:
            return
        if read.epoch != self._epoch:
            self._drop_queue(behind=True)
            self._follower.advance()  # it notices the restart, and resets the log
            gevent.sleep(self._limits.pause)
            return
        logged = read.logs[self._log]
        if (lost := max(logged.trimmed, logged.deleted)) > self._sequence:
            reason = "deleted" if logged.deleted > self._sequence else "trimmed"
            self._drop_queue(behind=True)
            self._offset, self._sequence = max(0, logged.last - REPLAY_AFTER_RESET), lost
            self._reset_consumers(reason)
            unsettled, self._unsettled = self._unsettled, {}
            self._settle_soon(unsettled)
            return
        # The follower may not have come as far. What it has not handed out yet will come from it.
        entries = [entry for entry in logged.entries if entry.sequence <= self._reached()[1]]
        if logged.more and len(entries) == len(logged.entries):
            self._drop_queue(behind=True)
        self._queue.extendleft(reversed(entries))
        self._queued_bytes += sum(entry.size for entry in entries)

    def _forget_work(self) -> None:
        self._generation += 1
        self._given = 0, 0
        self._drop_queue(behind=False)
        self._steps = None

    def _drop_queue(self, *, behind: bool) -> None:
        self._queue.clear()
        self._queued_bytes = 0
        self._behind = behind

    def _work(self) -> Iterator[None]:
        """Route the entries that wait, in steps of an event, and of a consumer that is told something."""
        while True:
            if not self._queue and not self._behind:
                self._offset, self._sequence = self._reached()
            due = [consumer for consumer, sequence in self._joined.items() if sequence <= self._sequence]
            for consumer in due:
                if self._joined.pop(consumer, None) is not None:
                    guarded(consumer, consumer.on_read, [self._log])
                    if not consumer.is_settled:
                        self._unsettled[consumer] = None
                    yield
            if self._queue:
                entry = self._queue.popleft()
                self._queued_bytes -= entry.size
                if entry.last > self._offset:
                    yield from self._route(entry)
                    self._offset, self._sequence = entry.last, entry.sequence
            elif not due:
                return

    def _route(self, entry: EventsEntry) -> Iterator[None]:
        """Give each consumer the events of an entry that it selects."""
        shares: dict[FilteredConsumer, list[int]] = {}
        if entry.correction is not None:
            self._select_correction(entry, entry.correction, shares)
        else:
            for offset, event in enumerate(entry.events, entry.first):
                self._select(event, offset, shares)
                yield
        rendering = Rendering()
        for consumer, offsets in shares.items():
            guarded(consumer, consumer.take_selected, self._log, entry, offsets, rendering)
            yield

    def _select_correction(
        self, entry: EventsEntry, correction: Correction, shares: dict[FilteredConsumer, list[int]]
    ) -> None:
        """Add a correction to the shares of those that select a form of its event; without forms, to all."""
        forms = [Event.decode(line) for line in (correction.old, correction.new) if line is not None]
        for event in forms:
            self._select(event, entry.last, shares)
        for consumer in () if forms else self._consumers():
            shares[consumer] = [entry.last]
        for offsets in shares.values():
            del offsets[1:]  # both forms are in one message

    def _select(self, event: Event, offset: int, shares: dict[FilteredConsumer, list[int]]) -> None:
        """Add an event to the shares of those that select it."""
        found: Few[_Branch] = ()
        if event.key is not None and self._by_key:
            self.look_ups += 1
            found = self._by_key.get(event.key, ())
        for branch in (*found, *self._of_any_key):
            if branch.tests:
                self.evaluations += 1
                if not branch.filter.passes(event):
                    continue
            for consumer in branch.consumers:
                shares.setdefault(consumer, []).append(offset)


LogSource = Follower | Router
"""What gives a group the entries of a log, or what its filter selects of them."""
