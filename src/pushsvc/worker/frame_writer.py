"""Writes the frames of a partition's engines to the statistics logs: those of the windows that somebody reads."""

import logging
from collections.abc import Iterable

from pushsvc.aggregate.statistics_frame import Frame
from pushsvc.broker.broker import AppendedFrame, Broker, StatisticsWrite
from pushsvc.broker.keys import Log
from pushsvc.broker.log import FrameKind
from pushsvc.errors import Fenced, PushError
from pushsvc.worker import metrics
from pushsvc.worker.partition import OwnedTopic, Partition

log = logging.getLogger(__name__)

# A snapshot follows when the updates since the last one outweigh it, and are more bytes than these.
_LEAST_SNAPSHOT_BYTES = 64_000


class FrameWriter:
    """Appends frames with the fencing token of their partition."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def write(self, partition: Partition, names: Iterable[str], now: int) -> None:
        """Write what is due at ``now`` (ms), and of the named topics the first snapshots of wanted windows and the
        late events."""
        touched = {name: topic for name in names if (topic := partition.topics.get(name)) is not None}
        fresh = {name: windows for name, topic in touched.items() if (windows := self._resume(partition, topic))}
        writes: list[StatisticsWrite] = []
        for engine in partition.engines.values():
            with engine.working():
                frames = engine.engine.due(now, fresh)
            for frame in frames:
                topic = partition.topics[frame.topic]
                if frame.kind == "snapshot":
                    fresh[frame.topic].discard(frame.window)
                    writes.append(self._as_write(topic, frame, now))
                else:
                    writes += self._writes_of(topic, frame, now)
        for name, windows in fresh.items():  # no event has changed them
            topic = partition.topics[name]
            writes += [self._as_write(topic, topic.engine.engine.snapshot(name, window), now) for window in windows]
        writes = self._with_late(partition, writes)
        if not writes:
            self._report_late(partition, touched)
            return
        try:
            answers = self._broker.append_statistics(writes, partition.fence)
        except PushError:
            for write in writes:
                self._write_snapshot_next(partition, write)
            raise
        for write, answer in zip(writes, answers, strict=True):
            self._settle(partition, write, answer)
        self._report_late(partition, touched)

    @staticmethod
    def _resume(partition: Partition, topic: OwnedTopic) -> set[str]:
        """Return the wanted windows of a topic without a snapshot of this process. They are reported from now on, once
        the frames of a predecessor are passed."""
        if topic.counts.offset < topic.silent_through:
            return set()
        name = topic.counts.name
        found = partition.demand.windows(name, topic.settings) - topic.reported
        for window in found:
            topic.engine.engine.resume(name, window)
        topic.reported |= found
        return found

    @staticmethod
    def suspend(partition: Partition, topic: OwnedTopic) -> None:
        """Write no more frames of the windows of a topic that nobody wants."""
        name = topic.counts.name
        for window in topic.reported.difference(partition.demand.windows(name, topic.settings)):
            topic.engine.engine.suspend(name, window)
            topic.reported.discard(window)
            partition.note_watched(name, window, watched=False)

    def _writes_of(self, topic: OwnedTopic, frame: Frame, now: int) -> list[StatisticsWrite]:
        """Return an update, and the snapshot that follows when the updates outweigh the last one."""
        writes = [self._as_write(topic, frame, now)]
        least = max(_LEAST_SNAPSHOT_BYTES, 2 * topic.snapshot_bytes.get(frame.window, 0))
        outweighed = topic.update_bytes[frame.window] / least
        # A row that this update reports as zero must still be reported as gone. A snapshot makes the engine forget the
        # row, so one that subscribers do not get is deferred; after too long, all subscribers get a snapshot instead.
        if outweighed > (4 if frame.ending else 1):
            snapshot = topic.engine.engine.snapshot(frame.topic, frame.window)
            writes.append(self._as_write(topic, snapshot, now, base=not frame.ending))
        return writes

    @staticmethod
    def _with_late(partition: Partition, writes: list[StatisticsWrite]) -> list[StatisticsWrite]:
        """Add to the first write of each topic the late events that are not yet in its metadata."""
        reported: set[str] = set()
        found = []
        for write in writes:
            name = write.log.topic
            topic = partition.topics[name]
            if topic.unreported_late > 0 and name not in reported:
                total = topic.late_total + topic.unreported_late
                found.append(StatisticsWrite(write.log, write.kind, write.source, write.frame, total))
            else:
                found.append(write)
            reported.add(name)
        return found

    def _report_late(self, partition: Partition, topics: dict[str, OwnedTopic]) -> None:
        """Write the late events of topics that had no frame to go with."""
        late = {
            name: (topic.late_total + topic.unreported_late, topic.counts.offset)
            for name, topic in topics.items()
            if topic.unreported_late > 0 and topic.counts.offset >= topic.silent_through
        }
        if late:
            self._broker.report_late(partition.number, partition.fence, late)
            for name, (total, _) in late.items():
                topics[name].note_late_reported(total)

    @staticmethod
    def _as_write(topic: OwnedTopic, frame: Frame, now: int, *, base: bool = False) -> StatisticsWrite:
        data = frame.to_json(now, pending=frame.topic in topic.engine.corrected)
        if frame.kind == "snapshot":
            topic.update_bytes[frame.window], topic.snapshot_bytes[frame.window] = 0, len(data)
        else:
            topic.update_bytes[frame.window] = topic.update_bytes.get(frame.window, 0) + len(data)
        snapshot = FrameKind.BASELINE if base else FrameKind.SNAPSHOT
        kind = FrameKind.UPDATE if frame.kind == "update" else snapshot
        return StatisticsWrite(Log(frame.topic, frame.window), kind, frame.offset, data)

    def _settle(self, partition: Partition, write: StatisticsWrite, answer: AppendedFrame | PushError | None) -> None:
        name, window = write.log.topic, write.log.window or ""
        topic = partition.topics.get(name)
        if topic is None:
            return
        if isinstance(answer, AppendedFrame):
            metrics.FRAMES.labels(kind=write.kind).inc()
            if write.late:
                topic.note_late_reported(write.late)
            topic.engine.engine.watch(name, window, answer.receivers > 0)
            partition.note_watched(name, window, answer.receivers > 0)
        elif answer is None:
            partition.forget(name)  # it was deleted
        elif isinstance(answer, Fenced):
            raise answer
        else:
            log.warning("%s: %s", write.log.name, answer)
            self._write_snapshot_next(partition, write)

    @staticmethod
    def _write_snapshot_next(partition: Partition, write: StatisticsWrite) -> None:
        """Replace a frame that may not be written by a snapshot: the engine does not repeat an update."""
        if (topic := partition.topics.get(write.log.topic)) is not None:
            topic.reported.discard(write.log.window or "")
            partition.unread.add(write.log.topic)
