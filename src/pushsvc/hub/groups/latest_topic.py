"""Follows the log of a topic and keeps its newest events, once for all streams of the process."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from copy import copy
from time import monotonic
from typing import Protocol

import gevent
from gevent import get_hub

from pushsvc.broker.keys import Log
from pushsvc.broker.latest import LatestStore
from pushsvc.broker.log import EventsEntry, LogEntry
from pushsvc.cursor import Position
from pushsvc.errors import BrokerUnavailable, MemoryFull, PushError
from pushsvc.hub.delivery.slow import CountedBytes, Memory
from pushsvc.hub.feed.feed import Feed
from pushsvc.hub.feed.guarded import guarded
from pushsvc.hub.groups.latch import Latch
from pushsvc.hub.groups.latest_state import LatestState, merge_changes
from pushsvc.hub.messages import Rendering
from pushsvc.pause import Pause
from pushsvc.settings import TopicSettings
from pushsvc.slices import Slices

log = logging.getLogger(__name__)

_COUNTED = 64_000  # bytes by which the state grows before it is counted again
_WAITING = 4_000_000  # bytes of entries that wait for the state to be read; with more, it is read again
_ENTRY = 500  # bytes of memory that an entry takes beside its data, about


class LatestSubscriber(Protocol):
    """Gets what changes. ``keys`` are those that it wants, None for all. ``fail`` ends it."""

    @property
    def keys(self) -> Collection[str] | None: ...
    def take(self, changed: Sequence[str], gone: Sequence[str]) -> None: ...
    def start_over(self, reasons: Collection[str]) -> None: ...
    def end(self, reason: str) -> None: ...
    def fail(self) -> None: ...


class LatestTopic:
    """The newest events of a topic, for ``subscribers``. Implements LogConsumer.

    It reads the state from Redis once everything after that is known to arrive, and then folds in the entries of the
    log. ``settled`` is set once the state is known, or never will be. ``on_unused`` is called when no subscriber is
    left.
    """

    def __init__(
        self, topic: str, settings: TopicSettings, feed: Feed, store: LatestStore, memory: Memory | None,
        on_unused: Callable[[LatestTopic], None],
    ) -> None:  # fmt: skip
        self.log = Log(topic)
        self.settings = settings
        self.settled = Latch()
        self.closed = False
        self._feed = feed
        self._follower = feed.follower(self.log.partition)
        self._store = store
        self._memory = memory
        self._on_unused = on_unused
        self._held: CountedBytes | None = None
        self._state: LatestState | None = None
        self._problem: PushError | None = None
        self._generation = 0  # increases whenever the log starts over
        self._loading = False
        self._waiting: list[EventsEntry] = []
        self._reasons: dict[str, None] = {}  # why the log started over, of which subscribers do not know yet
        self._was_settled = False
        self._subscribers: dict[LatestSubscriber, None] = {}
        self._for_all: dict[LatestSubscriber, None] = {}
        self._by_key: dict[str, dict[LatestSubscriber, None]] = {}

    def __str__(self) -> str:
        return f"the newest events of {self.log.topic}"

    @property
    def is_known(self) -> bool:
        """Return whether the state is known."""
        return self._state is not None

    @property
    def state(self) -> LatestState:
        """Return the state; raise BrokerUnavailable while it is not known."""
        if self._state is None:
            raise BrokerUnavailable(f"{self} are not known")
        return self._state

    @property
    def position(self) -> Position:
        """Return the position up to which all entries have arrived."""
        return self._follower.position

    def wait_for(self, position: Position, wait: float) -> None:
        """Wait until all entries up to a position have arrived: the process that a client left may be ahead."""
        self._follower.wait_for(position, wait)

    @property
    def deleted(self) -> int:
        """Return the sequence of the last deletion of the topic."""
        tail = self._follower.tails.get(self.log)
        return 0 if tail is None else tail.deleted

    # Subscribers

    def open(self) -> None:
        """Follow the log. Without room for it, ``wait_settled`` raises."""
        self._problem = self._feed.refusal([self.log])
        if self._problem is not None:
            return
        self._follower.add(self, [self.log])
        self._feed.subscriptions.subscribe(self.log)

    def add(self, subscriber: LatestSubscriber) -> None:
        self._subscribers[subscriber] = None
        if subscriber.keys is None:
            self._for_all[subscriber] = None
        else:
            for key in subscriber.keys:
                self._by_key.setdefault(key, {})[subscriber] = None

    def discard(self, subscriber: LatestSubscriber) -> None:
        self._subscribers.pop(subscriber, None)
        self._for_all.pop(subscriber, None)
        for key in subscriber.keys or ():
            subscribers = self._by_key.get(key, {})
            subscribers.pop(subscriber, None)
            if not subscribers:
                self._by_key.pop(key, None)
        if not self._subscribers:
            self.close()

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self._follower.discard(self, [self.log])
        self._state = None
        self._waiting.clear()
        if self._held is not None:
            self._held.release()
        self._on_unused(self)

    def wait_settled(self, wait: float) -> None:
        """Return once the state is known and every later entry arrives; raise Unavailable."""
        self._check()
        live = self._feed.live
        if self.settled.is_set() and live.receives([self.log.partition]):
            return
        deadline = monotonic() + wait
        if not live.up.wait(wait):
            raise BrokerUnavailable("no connection to Redis")
        self._check()  # a closed topic would subscribe to a log that nothing unsubscribes from
        confirmation = self._feed.subscriptions.subscribe(self.log)
        settled = self.settled.wait(wait)
        self._check()
        if not settled or not confirmation.wait(max(0.0, deadline - monotonic())):
            raise BrokerUnavailable("Redis did not answer in time")

    def _check(self) -> None:
        if self._problem is not None:
            raise copy(self._problem)
        if self.closed:
            raise BrokerUnavailable("the stream ended before Redis had answered")

    # LogConsumer

    def take(self, partition: int, batch: Sequence[tuple[Log, LogEntry]], rendering: Rendering) -> None:
        entries = [entry for _, entry in batch if isinstance(entry, EventsEntry)]
        if self.closed:
            return
        if self._state is not None:
            self._apply(self._state, entries)
            return
        self._waiting += entries
        if sum(entry.size + _ENTRY for entry in self._waiting) > _WAITING:
            self._waiting.clear()
            self._generation += 1
            self._load()

    def prepare_messages(self, batch: Sequence[tuple[Log, LogEntry]], rendering: Rendering, pause: Pause) -> None:
        """Do nothing: there are no statistics."""

    def note_taken(self, partition: int, sequence: int) -> None:
        """Do nothing: a client that gets a change twice has the same state."""

    def reset(self, of: Log, reason: str) -> None:
        """Read the state again: entries may be lost."""
        self._generation += 1
        self._state = None
        self._waiting.clear()
        self.settled.clear()
        if reason != "trimmed":  # else nothing is lost: the state is read
            self._reasons[reason] = None

    def skip(self, of: Log, offset: int) -> None:
        """Do nothing: entries that the state includes change nothing."""

    def on_read(self, logs: Iterable[Log]) -> None:
        if self._state is None and self._misses_nothing:
            self._load()

    @property
    def _misses_nothing(self) -> bool:
        """Return whether every entry after now arrives."""
        tail = self._follower.tails.get(self.log)
        return tail is not None and not tail.catching_up

    def refuse(self, reason: PushError) -> None:
        self._give_up(reason)

    def fail(self) -> None:
        for subscriber in list(self._subscribers):
            subscriber.fail()

    # The state

    def _load(self) -> None:
        if not self._loading and not self.closed:
            self._loading = True
            gevent.spawn(self._run_load)

    def _run_load(self) -> None:
        try:
            while not self.closed and self._state is None and self._problem is None and self._misses_nothing:
                try:
                    self._read_state()
                except MemoryFull as error:
                    self._give_up(error)
                except PushError as error:
                    log.warning("%s: %s", self, error)
                    gevent.sleep(self._feed.limits.pause)
        except Exception:
            log.exception("%s", self)
            self.fail()
        finally:
            self._loading = False

    def _read_state(self) -> None:
        """Read the state, unless the log starts over meanwhile."""
        generation, pause = self._generation, Slices(self._feed.limits.slice)
        found = self._store.read(self.log.topic, self.settings, pause=pause, on_size=self._count_read)
        state = LatestState(self.log.topic, self.settings, found, pause)
        if self.closed or generation != self._generation:
            return
        self._count(state.size)
        waiting, self._waiting = self._waiting, []
        for entry in waiting:
            state.apply(entry)
        self._state = state
        reasons, self._reasons = self._reasons, {}
        self.settled.set()
        if self._was_settled:
            for subscriber in list(self._subscribers):
                guarded(subscriber, subscriber.start_over, reasons)
        self._was_settled = True

    def _apply(self, state: LatestState, entries: Sequence[EventsEntry]) -> None:
        changed, gone = merge_changes(map(state.apply, entries))
        try:
            self._count(state.size)
        except MemoryFull as error:
            self._give_up(error)
            return
        if changed or gone:
            for subscriber in list(self._for_all):
                guarded(subscriber, subscriber.take, changed, gone)
            self._pass_by_key(changed, gone)

    def _pass_by_key(self, changed: Sequence[str], gone: Sequence[str]) -> None:
        shares: dict[LatestSubscriber, tuple[list[str], list[str]]] = {}
        for place, keys in enumerate((changed, gone)) if self._by_key else ():
            for key in keys:
                for subscriber in self._by_key.get(key, ()):
                    shares.setdefault(subscriber, ([], []))[place].append(key)
        for subscriber, (own_changed, own_gone) in shares.items():
            guarded(subscriber, subscriber.take, own_changed, own_gone)

    def _count(self, size: int) -> None:
        """Count the bytes of the state; raise MemoryFull."""
        if self._memory is None or self.closed:
            return
        if self._held is None:
            self._held = self._memory.hold("", size, self._on_let_go)
        elif abs(size - self._held.size) > _COUNTED:
            self._held.resize(size)

    def _count_read(self, size: int) -> None:
        """Count events that are read, twice: they exist until the state is made of them."""
        self._count(2 * size)

    def _on_let_go(self) -> None:
        """Give up after this turn of the loop: entries may just be folded in."""
        get_hub().loop.run_callback(self._give_up, MemoryFull())

    def _give_up(self, error: PushError) -> None:
        """End all streams: the process has no room for the state."""
        self._problem = error
        self.settled.set()  # those that wait for it look why
        for subscriber in list(self._subscribers):
            subscriber.end(error.title)
        self.close()
