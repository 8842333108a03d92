"""What the owner of a partition knows of it: its topics, and the engines that count them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hashlib import blake2b

from pushsvc.aggregate.row_updates import TopicCounts
from pushsvc.broker.checkpoints import Owner, Stored
from pushsvc.broker.keys import Log
from pushsvc.broker.log import EventsEntry
from pushsvc.settings import TopicSettings
from pushsvc.system_clock import now_ms
from pushsvc.worker import metrics
from pushsvc.worker.demand import Demand, topic_of
from pushsvc.worker.dormant import DormantTopics, RecentLoad, may_rest
from pushsvc.worker.engine import EntryFailed, TopicEngine
from pushsvc.worker.held_alerts import HeldAlerts

EngineKey = tuple[TopicSettings, str | None]  # the topic if it has an engine of its own


def engine_key(settings: TopicSettings, topic: str) -> EngineKey:
    """Return the key of a topic's engine. Topics with equal settings share an engine, but a topic that is sharded or on
    the event clock has one of its own."""
    return settings, topic if settings.clock == "event" or settings.parts > 1 else None


def engine_name(key: EngineKey) -> str:
    """Return the name of an engine's checkpoint; other settings give another name."""
    return blake2b(repr(key).encode(), digest_size=8).hexdigest()


@dataclass(slots=True)
class Unsaved:
    """The work of an engine since its last checkpoint: ``spent`` CPU seconds on ``entries``. ``forgot``: it closed a
    topic that the checkpoint still has."""

    entries: int = 0
    spent: float = 0.0
    forgot: bool = False

    def add(self, other: Unsaved) -> None:
        self.entries += other.entries
        self.spent += other.spent
        self.forgot |= other.forgot


@dataclass(slots=True)
class OwnedEngine:
    """An engine with its last checkpoint in Redis, if there is one.

    ``taken`` is when that checkpoint was taken, or when the engine was made (monotonic, s). ``cost`` is about the CPU
    seconds of taking and writing it.
    """

    name: str
    engine: TopicEngine
    stored: Stored | None = None
    taken: float = field(default_factory=time.monotonic)
    cost: float = 0.0
    unsaved: Unsaved = field(default_factory=Unsaved)
    corrected: set[str] = field(default_factory=set)  # topics with a corrected event that it counts as it was

    @contextmanager
    def working(self) -> Iterator[None]:
        """Add the CPU time of the context, and that of other processes, to what a successor would repeat."""
        begun = time.thread_time()
        try:
            yield
        finally:
            self.unsaved.spent += time.thread_time() - begun + self.engine.take_spent()


@dataclass(slots=True)
class OwnedTopic:
    """A topic that this process aggregates.

    A predecessor wrote frames up to the offset ``silent_through``; none are written before it is passed. ``reported``
    are the windows of which a snapshot was written. ``late_total`` is the number of late events in the topic's
    metadata, with those that predecessors counted. By window, ``snapshot_bytes`` is the size of the last snapshot and
    ``update_bytes`` that of all updates since.
    """

    engine: OwnedEngine
    counts: TopicCounts
    settings: TopicSettings
    silent_through: int
    load: RecentLoad
    late_total: int = 0
    rebuilt_through: int = 0  # the offset of the log's end when the windows began to be built from it
    reported: set[str] = field(default_factory=set)
    sequence: int = 0  # of the last entry that was applied here
    update_bytes: dict[str, int] = field(default_factory=dict)
    snapshot_bytes: dict[str, int] = field(default_factory=dict)

    @property
    def unreported_late(self) -> int:
        """The late events that are not in the topic's metadata."""
        return self.counts.late - self.counts.reported_late

    def note_late_reported(self, total: int) -> None:
        """Note that the topic's metadata has a number of late events."""
        self.counts.reported_late += total - self.late_total
        self.late_total = total

    def is_dispensable(self, now: int, most: int) -> bool:
        """Return whether the state can be rebuilt from at most ``most`` entries, and everything was reported."""
        counts, settings = self.counts, self.settings
        settled = counts.offset >= self.silent_through and counts.late == counts.reported_late
        return settled and may_rest(settings, most) and self.load.at(now, settings.longest_window) <= most


