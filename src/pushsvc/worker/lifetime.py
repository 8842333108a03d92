"""Counts the windows ``all`` of the partitions that this process owns, beside the other windows.

Each topic has a record in Redis: its rows, and the offset up to which they count. A successor loads it and reads the
log after that offset, so every event is counted once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from pushsvc.aggregate.lifetime_record import LifetimeHead, LifetimeRow, NoRoom, decode_record
from pushsvc.broker.broker import Broker
from pushsvc.broker.checkpoints import NotStored, Stored
from pushsvc.broker.keys import Log
from pushsvc.errors import PushError
from pushsvc.settings import TopicRules, TopicSettings
from pushsvc.stats.serialize import InvalidState
from pushsvc.stats.window import LIFETIME
from pushsvc.topic import partition_of
from pushsvc.worker import metrics
from pushsvc.worker.apply_entries import EntryApplier
from pushsvc.worker.checkpoints import Checkpointer
from pushsvc.worker.demand import topic_of
from pushsvc.worker.dormant import RecentLoad
from pushsvc.worker.engine import EntryFailed, ShardLost
from pushsvc.worker.frame_writer import FrameWriter
from pushsvc.worker.lifetime_engine import RECOUNTABLE, LifetimeEngine, LocalLifetime, ShardedLifetime, missing_from
from pushsvc.worker.partition import OwnedEngine, OwnedTopic, Partition
from pushsvc.worker.policy import WorkerPolicy
from pushsvc.worker.room import Room
from pushsvc.worker.shards.pool import ShardHandle
from pushsvc.worker.takeover import batches, logs_of, owned_topic

log = logging.getLogger(__name__)

_NEVER = 1 << 62  # an offset
_SUFFIX = Log("", LIFETIME.name).name


class _Record(NamedTuple):
    """A record, read and as it is stored."""

    head: LifetimeHead
    rows: list[LifetimeRow]
    data: bytes


class LifetimeCounter:
    """Brings the windows ``all`` of partitions up to date and writes their records.

    ``pause`` is called every few milliseconds of work. Methods raise errors of ``pushsvc.errors``.
    """

    def __init__(
        self, broker: Broker, rules: TopicRules, pause: Callable[[], None], policy: WorkerPolicy, room: Room,
        applier: EntryApplier, frames: FrameWriter,
    ) -> None:  # fmt: skip
        self._broker = broker
        self._rules = rules
        self._pause = pause
        self._policy = policy
        self._room = room
        self._start_shard = partial(ShardHandle, timeout=policy.shard_timeout)
        self._applier = applier
        self._frames = frames
        self._writer = Checkpointer(broker.lifetimes, policy.lifetimes, self._on_failure, measured=False)

    # Records

    def poll(self, partitions: Iterable[Partition]) -> None:
        """Write the record that is due most, if there is one."""
        if own := [one.lifetime for one in partitions if one.lifetime is not None]:
            self._writer.poll(own)

    def finish(self, partitions: Iterable[Partition]) -> None:
        """Write the last records of an orderly end."""
        self._writer.finish([one.lifetime for one in partitions if one.lifetime is not None])

    def close(self) -> None:
        self._writer.close()

    # Partitions

    def note(self, partition: Partition, names: Iterable[str]) -> None:
        """Note topics that may be new, and may have a window ``all``."""
        own = {name for name in names if self._rules.settings_of(name).lifetime is not None}
        if own and partition.lifetime is None:
            partition.lifetime = self._new(partition)
        if own and partition.lifetime is not None:
            partition.lifetime.unread |= own

    @staticmethod
    def note_changed(lifetime: Partition, sequences: Mapping[str, int]) -> None:
        """Note the sequences of the last changes of logs, and try again to open topics that had no room."""
        lifetime.unread |= lifetime.waiting
        lifetime.waiting = set()
        for name, sequence in sequences.items():
            topic = lifetime.topics.get(name)
            if topic is not None and topic.sequence < sequence:
                lifetime.unread.add(name)

    @staticmethod
    def idle_time(lifetime: Partition, quiet: float) -> float:
        """Return the seconds until there may be work; ``quiet`` are those for work that nobody waits for."""
        wait = lifetime.retry_at - time.monotonic()
        if wait <= 0 and lifetime.unread:
            wait = 0.0 if lifetime.hurried else quiet
        elif wait <= 0 and lifetime.wake is not None:
            wait = (lifetime.wake - lifetime.now) / 1_000
            wait = wait if lifetime.watched else max(wait, quiet)
        elif wait <= 0:
            wait = _NEVER
        return wait

    def bring_up(self, partition: Partition, asked: Iterable[str]) -> bool:
        """Count what is new in a partition's logs, after its other windows; return whether there is more to read.
        ``asked`` are the names of the logs that need a snapshot."""
        lifetime = partition.lifetime
        if lifetime is None or partition.ended:
            return False
        for name in {topic_of(name) for name in asked if name.endswith(_SUFFIX)}:
            lifetime.unread.add(name)
            if (topic := lifetime.topics.get(name)) is not None:
                topic.reported.discard(LIFETIME.name)
        if lifetime.retry_at > time.monotonic():
            return False
        try:
            return self._bring_up(partition, lifetime)
        except PushError:
            raise
        except Exception as error:  # noqa: BLE001 - the other windows go on
            self._on_failure(lifetime, error)
            partition.lifetime = self._new(partition, lifetime)
            return False

    def _on_failure(self, lifetime: Partition, error: Exception) -> None:
        """Begin again from the records, after a pause."""
        if isinstance(error, EntryFailed):
            lifetime.poison.learn(error)
        log.error("partition %d: its windows %s begin again", lifetime.number, LIFETIME.name, exc_info=error)

    def _new(self, partition: Partition, before: Partition | None = None) -> Partition:
        """Return what counts the windows ``all`` of a partition, in place of what did ``before``."""
        made = Partition(partition.number, partition.fence, loaded=True, demand=partition.demand, skew=partition.skew)
        if before is not None:
            before.end()
            made.poison, made.unread = before.poison, before.unread | before.topics.keys()
            made.retry_at = time.monotonic() + self._policy.retry_pause
        return made

    def _bring_up(self, partition: Partition, lifetime: Partition) -> bool:
        unread, lifetime.unread, lifetime.hurried = lifetime.unread, set(), False
        lifetime.skew = partition.skew
        try:
            self._open(lifetime, sorted(name for name in unread if name not in lifetime.topics))
            names = sorted(name for name in unread if name in lifetime.topics)
            if not names and not lifetime.is_due:
                return False
            after = {Log(name): lifetime.topics[name].counts.offset for name in names}
            read = self._broker.read(lifetime.number, after, current=True)
            if read.epoch != lifetime.epoch:
                # Redis was restarted, and may have lost entries that were counted; its records have only what it kept.
                lifetime.unread |= unread
                partition.lifetime = self._new(partition, lifetime)
                return True
            lagging = self._applier.apply_read(lifetime, names, read)
            lifetime.unread |= lagging
            lifetime.poison.isolating &= bool(lagging)
            self._frames.write(lifetime, names, read.now)
        except BaseException:
            lifetime.unread |= unread
            raise
        self._recount(lifetime)
        lifetime.wake = lifetime.wake_at
        lifetime.hurried |= bool(lagging)
        return bool(lagging)

    # Topics

    def _open(self, lifetime: Partition, names: Sequence[str], *, anew: bool = False) -> None:
        """Open topics, from their records or (``anew``) from their logs."""
        if not names:
            return
        epoch, headers = self._broker.lifetimes.headers(lifetime.number)
        if lifetime.epoch is None:
            lifetime.epoch = epoch
            present = self._broker.topics_of(lifetime.number)
            lifetime.stale |= {name for name in headers if name not in present}
        for batch in batches(names):
            settings = {name: own for name in batch if (own := self._rules.settings_of(name).lifetime) is not None}
            logs = [logs_of(name, own) for name, own in settings.items()]
            answers = iter(self._broker.metadata([one for several in logs for one in several]))
            for name, own in settings.items():
                events, window = next(answers), next(answers)
                if "created" not in events:
                    continue
                if name in headers and headers[name] is None:
                    log.error("%s: its record is of a later version, so window %s is not counted", name, LIFETIME.name)
                    continue
                self._open_one(lifetime, name, own, events, window, headers.get(name), anew=anew)

    def _open_one(
        self, lifetime: Partition, name: str, settings: TopicSettings, events: Mapping[str, str],
        window: dict[str, str], stored: Stored | None, *, anew: bool,
    ) -> None:  # fmt: skip
        first, deleted = int(events.get("first", 1)), int(events.get("deleted", 0))
        found = None if anew or stored is None else self._record(lifetime, name, stored, events)
        try:
            engine = None if found is None else self._loaded(name, settings, found, first)
        except NoRoom as error:
            log.warning("%s: its window %s waits: %s", name, LIFETIME.name, error)
            lifetime.waiting.add(name)
            return
        if engine is None:
            engine = self._engine(name, settings)
            trimmed = int(events.get("trimmed", 0)) > deleted
            engine.begin(name, int(events["created"]), deleted, after=first - 1, trimmed=trimmed)
        owned = OwnedEngine(name, engine, stored)
        topic = owned_topic(owned, engine.topics[name], settings, events, [window], RecentLoad(lifetime.now))
        topic.rebuilt_through = _NEVER  # corrections are counted as they are read
        lifetime.engines[settings, name], lifetime.topics[name] = owned, topic

    def _engine(self, name: str, settings: TopicSettings) -> LifetimeEngine:
        cells = self._room.cells_of(partition_of(name))
        if settings.parts > 1:
            return ShardedLifetime(settings, self._start_shard, cells=cells.limit)
        return LocalLifetime(settings, pause=self._pause, cells=cells)

    def _loaded(self, name: str, settings: TopicSettings, record: _Record, first: int) -> LifetimeEngine | None:
        """Return an engine that goes on from a record; None if the log, which begins with the offset ``first``, has
        more than the record, or if the record makes no sense. Raise NoRoom."""
        head = record.head
        if missing_from(head, settings) and first - 1 <= head.after:
            return None
        engine = self._engine(name, settings)
        try:
            engine.load(name, head, record.rows, record.data)
        except BaseException as error:
            engine.end()
            if isinstance(error, NoRoom | ShardLost) or not isinstance(error, Exception):
                raise
            metrics.UNUSABLE.inc()
            log.exception("%s: the record of its window %s is lost", name, LIFETIME.name)
            return None
        engine.lose(name, first - 1)
        return engine

    def _record(self, lifetime: Partition, name: str, stored: Stored, events: Mapping[str, str]) -> _Record | None:
        """Return the record of a topic; None if there is none of this topic."""
        try:
            data = self._broker.lifetimes.read(lifetime.number, name, stored)
            head, rows = decode_record(data)
        except (NotStored, InvalidState) as error:
            metrics.UNUSABLE.inc()
            log.error("%s: the record of its window %s is lost: %s", name, LIFETIME.name, error)
            return None
        same = (int(events["created"]), int(events.get("deleted", 0))) == (head.created, head.deleted)
        if not same or head.offset > int(events.get("last", 0)):
            return None
        metrics.LOADED.inc()
        return _Record(head, rows, data)

    def _recount(self, lifetime: Partition) -> None:
        """Count topics again in which corrections left something that is not exact, if their logs still allow it."""
        now = time.monotonic()
        if now - lifetime.recounted_at < self._policy.lifetime_recount_interval:
            return
        inexact = [name for name, topic in lifetime.topics.items() if RECOUNTABLE in _engine_of(topic).approximate]
        if not inexact:
            return
        lifetime.recounted_at = now
        metadata = self._broker.metadata([Log(name) for name in inexact])
        for name, events in zip(inexact, metadata, strict=True):
            topic = lifetime.topics[name]
            if "created" in events and int(events.get("first", 1)) - 1 <= _engine_of(topic).after:
                lifetime.forget(name)
                lifetime.stale.discard(name)  # the record holds until the next one replaces it
                self._open(lifetime, [name], anew=True)
                lifetime.unread.add(name)
                lifetime.hurried = True


def _engine_of(topic: OwnedTopic) -> LifetimeEngine:
    engine = topic.engine.engine
    if not isinstance(engine, LifetimeEngine):
        raise TypeError("not an engine of the window of all events")
    return engine
