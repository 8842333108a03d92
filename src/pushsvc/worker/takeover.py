"""How an owner of a partition begins: with the checkpoints of who owned it before, and else with the log."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

from pushsvc.aggregate.aggregate import Aggregate
from pushsvc.aggregate.row_updates import Topic as Counted
from pushsvc.broker.broker import Broker
from pushsvc.broker.checkpoints import NotStored, Stored
from pushsvc.broker.keys import Log
from pushsvc.event.columns import ColumnReader
from pushsvc.settings import FUTURE_ALLOWANCE, TopicRules, TopicSettings
from pushsvc.stats.serialize import InvalidState
from pushsvc.worker import metrics
from pushsvc.worker.partition import Engine, EngineKey, Partition, Topic, engine_key, engine_name
from pushsvc.worker.shards.pool import Split

log = logging.getLogger(__name__)

_REPLAYED = 2 * FUTURE_ALLOWANCE
_AT_ONCE = 500
"""Topics whose figures are asked for in one round trip."""

Figures = Mapping[str, str]


class Takeover:
    """Takes up partitions and their topics. ``pause`` is called every few milliseconds of work."""

    def __init__(self, broker: Broker, rules: TopicRules, pause: Callable[[], None]) -> None:
        self._broker = broker
        self._rules = rules
        self._pause = pause

    def load(self, partition: Partition) -> None:
        """Note all topics of a partition as unread. The first time, go on from its checkpoints."""
        names = self._broker.topics_of(partition.number)
        if partition.epoch is None:
            epoch, headers = self._broker.checkpoints.headers(partition.number)
            self._restore_all(partition, headers, self._engines_of(names))
            partition.epoch = epoch
        partition.unread.update(names)
        partition.loaded = True

    def begin(self, partition: Partition, name: str) -> None:
        """Take up a topic that no checkpoint has: its windows are made from the part of the log that they may cover."""
        settings = self._rules.settings_of(name)
        events, *windows = self._broker.metadata(_logs_of(name, settings))
        if "created" not in events:
            return
        now = self._broker.time(partition.number)
        after = int(events.get("first", 1)) - 1
        if settings.clock == "wall":
            needed = self._broker.seek_arrival(name, now - settings.longest_window - _REPLAYED)
            if settings.largest_count_window:
                needed = min(needed, int(events["last"]) - settings.largest_count_window)
            after = max(after, needed)
        engine = self._engine_for(partition, engine_key(settings, name), now)
        counted = engine.aggregate.open(name, int(events["created"]))
        counted.offset = after
        counted.deleted = int(events.get("deleted", 0))
        partition.topics[name] = _topic_of(engine, counted, settings, windows)

    def _engine_for(self, partition: Partition, key: EngineKey, now: int) -> Engine:
        if key not in partition.engines:
            settings, _ = key
            begun = now - settings.longest_window - _REPLAYED
            aggregate = Split(settings, begun) if settings.parts > 1 else Aggregate(settings, begun, pause=self._pause)
            partition.engines[key] = Engine(engine_name(key), aggregate)
        return partition.engines[key]

    # Checkpoints

    def _engines_of(self, names: Mapping[str, int]) -> dict[str, EngineKey]:
        """Return the engines that topics belong to, by the names of their checkpoints."""
        keys = {engine_key(self._rules.settings_of(name), name) for name in names}
        return {engine_name(key): key for key in keys}

    def _restore_all(
        self, partition: Partition, headers: Mapping[str, Stored | None], engines: Mapping[str, EngineKey]
    ) -> None:
        now = self._broker.time(partition.number)
        for name, stored in headers.items():
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
            self._go_on(partition, engines[name], engine)

    def _restore(
        self, partition: Partition, name: str, stored: Stored | None, key: EngineKey | None, now: int
    ) -> Engine:
        """Return an engine as it was; raise NotStored or InvalidState where that would be of no use."""
        if partition.distrusted:
            raise NotStored("counting failed, so everything is read again")
        if stored is None:
            raise NotStored("its header is of another version")
        if key is None:
            raise NotStored("no topic has these settings any more")
        settings, _ = key
        if (
            settings.clock == "wall"
            and not settings.largest_count_window
            and stored.taken < now - settings.longest_window - _REPLAYED
        ):
            raise NotStored("it is older than the longest window")
        data = self._broker.checkpoints.read(partition.number, name, stored)
        aggregate = (
            Split.restore(settings, data) if settings.parts > 1 else Aggregate.restore(settings, data, self._pause)
        )
        return Engine(name, aggregate, stored, time.monotonic() - (now - stored.taken) / 1_000, stored.cost)

    def _go_on(self, partition: Partition, key: EngineKey, engine: Engine) -> None:
        """Take up the topics of a restored engine; those that the log does not continue begin anew."""
        settings, _ = key
        found: dict[str, Topic] = {}
        every = list(engine.aggregate.topics)
        for start in range(0, len(every), _AT_ONCE):
            names = every[start : start + _AT_ONCE]
            logs = [_logs_of(name, settings) for name in names]
            answers = iter(self._broker.metadata([one for several in logs for one in several]))
            for name, several in zip(names, logs, strict=True):
                events, *windows = [next(answers) for _ in several]
                counted = engine.aggregate.topics[name]
                if self._rules.settings_of(name) == settings and _continues(counted, events):
                    found[name] = _topic_of(engine, counted, settings, windows)
        for name in set(engine.aggregate.topics) - set(found):
            engine.aggregate.close(name)
            engine.unsaved.forgot = True
        partition.topics.update(found)
        if found:
            partition.engines[key] = engine
        else:
            partition.stale.add(engine.name)


def _logs_of(name: str, settings: TopicSettings) -> list[Log]:
    return [Log(name), *(Log(name, window.name) for window in settings.windows)]


def _continues(counted: Counted, events: Figures) -> bool:
    """Tell whether the log is that of the same topic and has all that comes behind what was counted."""
    same = (int(events.get("created", 0)), int(events.get("deleted", 0))) == (counted.since, counted.deleted)
    return same and int(events.get("first", 1)) - 1 <= counted.offset <= int(events.get("last", 0))


def _topic_of(engine: Engine, counted: Counted, settings: TopicSettings, windows: list[dict[str, str]]) -> Topic:
    written = max(int(window.get("source", 0)) for window in windows)
    if counted.offset <= written:
        counted.told_late = counted.late  # by whoever wrote the frames
    return Topic(engine, counted, settings, written, ColumnReader(settings.key, settings.values))
