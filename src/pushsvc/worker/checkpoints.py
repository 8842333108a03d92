"""Writes checkpoints of engines when they are worth their cost.

A checkpoint is worth while if repeating the counting since the last one would cost much more than writing it. So
checkpoints take a bounded share of the CPU that counting takes, and a successor repeats a bounded amount of counting.
"""

import logging
import time
from collections.abc import Callable, Iterable
from math import inf
from zlib import crc32

import gevent

from pushsvc.broker.checkpoints import CheckpointStore, Owner, Stored, pieces_of
from pushsvc.errors import Fenced, PushError
from pushsvc.worker import metrics
from pushsvc.worker.engine import EntryFailed, ShardLost
from pushsvc.worker.partition import OwnedEngine, Partition, Unsaved
from pushsvc.worker.policy import CheckpointPolicy

log = logging.getLogger(__name__)


class Checkpointer:
    """Writes the checkpoints of a process, one at a time. No engine may be applying entries during a call.

    ``on_engine_failure(partition, error)`` takes ShardLost and EntryFailed, which an engine may raise as it is saved.
    ``measured``: the metrics of checkpoints are those of this object.
    """

    def __init__(
        self, store: CheckpointStore, policy: CheckpointPolicy,
        on_engine_failure: Callable[[Partition, Exception], None], *, measured: bool = True,
    ) -> None:  # fmt: skip
        self._store = store
        self._policy = policy
        self._on_engine_failure = on_engine_failure
        self._measured = measured
        self._rest_until = 0.0
        self._turn = 0
        self._writing: gevent.Greenlet[..., None] | None = None

    def close(self) -> None:
        if self._writing is not None:
            self._writing.kill()

    def poll(self, partitions: Iterable[Partition]) -> None:
        """Take a checkpoint of the engine that most needs one, or discard those of engines that no longer exist."""
        now = time.monotonic()
        if now < self._rest_until or not self.wait(0.0):
            return
        self._rest_until = now + self._policy.poll_interval
        known = _known(partitions)
        engines = [engine for partition, _ in known for engine in partition.engines.values()]
        if self._measured:
            metrics.AGE.set(max((now - engine.taken for engine in engines if engine.unsaved.entries), default=0.0))
            metrics.SIZE.set(sum(engine.stored.size for engine in engines if engine.stored))
        stale = [pair for pair in known if pair[0].stale]
        due = [(*pair, engine) for pair in known for engine in pair[0].engines.values() if self.is_due(engine, now)]
        self._turn += 1  # in turns: a partition whose primary is away must not keep the others waiting
        if stale and (not due or self._turn % 2):
            self._writing = gevent.spawn(self._discard, *stale[self._turn // 2 % len(stale)])
        elif due:
            partition, owner, engine = max(due, key=lambda one: (self._is_late(one[2], now), one[2].unsaved.spent))
            try:
                self._take(partition, owner, engine)
            except (ShardLost, EntryFailed) as error:
                self._on_engine_failure(partition, error)

    def finish(self, partitions: Iterable[Partition]) -> None:
        """Write the last checkpoints of an orderly end, if a successor would repeat more work than writing takes.

        An engine whose checkpoint is not written in time keeps the one before.
        """
        until = time.monotonic() + self._policy.last
        every = [(*pair, engine) for pair in _known(partitions) for engine in pair[0].engines.values()]
        every = [one for one in every if not one[2].corrected]
        least = self._worth if self._policy.latest == inf else lambda _cost: 0.0
        worth = [one for one in every if one[2].unsaved.entries and one[2].unsaved.spent >= least(one[2].cost)]
        failed: list[tuple[Partition, Exception]] = []
        for one in sorted(worth, key=lambda one: one[2].unsaved.spent, reverse=True):
            if not self.wait(until - time.monotonic()):
                break
            if time.monotonic() + self._seconds(one[2]) < until:
                try:
                    self._take(*one)
                except (ShardLost, EntryFailed) as error:
                    failed.append((one[0], error))
        self.wait(until - time.monotonic())
        for partition, failure in failed:  # last: it discards the unwritten states of the partition's other engines
            self._on_engine_failure(partition, failure)

    def wait(self, seconds: float) -> bool:
        """Wait for the checkpoint that is being written; return whether none is left."""
        if self._writing is not None and seconds > 0:
            self._writing.join(seconds)
        return self._writing is None or self._writing.ready()

    def is_due(self, engine: OwnedEngine, now: float) -> bool:
        """Return whether an engine needs a checkpoint at ``now`` (monotonic, s)."""
        unsaved = engine.unsaved
        worth = unsaved.entries > 0 and unsaved.spent >= self._worth(engine.cost / self._policy.share)
        forgotten = unsaved.forgot and engine.stored is not None
        # A successor would not learn of a correction that was read: it reads the log after the checkpoint.
        worth |= self._is_late(engine, now)
        return (worth or forgotten) and now - engine.taken >= self._policy.interval and not engine.corrected

    def _is_late(self, engine: OwnedEngine, now: float) -> bool:
        return engine.unsaved.entries > 0 and now - engine.taken >= self._policy.latest

    def _worth(self, cost: float) -> float:
        return max(self._policy.worth, cost)

    def _seconds(self, engine: OwnedEngine) -> float:
        """Return about the seconds that a checkpoint takes, from those of the last one."""
        return engine.cost + (engine.stored.size / self._policy.burst if engine.stored else 0.0)

    def _take(self, partition: Partition, owner: Owner, engine: OwnedEngine) -> None:
        begun, engine.taken = time.thread_time(), time.monotonic()
        try:
            parts = engine.engine.save()
        except (ShardLost, EntryFailed):
            raise
        except Exception:
            # An engine whose state cannot be saved goes on counting.
            metrics.UNWRITTEN.inc()
            log.exception("partition %d: no checkpoint was taken", owner.partition)
            return
        # Writing costs about as much as taking.
        engine.cost = 2 * (time.thread_time() - begun + engine.engine.take_spent())
        unsaved, engine.unsaved = engine.unsaved, Unsaved()
        self._writing = gevent.spawn(self._write, partition, owner, engine, parts, partition.now, unsaved)

    def _write(
        self, partition: Partition, owner: Owner, engine: OwnedEngine, parts: list[bytes], taken: int,
        unsaved: Unsaved,
    ) -> None:  # fmt: skip
        pieces = crc = size = 0
        try:
            # Not from ``engine.stored``: a commit whose answer was lost may have changed it.
            place = self._store.free_place(owner.partition, engine.name)
            for piece in pieces_of(parts, self._policy.piece_bytes):
                if partition.ended:
                    return
                self._store.write(owner, engine.name, place, pieces, piece)
                pieces, crc, size = pieces + 1, crc32(piece, crc), size + len(piece)
                gevent.sleep(len(piece) / self._policy.burst)
            stored = Stored(place, pieces, size, crc, taken, engine.cost, self._store.format)
            self._store.commit(owner, engine.name, stored)
        except PushError as error:
            # The last checkpoint and the log after it still hold.
            self._log_failure(owner, error)
            engine.unsaved.add(unsaved)
        else:
            engine.stored = stored
            metrics.CHECKPOINTS.inc()
        finally:
            self._rest_until = time.monotonic() + size / self._policy.bytes_per_second

    def _discard(self, partition: Partition, owner: Owner) -> None:
        """Discard checkpoints of engines that no longer exist; a rebuilt engine replaces its own."""
        names = partition.stale - {engine.name for engine in partition.engines.values()}
        partition.stale = set()
        try:
            if names and not partition.ended:
                self._store.discard(owner, sorted(names))
        except PushError as error:
            partition.stale |= names
            self._log_failure(owner, error)

    @staticmethod
    def _log_failure(owner: Owner, error: PushError) -> None:
        metrics.UNWRITTEN.inc()
        level = logging.INFO if isinstance(error, Fenced) else logging.WARNING
        log.log(level, "partition %d: no checkpoint was written: %s", owner.partition, error)


def _known(partitions: Iterable[Partition]) -> list[tuple[Partition, Owner]]:
    return [(partition, owner) for partition in partitions if (owner := partition.owner) is not None]