@dataclass(slots=True)
class Recount:
    """A topic with a corrected event, while an engine of its own counts it again from the log.

    It takes the place of the engine under ``key`` once it is at the same offset.
    """

    key: EngineKey
    engine: OwnedEngine
    topic: OwnedTopic


@dataclass(slots=True)
class PoisonEntries:
    """Entries of a partition that no engine can count.

    An engine that failed at an entry is rebuilt from the log without it. If it failed at several entries that were
    applied as one, the rebuilt engine applies them one by one to find the entry (``isolating``). So one entry ends the
    statistics of no other entry and of no other topic.
    """

    isolating: bool = False
    _known: set[tuple[str, int]] = field(default_factory=set)

    def learn(self, error: EntryFailed) -> None:
        """Take note of an engine's failure."""
        self.isolating = error.offset is None
        if error.offset is not None:
            self._known.add((error.topic, error.offset))

    def emptied(self, topic: str, entries: Sequence[EventsEntry]) -> Sequence[EventsEntry]:
        """Return consecutive entries of a topic, the poison ones without data."""
        poison = {entry.last for entry in entries if (topic, entry.last) in self._known} if self._known else None
        if not poison:
            return entries
        metrics.UNCOUNTABLE.inc(len(poison))
        return [replace(entry, data=b"") if entry.last in poison else entry for entry in entries]


