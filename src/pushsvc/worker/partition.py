"""What the owner of a partition knows of it: its topics, and the engines that count them."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np

from pushsvc.aggregate.aggregate import Aggregate
from pushsvc.aggregate.row_updates import Topic as Counted
from pushsvc.broker.checkpoints import Owner, Stored
from pushsvc.broker.log import EventsEntry
from pushsvc.event.columns import ColumnReader, Columns
from pushsvc.settings import TopicSettings
from pushsvc.worker import metrics
from pushsvc.worker.shards.pool import Split

log = logging.getLogger(__name__)

RUN_BYTES = 64_000
"""Bytes of entries that are counted as one: more would not make an event cheaper."""

EngineKey = tuple[TopicSettings, str | None]
"""Settings, and the topic where it has an engine of its own."""


def engine_key(settings: TopicSettings, topic: str) -> EngineKey:
    """Topics with equal settings share an engine, but each that is split or on the event clock has one of its own."""
    return settings, topic if settings.clock == "event" or settings.parts > 1 else None


def engine_name(key: EngineKey) -> str:
    """Return what an engine's checkpoint is called. With other settings it is another."""
    return blake2b(repr(key).encode(), digest_size=8).hexdigest()


@dataclass(slots=True)
class Unsaved:
    """What an engine did since its last checkpoint: ``spent`` CPU seconds to count ``entries``. ``forgot`` says that
    it let go of a topic, which is still in the checkpoint."""

    entries: int = 0
    spent: float = 0.0
    forgot: bool = False

    def add(self, other: Unsaved) -> None:
        self.entries += other.entries
        self.spent += other.spent
        self.forgot |= other.forgot


