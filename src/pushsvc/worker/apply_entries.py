"""Counts what was read of the logs of topics: entry by entry, or several as one where nobody can tell."""

from __future__ import annotations

from collections.abc import Callable

from pushsvc.broker.keys import Log
from pushsvc.broker.log import EventsEntry, PartitionRead
from pushsvc.system_clock import now_ms
from pushsvc.worker import metrics
from pushsvc.worker.partition import Engine, Partition, Topic
from pushsvc.worker.shards.pool import PartLost


def count_entries(
    partition: Partition, engine: Engine, names: list[str], read: PartitionRead, breath: Callable[[], None]
) -> set[str]:
    """Count what a read brought of topics of one engine; return those that have more.

    The engine goes with the arrival of what it counts. So nothing is counted that arrived behind what is still
    unread of another topic: it would make that one late for our own lag. It is read again with the next turn.
    """
    logs = {name: read.logs[Log(name)] for name in names}
    lagging = {name for name, logged in logs.items() if logged.more}
    horizon = min((logs[name].entries[-1].arrival for name in lagging), default=read.now)
    entries = [(name, entry) for name, logged in logs.items() for entry in logged.entries]
    entries.sort(key=lambda item: item[1].arrival)
    lagging.update(name for name, entry in entries if entry.arrival > horizon)
    for name, run in partition.runs(engine, [item for item in entries if item[1].arrival <= horizon]):
        _count(partition, partition.topics[name], run)
        breath()  # a log that is read again may take longer than a lease
    return lagging


def _count(partition: Partition, topic: Topic, run: list[EventsEntry]) -> None:
    """Count entries that came one after the other, as one if that can be."""
    if len(run) == 1 or not _count_together(partition, topic, run):
        for entry in run:
            _count_one(partition, topic, entry)
    topic.engine.unsaved.entries += len(run)
    if run[-1].last <= topic.silent_through:
        topic.counted.told_late = topic.counted.late  # by whoever wrote the frames
    metrics.ENTRIES.inc(len(run))
    metrics.LAG.set(max(0, now_ms() - run[-1].arrival))


def _count_together(partition: Partition, topic: Topic, run: list[EventsEntry]) -> bool:
    if any((topic.counted.name, entry.last) in partition.uncountable for entry in run):
        return False
    with metrics.added(topic.counted):
        try:
            done = topic.count_together(run)
        except Exception:
            partition.singly = True  # the next time, to find the one that is to blame
            raise
    if done:
        metrics.COUNTED.inc(run[-1].last - run[0].first + 1)
    return done


def _count_one(partition: Partition, topic: Topic, entry: EventsEntry) -> None:
    place = (topic.counted.name, entry.last)
    with metrics.added(topic.counted):
        try:
            count = topic.count(entry, countable=place not in partition.uncountable)
        except PartLost:
            raise  # the entry is not to blame
        except Exception:
            # What is half counted is forgotten with the engine. The next one leaves this entry out, or an entry
            # would end the statistics of all topics beside its own.
            partition.uncountable.add(place)
            partition.singly = False
            raise
    metrics.COUNTED.inc(count)
