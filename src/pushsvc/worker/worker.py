"""Drives the aggregation of the partitions that this process owns: reads logs, moves clocks, writes frames.

Reading a log and Redis's time happen in one script, so when everything is read the clock may follow that time: no
event that arrived before it is still unread.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence

import gevent
from gevent.event import Event

from pushsvc.aggregate.statistics_frame import Frame
from pushsvc.broker.broker import AppendedFrame, Broker, StatisticsWrite
from pushsvc.broker.keys import TAGS, Log
from pushsvc.broker.log import FrameKind, PartitionRead
from pushsvc.errors import Fenced, PushError, Unavailable
from pushsvc.event import Limits
from pushsvc.settings import TopicRules
from pushsvc.system_clock import now_ms
from pushsvc.worker import metrics
from pushsvc.worker.apply_entries import count_entries
from pushsvc.worker.checkpoints import Checkpoints
from pushsvc.worker.ingest import Ingest
from pushsvc.worker.leases import Leases
from pushsvc.worker.partition import Engine, Partition, Topic
from pushsvc.worker.retention import Sweeper
from pushsvc.worker.shards.pool import PartFailed, PartLost
from pushsvc.worker.takeover import Takeover

log = logging.getLogger(__name__)

_BASE_BYTES = 64_000
"""A snapshot follows the updates that outweigh the last one, but not for fewer bytes than these."""

_LOOK_ANYWAY = 5.0
_BREATH = 0.005
_PAUSE = 0.5


class AggregatorWorker:
    """An aggregator process. Several share the partitions evenly; ``run`` returns after ``stop``."""

    def __init__(self, broker: Broker, rules: TopicRules, limits: Limits | None = None) -> None:
        self._broker = broker
        self._rules = rules
        self._partitions: dict[int, Partition] = {}
        self._by_tag = {tag: partition for partition, tag in enumerate(TAGS)}
        self._wake = Event()
        self._stopping = False
        self._breath = Breath()
        self._takeover = Takeover(broker, rules, self._breath)
        self._checkpoints = Checkpoints(broker, self._now)
        self._leases = Leases(broker, self._adopt, self._drop)
        self._ingest = Ingest(broker, rules, self._leases.fence_of, limits)
        self._sweeper = Sweeper(broker, rules, self._leases.fences)
        self._live = broker.live_connection(self._hear, self._on_up)

    def stop(self) -> None:
        """Ask ``run`` to return; may be called from a signal handler."""
        self._stopping = True
        self._wake.set()

    def run(self) -> None:
        self._live.subscribe_pattern(f"{self._broker.keys.ingest}*")
        self._live.start()
        self._ingest.start()
        self._leases.start()
        self._sweeper.start()
        look_at = 0.0
        try:
            while not self._stopping:
                self._wake.clear()
                busy = self._step()
                self._checkpoints.look(self._partitions.values())
                # One turn of the loop for sockets and leases, even when there is always more to read.
                gevent.sleep(0)
                if not busy:
                    self._wake.wait(self._patience())
                if time.monotonic() > look_at:
                    # A wake-up that was lost costs no more than this.
                    look_at = time.monotonic() + _LOOK_ANYWAY
                    for partition in self._partitions.values():
                        partition.unread.update(partition.topics)
                        partition.loaded = False
            self._checkpoints.finish(list(self._partitions.values()))
        finally:
            self._live.close()
            self._ingest.close()
            self._sweeper.close()
            self._checkpoints.close()
            self._leases.close()  # last: nothing writes any more when another may take over

    # Owning

    def _adopt(self, number: int, fence: int) -> None:
        self._take_up(Partition(number, fence))

    def _take_up(self, partition: Partition) -> None:
        number = partition.number
        self._partitions[number] = partition
        self._live.subscribe(self._broker.keys.partition_channel(number))
        self._wake.set()

    def _restart(self, partition: Partition, *, distrusted: bool) -> None:
        """Forget what is known of a partition and begin anew, unless it was given away meanwhile."""
        partition.end()
        if self._partitions.get(partition.number) is partition:
            again = Partition(
                partition.number, partition.fence, distrusted, partition.uncountable, partition.singly
            )  # fmt: skip
            self._take_up(again)

    def _drop(self, number: int) -> None:
        partition = self._partitions.pop(number, None)
        if partition is not None:
            partition.end()
        self._live.unsubscribe(self._broker.keys.partition_channel(number))

    # Waking

    def _hear(self, channel: str, data: bytes) -> bool:
        if channel.startswith(self._broker.keys.ingest):
            self._ingest.offer(channel.removeprefix(self._broker.keys.ingest), data)
            return True
        tag = channel[channel.index("{") + 1 : channel.index("}")]
        partition = self._partitions.get(self._by_tag[tag])
        if partition is not None:
            if data:
                partition.unread.add(data.decode())
            else:
                partition.loaded = False  # subscribed only now: topics may have come unheard
            self._wake.set()
        return True

    def _on_up(self, partitions: Sequence[int]) -> None:
        for number in partitions:
            if (partition := self._partitions.get(number)) is not None:
                partition.unread.update(partition.topics)
                partition.loaded = False
        self._wake.set()

    @staticmethod
    def _now(partition: Partition) -> int:
        """Return the time in ms of a partition's primary, as far as it is known here."""
        return now_ms() + partition.skew

    def _patience(self) -> float:
        """Return the seconds until some topic has something to say, or until a look is due anyway."""
        waits = [self._patience_with(partition) for partition in self._partitions.values()]
        return min(_LOOK_ANYWAY, max(0.001, min(waits, default=_LOOK_ANYWAY)))

    def _patience_with(self, partition: Partition) -> float:
        rests = partition.again_at - time.monotonic()
        if rests > 0:
            return rests
        wakes = [wake for engine in partition.engines.values() if (wake := engine.aggregate.wake_at()) is not None]
        return (min(wakes) - self._now(partition)) / 1000 if wakes else _LOOK_ANYWAY

    # Aggregating

    def _step(self) -> bool:
        """Bring every partition up to date; return whether any has more to read."""
        busy = False
        for partition in list(self._partitions.values()):
            if partition.again_at > time.monotonic():
                continue
            try:
                busy |= self._bring_up(partition)
            except Fenced:
                log.warning("partition %d: another aggregator owns it", partition.number)
                self._leases.forget(partition.number)
            except Unavailable as error:
                if not partition.away:
                    log.warning("partition %d: %s", partition.number, error)
                partition.away = True
                partition.again_at = time.monotonic() + _PAUSE  # others may be at another primary
            except PartLost as error:
                self._part_lost(partition, error)
            except Exception as error:
                if isinstance(error, PartFailed):
                    partition.uncountable.add(error.place)
                # One entry that cannot be counted must not end the others; the partition begins anew.
                log.exception("partition %d", partition.number)
                self._restart(partition, distrusted=True)
                gevent.sleep(_PAUSE)
            if partition.ended:
                partition.end()  # again: what was begun while it was given away
        return busy

    def _part_lost(self, partition: Partition, error: PartLost) -> None:
        """Begin a partition anew from its checkpoints, unless it was given away, which ends the parts too."""
        if not partition.ended:
            metrics.PARTS_LOST.inc()
            log.warning("partition %d: begun anew: %s", partition.number, error)
            self._restart(partition, distrusted=False)
            gevent.sleep(_PAUSE)

    def _bring_up(self, partition: Partition) -> bool:
        if not partition.loaded:
            self._takeover.load(partition)
        names = self._unread(partition)
        if not names and not self._ticks(partition):
            return False
        try:
            return self._read_and_write(partition, names)
        except PushError:
            partition.unread.update(names)  # whatever was under way is looked at again
            raise

    def _unread(self, partition: Partition) -> list[str]:
        """Return the topics of which there is something to read, new ones taken up."""
        heard, partition.unread = partition.unread, set()
        for name in heard - set(partition.topics):
            self._takeover.begin(partition, name)  # who is heard of meanwhile is unread again
        return sorted(heard & set(partition.topics))

    def _ticks(self, partition: Partition) -> bool:
        """Tell whether some engine has something to say."""
        now = self._now(partition)
        wakes = [engine.aggregate.wake_at() for engine in partition.engines.values()]
        return any(wake is not None and wake <= now for wake in wakes)

    def _read_and_write(self, partition: Partition, names: list[str]) -> bool:
        read = self._broker.read(partition.number, {Log(name): partition.topics[name].after for name in names})
        partition.away = False
        partition.skew = read.now - now_ms()
        if read.epoch != partition.epoch:
            # Another life of Redis: what is remembered here may be ahead of what it kept.
            self._restart(partition, distrusted=False)
            return True
        lagging = self._count_all(partition, names, read)
        partition.unread |= lagging
        partition.singly = partition.singly and bool(lagging)
        # Who lags says so with every frame, exact for its offset, rather than fall silent.
        self._write(partition, names, read.now)
        return bool(lagging)

    def _count_all(self, partition: Partition, names: list[str], read: PartitionRead) -> set[str]:
        """Count what a read brought, in the order of arrival; return the topics that have more."""
        present = [name for name in names if self._is_same(partition, name, read)]
        lagging: set[str] = set()
        for engine in partition.engines.values():
            own = [name for name in present if partition.topics[name].engine is engine]
            with engine.working():
                behind = count_entries(partition, engine, own, read, self._breath)
                if not behind:
                    engine.aggregate.advance(read.now)
            lagging |= behind
        for name in set(present) - lagging:
            # Redis may have lost events of which it kept the statistics: there is nothing more to be silent through.
            topic = partition.topics[name]
            topic.silent_through = min(topic.silent_through, topic.after)
        return lagging

    def _is_same(self, partition: Partition, name: str, read: PartitionRead) -> bool:
        """Tell whether a topic is the one that was begun; if it was deleted, forget it."""
        logged = read.logs[Log(name)]
        if logged.created and logged.deleted == partition.topics[name].counted.deleted:
            return True
        partition.forget(name)
        if logged.created:
            partition.unread.add(name)  # begun anew since
            self._wake.set()
        return False

    # Writing

    def _write(self, partition: Partition, names: Iterable[str], now: int) -> None:
        writes = self._announcements(partition, names, now)
        for engine in partition.engines.values():
            for frame in self._due(engine, now):
                topic = partition.topics[frame.topic]
                if topic.announced:  # else a snapshot will say it all
                    writes += self._writes_of(topic, frame, now)
        writes = self._with_late(partition, writes)
        if not writes:
            return
        try:
            answers = self._broker.append_statistics(writes, partition.fence)
        except PushError:
            for write in writes:  # what was said in them is not said again: a snapshot says it all
                partition.topics[write.log.topic].announced = False
                partition.unread.add(write.log.topic)
            raise
        for write, answer in zip(writes, answers, strict=True):
            self._settle(partition, write, answer)

    @staticmethod
    def _due(engine: Engine, now: int) -> list[Frame]:
        with engine.working():
            return engine.aggregate.due(now)

    def _announcements(self, partition: Partition, names: Iterable[str], now: int) -> list[StatisticsWrite]:
        """Return the first snapshots of topics that have passed what was told before."""
        writes = []
        for name in names:
            topic = partition.topics.get(name)
            if topic is not None and not topic.announced and topic.after >= topic.silent_through:
                topic.announced = True
                frames = [topic.aggregate.snapshot(name, window.name) for window in topic.settings.windows]
                writes += [self._as_write(topic, frame, now) for frame in frames]
        return writes

    def _writes_of(self, topic: Topic, frame: Frame, now: int) -> list[StatisticsWrite]:
        """Return an update, and the snapshot that follows when the updates behind the last one outweigh it."""
        writes = [self._as_write(topic, frame, now)]
        outweighed = topic.weight[frame.window] / max(_BASE_BYTES, 2 * topic.base.get(frame.window, 0))
        # A row just said to be zero is still to be said gone, which a snapshot would make the engine forget. So a
        # silent one waits for a frame without; if none comes in time, everybody gets a snapshot.
        if outweighed > (4 if frame.ending else 1):
            snapshot = topic.aggregate.snapshot(frame.topic, frame.window)
            writes.append(self._as_write(topic, snapshot, now, base=not frame.ending))
        return writes

    @staticmethod
    def _with_late(partition: Partition, writes: list[StatisticsWrite]) -> list[StatisticsWrite]:
        """Let the first write of each topic tell how many events came late since it was last told."""
        told: set[str] = set()
        found = []
        for write in writes:
            topic = partition.topics[write.log.topic]
            late = 0 if write.log.topic in told else topic.counted.late - topic.counted.told_late
            told.add(write.log.topic)
            found.append(StatisticsWrite(write.log, write.kind, write.source, write.frame, late) if late else write)
        return found

    @staticmethod
    def _as_write(topic: Topic, frame: Frame, now: int, *, base: bool = False) -> StatisticsWrite:
        data = frame.to_json(now)
        if frame.kind == "snapshot":
            topic.weight[frame.window], topic.base[frame.window] = 0, len(data)
        else:
            topic.weight[frame.window] = topic.weight.get(frame.window, 0) + len(data)
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
            topic.counted.told_late += write.late
            topic.aggregate.watch(name, window, answer.receivers > 0)
        elif answer is None:
            partition.forget(name)
        elif isinstance(answer, Fenced):
            raise answer
        else:
            # Not written, or not known to be: subscribers get one snapshot in its place.
            log.warning("%s: %s", write.log.name, answer)
            topic.announced = False
            partition.unread.add(name)


class Breath:
    """Lets sockets and leases have their turn when an engine has worked for a while."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self) -> None:
        if time.monotonic() - self._last >= _BREATH:
            hub = gevent.get_hub()
            hub.wait(hub.loop.timer(0))  # gevent.sleep(0) would come back before any socket is looked at
            self._last = time.monotonic()