@dataclass(slots=True)
class Engine:
    """An aggregate with its last checkpoint in Redis, if there is one.

    ``taken`` is when that was taken, or when the engine began, by the monotonic clock (s). To take and write it took
    about ``cost`` CPU seconds.
    """

    name: str
    aggregate: Aggregate | Split
    stored: Stored | None = None
    taken: float = field(default_factory=time.monotonic)
    cost: float = 0.0
    unsaved: Unsaved = field(default_factory=Unsaved)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Add the time spent in the context to what a successor would spend again."""
        begun = time.thread_time()
        try:
            yield
        finally:
            self.unsaved.spent += time.thread_time() - begun + self.spent_elsewhere()

    def spent_elsewhere(self) -> float:
        """Return the CPU seconds that other processes have spent on it since this was last asked."""
        return self.aggregate.take_spent() if isinstance(self.aggregate, Split) else 0.0


@dataclass(slots=True)
class Topic:
    """One topic that is aggregated. ``silent_through`` is the offset up to which frames were written before."""

    engine: Engine
    counted: Counted
    settings: TopicSettings
    silent_through: int
    reader: ColumnReader
    announced: bool = False
    weight: dict[str, int] = field(default_factory=dict)
    base: dict[str, int] = field(default_factory=dict)

    @property
    def aggregate(self) -> Aggregate | Split:
        return self.engine.aggregate

    @property
    def after(self) -> int:
        """The offset of the last event counted."""
        return self.counted.offset

    def count_together(self, entries: Sequence[EventsEntry]) -> bool:
        """Hand entries, between which the clock does not move, to who counts the topic; return whether that could be.
        If not, none is counted."""
        first, last, aggregate = entries[0].first, entries[-1].last, self.engine.aggregate
        if isinstance(aggregate, Split):
            return False
        try:
            events = self.reader.read(b"\n".join([entry.data for entry in entries]))
        except Exception:  # noqa: BLE001 - each by itself says which
            return False
        if len(events) != last - first + 1:
            return False
        sizes = [entry.last - entry.first + 1 for entry in entries]
        arrivals = np.repeat(np.array([entry.arrival for entry in entries]), sizes)
        aggregate.apply(self.counted.name, last, arrivals, events)
        return True

    def count(self, entry: EventsEntry, *, countable: bool) -> int:
        """Hand an entry to who counts the topic, none of its events where nobody can; return how many there were."""
        metrics.UNCOUNTABLE.inc(not countable)
        name, aggregate = self.counted.name, self.engine.aggregate
        if isinstance(aggregate, Split):
            told = entry.last <= self.silent_through
            aggregate.apply(name, entry.last, entry.arrival, entry.data if countable else b"", told=told)
            return entry.last - entry.first + 1 if countable else 0
        events = self._events_of(entry) if countable else Columns.from_events([], self.settings.key)
        aggregate.apply(name, entry.last, entry.arrival, events)
        return len(events)

    def _events_of(self, entry: EventsEntry) -> Columns:
        try:
            return self.reader.read(entry.data)
        except Exception:
            # Not written by us. It must not end the statistics of all that comes behind it.
            log.exception("%s: the entry up to offset %d cannot be read", self.counted.name, entry.last)
        metrics.UNCOUNTABLE.inc()
        return Columns.from_events([], self.settings.key)


@dataclass(slots=True)
class Partition:
    """A partition that this process owns, with the fencing token of its lease, until it is ``ended``.

    ``distrusted`` says that its engines are to be made from the log alone. ``uncountable`` are entries, by topic and
    last offset, that made an engine fail: they are left out, and to find one entries are counted ``singly``. ``stale``
    are the engines of checkpoints that are of no use. ``skew`` is how many ms the clock of its primary is ahead; before
    ``again_at`` (monotonic) a primary that failed is left alone, which is told once while it is ``away``.
    """

    number: int
    fence: int
    distrusted: bool = False
    uncountable: set[tuple[str, int]] = field(default_factory=set)
    singly: bool = False
    epoch: int | None = None
    topics: dict[str, Topic] = field(default_factory=dict)
    engines: dict[EngineKey, Engine] = field(default_factory=dict)
    unread: set[str] = field(default_factory=set)
    stale: set[str] = field(default_factory=set)
    loaded: bool = False
    ended: bool = False
    skew: int = 0
    again_at: float = 0.0
    away: bool = False

    @property
    def owner(self) -> Owner | None:
        """Who writes its checkpoints; None before anything was read."""
        return None if self.epoch is None else Owner(self.number, self.fence, self.epoch)

    def end(self) -> None:
        """Be no more: nothing is written of it, and no process counts for it."""
        self.ended = True
        for engine in self.engines.values():
            if isinstance(engine.aggregate, Split):
                engine.aggregate.end()

    def runs(
        self, engine: Engine, entries: Sequence[tuple[str, EventsEntry]]
    ) -> Iterator[tuple[str, list[EventsEntry]]]:
        """Yield entries of an engine's topics, which are in order of arrival, as they are to be counted: those of a
        topic together between which the clock does not move."""
        aggregate = engine.aggregate
        if self.singly or isinstance(aggregate, Split):
            yield from ((name, [entry]) for name, entry in entries)
            return
        at = 0
        while at < len(entries):
            until = aggregate.reach(entries[at][1].arrival)
            by_topic: dict[str, list[EventsEntry]] = {}
            while at < len(entries) and entries[at][1].arrival <= until:
                name, entry = entries[at]
                by_topic.setdefault(name, []).append(entry)
                at += 1
            for name, own in by_topic.items():
                for run in self._bounded(self.topics[name].silent_through, own):
                    yield name, run

    @staticmethod
    def _bounded(silent_through: int, entries: Iterable[EventsEntry]) -> Iterator[list[EventsEntry]]:
        """Cut a run where it grows large, and where the topic has passed what was told before."""
        run: list[EventsEntry] = []
        size = 0
        for entry in entries:
            silent = entry.last <= silent_through
            if run and (size + len(entry.data) > RUN_BYTES or silent != (run[-1].last <= silent_through)):
                yield run
                run, size = [], 0
            run.append(entry)
            size += len(entry.data)
        yield run

    def forget(self, name: str) -> None:
        """Let go of a topic."""
        engine = self.topics.pop(name).engine
        engine.aggregate.close(name)
        engine.unsaved.forgot = True
        if not engine.aggregate.topics:
            self.engines = {key: one for key, one in self.engines.items() if one is not engine}
            self.stale.add(engine.name)
