"""Applies the entries that a read returned to an engine, in the order of their arrival."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from pushsvc.broker.keys import Log
from pushsvc.broker.log import EventsEntry, PartitionRead
from pushsvc.system_clock import now_ms
from pushsvc.worker import metrics
from pushsvc.worker.partition import OwnedEngine, OwnedTopic, Partition


class EntryApplier:
    """Applies entries in runs of at most ``run_bytes``; calls ``yield_to_loop`` between two runs."""

    def __init__(self, run_bytes: int, yield_to_loop: Callable[[], None]) -> None:
        self._run_bytes = run_bytes
        self._yield_to_loop = yield_to_loop

    def apply_read(self, partition: Partition, names: Iterable[str], read: PartitionRead) -> set[str]:
        """Apply the entries of a read; return the topics that have more. Raise EntryFailed, ShardLost."""
        present = [name for name in names if self._is_same(partition, name, read)]
        lagging: set[str] = set()
        for engine in partition.engines.values():
            own = [name for name in present if partition.topics[name].engine is engine]
            with engine.working():
                behind = self.apply(partition, engine, own, read)
                if not behind:
                    engine.engine.advance(read.now)
            lagging |= behind
        for name in set(present) - lagging:
            # Redis may have lost events but kept their statistics: the rest of the silence would never be passed.
            topic = partition.topics[name]
            topic.silent_through = min(topic.silent_through, topic.counts.offset)
        return lagging

    @staticmethod
    def _is_same(partition: Partition, name: str, read: PartitionRead) -> bool:
        """Return whether a topic was not deleted since it was opened; forget it if it was."""
        found = read.logs[Log(name)]
        if found.created and found.deleted == partition.topics[name].counts.deleted:
            return True
        partition.forget(name)
        if found.created:
            partition.unread.add(name)  # it was created again
            partition.hurried = True
        return False

    def apply(self, partition: Partition, engine: OwnedEngine, names: Iterable[str], read: PartitionRead) -> set[str]:
        """Apply the entries of topics of one engine; return the topics that have more. Raise EntryFailed, ShardLost.

        The engine's clock follows the arrivals. An entry that arrived after an unread entry of another topic waits for
        the next read: if it were applied now, our own lag would make the unread entry late.
        """
        logs = {name: read.logs[Log(name)] for name in names}
        lagging = {name for name, log in logs.items() if log.more}
        horizon = min((logs[name].entries[-1].arrival for name in lagging), default=read.now)
        entries = [(name, entry) for name, log in logs.items() for entry in log.entries]
        entries.sort(key=lambda item: item[1].arrival)
        lagging.update(name for name, entry in entries if entry.arrival > horizon)
        for name, run in self._runs(partition, engine, [item for item in entries if item[1].arrival <= horizon]):
            self._apply_run(partition, partition.topics[name], run)
            self._yield_to_loop()  # replaying a log may take longer than a lease
        return lagging

    def apply_again(self, partition: Partition, topic: OwnedTopic, entries: Sequence[EventsEntry]) -> None:
        """Apply entries that were counted before to another engine. Raise EntryFailed, ShardLost."""
        engine, name = topic.engine, topic.counts.name
        at = 0
        while at < len(entries):
            until = engine.engine.reach(entries[at].arrival)
            end = at + 1
            while end < len(entries) and entries[end].arrival <= until:
                end += 1
            for run in self._bounded(0, entries[at:end]):
                engine.engine.apply_entries(name, partition.poison.emptied(name, run), reported=True)
                if any(entry.correction is not None and entry.last > topic.rebuilt_through for entry in run):
                    engine.corrected.add(name)
                self._yield_to_loop()
            at = end

    @staticmethod
    def _apply_run(partition: Partition, topic: OwnedTopic, run: Sequence[EventsEntry]) -> None:
        name, engine = topic.counts.name, topic.engine
        with metrics.added(topic.counts):
            applied = engine.engine.apply_entries(
                name, partition.poison.emptied(name, run), reported=run[-1].last <= topic.silent_through
            )
        metrics.COUNTED.inc(applied)
        topic.sequence = run[-1].sequence
        # Whatever was read from the log since the windows began to be built has the current forms of then.
        if any(entry.correction is not None and entry.last > topic.rebuilt_through for entry in run):
            engine.corrected.add(name)
        topic.load.add([entry.data for entry in run])
        engine.unsaved.entries += len(run)
        metrics.ENTRIES.inc(len(run))
        if run[-1].last > topic.rebuilt_through:
            metrics.LAG.set(max(0, now_ms() - run[-1].arrival))

    def _runs(
        self, partition: Partition, engine: OwnedEngine, entries: Sequence[tuple[str, EventsEntry]]
    ) -> Iterator[tuple[str, list[EventsEntry]]]:
        """Yield entries, which are in the order of arrival, as runs of one topic between which no clock moves."""
        if partition.poison.isolating:
            yield from ((name, [entry]) for name, entry in entries)
            return
        at = 0
        while at < len(entries):
            until = engine.engine.reach(entries[at][1].arrival)
            by_topic: dict[str, list[EventsEntry]] = {}
            while at < len(entries) and entries[at][1].arrival <= until:
                name, entry = entries[at]
                by_topic.setdefault(name, []).append(entry)
                at += 1
            for name, own in by_topic.items():
                for run in self._bounded(partition.topics[name].silent_through, own):
                    yield name, run

    def _bounded(self, silent_through: int, entries: Iterable[EventsEntry]) -> Iterator[list[EventsEntry]]:
        """Cut a run where it grows large, and after the last entry that a predecessor reported."""
        run: list[EventsEntry] = []
        size = 0
        for entry in entries:
            silent = entry.last <= silent_through
            if run and (size + len(entry.data) > self._run_bytes or silent != (run[-1].last <= silent_through)):
                yield run
                run, size = [], 0
            run.append(entry)
            size += len(entry.data)
        yield run