@dataclass(slots=True)
class Partition:
    """A partition that this process owns, with the fencing token of its lease, until it is ``ended``.

    ``lifetime`` has the topics with a window ``all``, in engines of that window alone; None if there are none. It reads
    their logs by itself, and shares the demand of this partition.
    """

    number: int
    fence: int
    rebuild_from_log: bool = False  # without checkpoints
    poison: PoisonEntries = field(default_factory=PoisonEntries)
    retry_at: float = 0.0  # monotonic time; before it the partition is left alone, because it failed
    epoch: int | None = None  # of Redis; None before the first read
    topics: dict[str, OwnedTopic] = field(default_factory=dict)
    engines: dict[EngineKey, OwnedEngine] = field(default_factory=dict)
    unread: set[str] = field(default_factory=set)  # topics whose logs may have new entries
    stale: set[str] = field(default_factory=set)  # names of engines whose checkpoints are useless
    loaded: bool = False  # the list of topics is current
    demand: Demand = field(default_factory=Demand)
    alerts: HeldAlerts | None = None  # None: not read yet
    dormant: DormantTopics = field(default_factory=DormantTopics)
    recounts: dict[str, Recount] = field(default_factory=dict)  # of corrected topics
    recounted_at: float = 0.0  # monotonic time of the last beginning of recounts
    by_demand: set[str] = field(default_factory=set)  # topics that are counted on demand
    waiting: set[str] = field(default_factory=set)  # dormant topics that somebody asked for, while too many are open
    watched: dict[str, set[str]] = field(default_factory=dict)  # topics and windows that had subscribers at last
    hurried: bool = False  # an unread topic is watched, or is behind
    wake: int | None = None  # what ``wake_at`` was when the engines were last used
    unsure: bool = False  # a notification may be lost
    sure_through: int = 0  # the sequence up to which none is lost
    ended: bool = False
    skew: int = 0  # ms that the clock of the partition's primary is ahead of ours
    skew_unsure: bool = False  # our clock was set
    away: bool = False  # its primary is unreachable, which was logged
    lifetime: Partition | None = None

    @property
    def owner(self) -> Owner | None:
        """The writer of its checkpoints; None before the first read."""
        return None if self.epoch is None else Owner(self.number, self.fence, self.epoch)

    @property
    def now(self) -> int:
        """The time of its primary in ms, as far as it is known here."""
        return now_ms() + self.skew

    @property
    def wake_at(self) -> int | None:
        """The ms at which an engine may have frames; None: not before new entries."""
        wakes = [wake for one in self.engines.values() if (wake := one.engine.wake_at()) is not None]
        return min(wakes, default=None)

    @property
    def corrected(self) -> set[str]:
        """The topics with a corrected event that is counted as it was."""
        return set().union(*(one.corrected for one in self.engines.values()))

    @property
    def is_due(self) -> bool:
        """Whether an engine may have frames."""
        return self.wake is not None and self.wake <= self.now

    @property
    def is_urgent(self) -> bool:
        """Whether there is work that somebody waits for, or may wait for."""
        hurried = self.hurried or bool(self.recounts)
        urgent = not self.loaded or hurried or bool(self.demand.asked) or (bool(self.watched) and self.is_due)
        return urgent or (self.lifetime is not None and self.lifetime.is_urgent)

    def ask(self, name: str, lifetime: int) -> None:
        """Note that somebody asked for a window whose frames are not current, by the name of its log, for some ms."""
        self.demand.ask(name, self.now + lifetime)

    def take_asked(self) -> set[str]:
        """Return the names of the logs that need a snapshot with all that the next read returns."""
        asked = self.demand.take_asked()
        for topic in {topic_of(name) for name in asked}:
            if (owned := self.topics.get(topic)) is None:
                self.unread.add(topic)
            else:
                owned.reported -= {one.name for one in owned.settings.windows if Log(topic, one.name).name in asked}
        return asked

    def add_unread(self, name: str) -> bool:
        """Note that the log of a topic has new entries; return False if nothing has to be done."""
        counted = self.lifetime is not None and name in self.lifetime.topics and self.lifetime.add_unread(name)
        if name in self.dormant and not self.dormant.note(name):
            return counted
        self.unread.add(name)
        self.hurried |= name in self.watched
        return True

    def note_ended(self, name: str) -> None:
        """Note that a topic was deleted."""
        self.dormant.discard(name)
        if name in self.topics:
            self.unread.add(name)
        if self.lifetime is not None:
            self.lifetime.note_ended(name)

    def rest(self, most: int) -> None:
        """Stop counting topics that nobody wants, if their windows can be rebuilt from at most ``most`` entries."""
        now = self.now
        for name, topic in list(self.topics.items()):
            if topic.is_dispensable(now, most) and not self.demand.wants(name) and name not in self.unread:
                self.forget(name)
                self.dormant.add(name, topic.load.current)

    def note_watched(self, name: str, window: str, watched: bool) -> None:
        """Note whether a window has subscribers."""
        if watched:
            self.watched.setdefault(name, set()).add(window)
        elif windows := self.watched.get(name):
            windows.discard(window)
            if not windows:
                del self.watched[name]

    def look_everywhere(self) -> None:
        """Assume that every log has new entries and that topics were created: notifications may be lost."""
        self.unread.update(self.topics)
        self.loaded = False
        if self.lifetime is not None:
            self.lifetime.unread.update(self.lifetime.topics)

    def end(self) -> None:
        """Stop the engines; nothing is written any more. May be called again."""
        self.ended = True
        for one in [*self.engines.values(), *(recount.engine for recount in self.recounts.values())]:
            one.engine.end()
        if self.lifetime is not None:
            self.lifetime.end()

    def replace(self, recount: Recount) -> None:
        """Let a topic be counted by the engine that has counted it again."""
        name, key = recount.topic.counts.name, recount.key
        before = self.topics[name]
        recount.topic.silent_through, recount.topic.load = before.silent_through, before.load
        recount.topic.sequence, recount.topic.late_total = before.sequence, before.late_total
        watched = self.watched.get(name)
        if before.engine.name == recount.engine.name:
            recount.engine.stored = before.engine.stored
        del self.recounts[name]  # else it would be ended
        self.forget(name)
        if watched is not None:
            self.watched[name] = watched
        self.stale.discard(recount.engine.name)
        self.topics[name], self.engines[key] = recount.topic, recount.engine

    def forget(self, name: str) -> None:
        """Remove a topic, and its engine if it was the last one there."""
        self.watched.pop(name, None)
        self.by_demand.discard(name)
        if (recount := self.recounts.pop(name, None)) is not None:
            recount.engine.engine.end()
        engine = self.topics.pop(name).engine
        engine.engine.close(name)
        engine.unsaved.forgot = True
        engine.corrected.discard(name)
        if not engine.engine.topics:
            self.engines = {key: one for key, one in self.engines.items() if one is not engine}
            self.stale.add(engine.name)
