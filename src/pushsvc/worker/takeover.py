"""Begins a partition: from the checkpoints of its last owner, else from its logs."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from math import inf

from pushsvc.aggregate.aggregate import ENGINE_BYTES
from pushsvc.aggregate.row_updates import TopicCounts
from pushsvc.broker.broker import Broker
from pushsvc.broker.checkpoints import NotStored, Stored
from pushsvc.broker.keys import Log
from pushsvc.settings import FUTURE_ALLOWANCE, TopicRules, TopicSettings
from pushsvc.stats.cells import CellLedger
from pushsvc.stats.serialize import InvalidState
from pushsvc.worker import metrics
from pushsvc.worker.dormant import RecentLoad, is_short, may_rest
from pushsvc.worker.engine import LocalEngine, TopicEngine
from pushsvc.worker.partition import EngineKey, OwnedEngine, OwnedTopic, Partition, Recount, engine_key, engine_name
from pushsvc.worker.policy import WorkerPolicy
from pushsvc.worker.room import Room
from pushsvc.worker.shards.pool import ShardHandle, ShardPool

log = logging.getLogger(__name__)

# Milliseconds before the longest window from which the log is read again: arrivals and event times differ.
_REPLAY_MARGIN = 2 * FUTURE_ALLOWANCE
_METADATA_BATCH = 500  # topics whose metadata is read in one round trip


class Takeover:
    """Opens partitions and their topics. ``pause`` is called every few milliseconds of work.

    Methods raise ShardLost, and errors of ``pushsvc.errors``.
    """

    def __init__(
        self, broker: Broker, rules: TopicRules, pause: Callable[[], None], policy: WorkerPolicy, room: Room
    ) -> None:
        self._broker = broker
        self._rules = rules
        self._pause = pause
        self._start_shard = partial(ShardHandle, timeout=policy.shard_timeout)
        self._rebuilt_entries = policy.rebuilt_entries
        self._room = room

    def load(self, partition: Partition) -> None:
        """Mark all topics with windows as unread. The first time, restore the engines from checkpoints."""
        every = self._broker.topics_of(partition.number)
        names = [name for name in every if self._settings_of(name).windows]
        if partition.epoch is None:
            epoch, headers = self._broker.checkpoints.headers(partition.number)
            keys = {engine_key(self._settings_of(name), name) for name in names}
            engines = {engine_name(key): key for key in keys}
            if headers.keys() - engines.keys():  # a corrected topic has an engine of its own
                engines |= {engine_name(key): key for name in names if (key := (self._settings_of(name), name))}
            self._restore_all(partition, headers, engines)
            partition.epoch = epoch
        names = [name for name in every if self._rules.settings_of(name).windows]
        for wanted in self._broker.demand.read(partition.number):
            if wanted not in partition.demand:
                partition.ask(wanted, 0)
        partition.dormant.keep(set(names))
        partition.unread.update(name for name in names if name not in partition.dormant)
        partition.loaded = True

    def _settings_of(self, name: str) -> TopicSettings:
        """Return the settings by which the engines here count a topic: without the window ``all``."""
        return self._rules.settings_of(name).rolling

    def begin(self, partition: Partition, names: Sequence[str]) -> None:
        """Open topics that no checkpoint has; their windows will be built from the part of the log that they cover.

        Topics without windows are left alone. Small topics whose windows nobody wants become dormant.
        """
        found = {name: settings for name in names if (settings := self._settings_of(name)).windows}
        for name in [name for name, settings in found.items() if self._may_rest(partition, name, settings)]:
            if name not in partition.dormant:
                partition.dormant.add(name)
                del found[name]
        for batch in batches(list(found)):
            logs = [logs_of(name, found[name]) for name in batch]
            answers = iter(self._broker.metadata([one for several in logs for one in several]))
            now = self._broker.time(partition.number)
            for name, several in zip(batch, logs, strict=True):
                events, *windows = [next(answers) for _ in several]
                if "created" not in events or self._stays_dormant(partition, name, found[name], events):
                    continue
                if not self._waits(partition, name, found[name], events):
                    self._open(partition, name, found[name], events, windows, now)

    def _waits(self, partition: Partition, name: str, settings: TopicSettings, events: Mapping[str, str]) -> bool:
        """Return whether a small topic that somebody asked for must wait, because too many are open; note if so."""
        most = self._rebuilt_entries
        small = may_rest(settings, most) and is_short(int(events.get("bytes", 0)), most)
        partition.waiting.discard(name)
        if not small or not partition.demand.wants(name):
            return False
        if self._room.topics_left:
            partition.by_demand.add(name)
            return False
        partition.waiting.add(name)
        if name not in partition.dormant:
            partition.dormant.add(name)
        return True

    def _may_rest(self, partition: Partition, name: str, settings: TopicSettings) -> bool:
        return not partition.demand.wants(name) and may_rest(settings, self._rebuilt_entries)

    def _stays_dormant(
        self, partition: Partition, name: str, settings: TopicSettings, events: Mapping[str, str]
    ) -> bool:
        rests = name in partition.dormant and self._may_rest(partition, name, settings)
        return rests and partition.dormant.is_small(name, int(events.get("bytes", 0)), self._rebuilt_entries)

    def recount(self, partition: Partition, name: str) -> Recount | None:
        """Return an engine that begins to count a topic again, as its log is now; None if the topic was deleted."""
        settings = self._settings_of(name)
        events, *windows = self._broker.metadata(logs_of(name, settings))
        if "created" not in events:
            return None
        now, key = self._broker.time(partition.number), (settings, name)
        engine = OwnedEngine(
            engine_name(key),
            self._new_engine(settings, self._begin_of(settings, now), self._room.cells_of(partition.number)),
        )
        return Recount(key, engine, self._opened(engine, name, settings, events, windows, now))

    def _open(
        self, partition: Partition, name: str, settings: TopicSettings, events: Mapping[str, str],
        windows: list[dict[str, str]], now: int,
    ) -> None:  # fmt: skip
        engine = self._engine_for(partition, engine_key(settings, name), now)
        partition.topics[name] = self._opened(engine, name, settings, events, windows, now)
        partition.dormant.discard(name)

    def _opened(
        self, engine: OwnedEngine, name: str, settings: TopicSettings, events: Mapping[str, str],
        windows: list[dict[str, str]], now: int,
    ) -> OwnedTopic:  # fmt: skip
        """Return a topic that an engine begins to count, from where in the log its windows begin."""
        after = int(events.get("first", 1)) - 1
        covered = self._begin_of(settings, now)
        if settings.clock == "wall" and _oldest_arrival(events) <= covered:
            needed = self._broker.seek_arrival(name, covered)
            if settings.largest_count_window:
                gaps = int(events.get("gaps", 0))  # offsets without an event
                needed = min(needed, int(events["last"]) - settings.largest_count_window - gaps)
            after = max(after, needed)
        counts = engine.engine.open(name, int(events["created"]))
        counts.offset = after
        counts.deleted = int(events.get("deleted", 0))
        topic = owned_topic(engine, counts, settings, events, windows, RecentLoad(now))
        topic.rebuilt_through = int(events["last"])
        return topic

    @staticmethod
    def _begin_of(settings: TopicSettings, now: int) -> int:
        """Return from which arrival (ms) on the windows cover a log at ``now``."""
        return now - settings.longest_window - _REPLAY_MARGIN

    # Engines

    def _engine_for(self, partition: Partition, key: EngineKey, now: int) -> OwnedEngine:
        if key not in partition.engines:
            settings, _ = key
            engine = self._new_engine(settings, self._begin_of(settings, now), self._room.cells_of(partition.number))
            partition.engines[key] = OwnedEngine(engine_name(key), engine)
        return partition.engines[key]

    def _new_engine(self, settings: TopicSettings, time: int, cells: CellLedger) -> TopicEngine:
        if settings.parts > 1:
            return ShardPool(settings, time, self._start_shard, cells=cells.limit)
        return LocalEngine(settings, time, pause=self._pause, cells=cells)

    def _restored_engine(self, settings: TopicSettings, data: bytes, cells: CellLedger) -> TopicEngine:
        if settings.parts > 1:
            return ShardPool.restore(settings, data, self._start_shard, cells=cells.limit)
        return LocalEngine.restore(settings, data, self._pause, cells)

    # Checkpoints

    def _restore_all(
        self, partition: Partition, headers: Mapping[str, Stored | None], engines: Mapping[str, EngineKey]
    ) -> None:
        """Restore engines from the checkpoints that ``headers`` names; ``engines`` are the keys by these names."""
        now = self._broker.time(partition.number)
        # The smallest first: if not all fit, one large engine is rebuilt from its logs, and not many small ones.
        for name, stored in sorted(headers.items(), key=lambda item: item[1].size if item[1] else 0):
            if name in engines and engines[name] in partition.engines:
                continue  # it was restored before Redis went away
            try:
                engine = self._restore(partition, name, stored, engines.get(name), now)
            except (InvalidState, NotStored) as error:
                metrics.UNUSABLE.inc()
                log.warning("partition %d: the checkpoint of engine %s is ignored: %s", partition.number, name, error)
                partition.stale.add(name)
                continue
            metrics.LOADED.inc()
            try:
                self._resume(partition, engines[name], engine)
            except BaseException:
                engine.engine.end()  # no partition has it yet
                raise

    def _restore(
        self, partition: Partition, name: str, stored: Stored | None, key: EngineKey | None, now: int
    ) -> OwnedEngine:
        """Return an engine in its saved state; raise NotStored or InvalidState if that is impossible or useless."""
        if partition.rebuild_from_log:
            raise NotStored("an engine failed, so all logs are read again")
        if stored is None:
            raise NotStored("its header is of another version")
        if key is None:
            raise NotStored("no topic has these settings any more")
        settings, _ = key
        cells = self._room.cells_of(partition.number)
        if stored.size > settings.parts * ENGINE_BYTES or not cells.free:
            raise NotStored("it is larger than this process has room for")
        if (
            settings.clock == "wall"
            and not settings.largest_count_window
            and stored.taken < now - settings.longest_window - _REPLAY_MARGIN
        ):
            raise NotStored("it is older than the longest window")
        engine = self._restored_engine(settings, self._broker.checkpoints.read(partition.number, name, stored), cells)
        return OwnedEngine(name, engine, stored, time.monotonic() - (now - stored.taken) / 1_000, stored.cost)

    def _resume(self, partition: Partition, key: EngineKey, engine: OwnedEngine) -> None:
        """Take over the topics of a restored engine whose logs continue; close the others, which begin anew."""
        settings, _ = key
        found: dict[str, OwnedTopic] = {}
        every = list(engine.engine.topics)
        for names in batches(every):
            logs = [logs_of(name, settings) for name in names]
            answers = iter(self._broker.metadata([one for several in logs for one in several]))
            for name, several in zip(names, logs, strict=True):
                events, *windows = [next(answers) for _ in several]
                counts = engine.engine.topics[name]
                same = self._settings_of(name) == settings and name not in partition.topics
                if same and _continues(counts, events):
                    load = RecentLoad(partition.now, previous=inf)
                    found[name] = owned_topic(engine, counts, settings, events, windows, load)
        for name in set(every) - set(found):
            engine.engine.close(name)
            engine.unsaved.forgot = True
        partition.topics.update(found)
        if found:
            partition.engines[key] = engine
        else:
            partition.stale.add(engine.name)


def batches(names: Sequence[str]) -> Iterator[Sequence[str]]:
    return (names[start : start + _METADATA_BATCH] for start in range(0, len(names), _METADATA_BATCH))


def _oldest_arrival(events: Mapping[str, str]) -> int:
    """Return the arrival (ms) of the oldest entry of a log; 0 if it is not known."""
    return int((events.get("oldest") or "0 0 0").split()[2])


def logs_of(name: str, settings: TopicSettings) -> list[Log]:
    return [Log(name), *(Log(name, window.name) for window in settings.windows)]


def _continues(counts: TopicCounts, events: Mapping[str, str]) -> bool:
    """Return whether the log is that of the same topic and has everything after the last counted event."""
    same = (int(events.get("created", 0)), int(events.get("deleted", 0))) == (counts.since, counts.deleted)
    return same and int(events.get("first", 1)) - 1 <= counts.offset <= int(events.get("last", 0))


def owned_topic(
    engine: OwnedEngine, counts: TopicCounts, settings: TopicSettings, events: Mapping[str, str],
    windows: list[dict[str, str]], load: RecentLoad,
) -> OwnedTopic:  # fmt: skip
    for window in settings.windows:
        engine.engine.suspend(counts.name, window.name)
    written = max(int(events.get("late_through", 0)), *(int(window.get("source", 0)) for window in windows))
    if counts.offset <= written:
        counts.reported_late = counts.late  # the owner that wrote the frames reported them
    return OwnedTopic(engine, counts, settings, written, load, late_total=int(events.get("late", 0)))
