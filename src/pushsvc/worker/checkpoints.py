"""When checkpoints of engines are written, so that they stay small beside the counting that they save.

A checkpoint is worth while once repeating what was counted since the last would cost much more than writing it. So the
CPU that checkpoints take is a bounded share of the CPU that counting takes, and so is what a successor must repeat.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable
from zlib import crc32

import gevent

from pushsvc.broker.broker import Broker
from pushsvc.broker.checkpoints import PIECE_BYTES, Owner, Stored, pieces_of
from pushsvc.errors import Fenced, PushError
from pushsvc.worker import metrics
from pushsvc.worker.partition import Engine, Partition, Unsaved

log = logging.getLogger(__name__)

SHARE = 0.05
"""Of the CPU spent on counting, what checkpoints may take."""

WORTH = 0.1
"""CPU seconds of counting that are repeated rather than saved, whatever a checkpoint would cost."""

INTERVAL = 5.0
"""Seconds between two checkpoints of an engine, at least."""

BYTES_PER_SECOND = 1_000_000
"""What a process writes in checkpoints at most, on average: Redis's append-only file and replicas get it all."""

BURST = 20_000_000
"""Bytes per second while a checkpoint is written."""

LAST = 0.75
"""Seconds that the last checkpoints may take at an orderly end; giving back the leases still has to come."""

_LOOK = 1.0


class Checkpoints:
    """Writes the checkpoints of a process, one at a time. ``now(partition)`` is its primary's time (ms)."""

    def __init__(self, broker: Broker, now: Callable[[Partition], int]) -> None:
        self._broker = broker
        self._now = now
        self._rest_until = 0.0
        self._turn = 0
        self._writing: gevent.Greenlet[..., None] | None = None

    def close(self) -> None:
        if self._writing is not None:
            self._writing.kill()

    def look(self, partitions: Iterable[Partition]) -> None:
        """Take a checkpoint of the engine that most needs one, if any does, or forget those of engines that are no
        more. Nothing may be half counted."""
        now = time.monotonic()
        if now < self._rest_until or (self._writing is not None and not self._writing.ready()):
            return
        self._rest_until = now + _LOOK
        known = _known(partitions)
        _measure([engine for partition, _ in known for engine in partition.engines.values()], now)
        stale = [pair for pair in known if pair[0].stale]
        due = [(*pair, engine) for pair in known for engine in pair[0].engines.values() if _is_due(engine, now)]
        self._turn += 1  # in turns: what fails for as long as a primary is away must not keep the others waiting
        if stale and (not due or self._turn % 2):
            self._writing = gevent.spawn(self._discard, *stale[self._turn // 2 % len(stale)])
        elif due:
            self._take(*max(due, key=lambda one: one[2].unsaved.spent))

    def finish(self, partitions: Iterable[Partition]) -> None:
        """Write the last checkpoints before an orderly end, of what a successor would otherwise count for longer than
        writing takes. What is not written in time has the one before. Nothing may be half counted."""
        until = time.monotonic() + LAST
        every = [(*pair, engine) for pair in _known(partitions) for engine in pair[0].engines.values()]
        worth = [one for one in every if one[2].unsaved.entries and one[2].unsaved.spent >= max(WORTH, one[2].cost)]
        for one in sorted(worth, key=lambda one: one[2].unsaved.spent, reverse=True):
            if not self._wait(until):
                return
            if time.monotonic() + _seconds(one[2]) < until:
                self._take(*one)
        self._wait(until)

    def _wait(self, until: float) -> bool:
        """Return whether nothing is being written any more."""
        if self._writing is not None:
            self._writing.join(max(0.0, until - time.monotonic()))
        return self._writing is None or self._writing.ready()

    def _take(self, partition: Partition, owner: Owner, engine: Engine) -> None:
        begun, engine.taken = time.thread_time(), time.monotonic()
        try:
            parts = engine.aggregate.save()
        except Exception:
            # A state that cannot be saved must not end the counting of it.
            metrics.UNWRITTEN.inc()
            log.exception("partition %d: no checkpoint was taken", owner.partition)
            return
        engine.cost = 2 * (
            time.thread_time() - begun + engine.spent_elsewhere()
        )  # to send it costs about as much again
        unsaved, engine.unsaved = engine.unsaved, Unsaved()
        self._writing = gevent.spawn(self._write, partition, owner, engine, parts, self._now(partition), unsaved)

    def _write(
        self, partition: Partition, owner: Owner, engine: Engine, parts: list[bytes], taken: int,
        unsaved: Unsaved,
    ) -> None:  # fmt: skip
        place = 1 - engine.stored.place if engine.stored else 0
        pieces = crc = size = 0
        try:
            for piece in pieces_of(parts):
                if partition.ended:
                    return
                self._broker.checkpoints.write(owner, engine.name, place, pieces, piece)
                pieces, crc, size = pieces + 1, crc32(piece, crc), size + len(piece)
                gevent.sleep(PIECE_BYTES / BURST)
            stored = Stored(place, pieces, size, crc, taken, engine.cost)
            self._broker.checkpoints.commit(owner, engine.name, stored)
        except PushError as error:
            # The one before still holds, and the log behind it.
            self._failed(owner, error)
            engine.unsaved.add(unsaved)
        else:
            engine.stored = stored
            metrics.CHECKPOINTS.inc()
        finally:
            self._rest_until = time.monotonic() + size / BYTES_PER_SECOND

    def _discard(self, partition: Partition, owner: Owner) -> None:
        """Forget the checkpoints of engines that are no more; that of one which began anew is replaced by its next."""
        names = partition.stale - {engine.name for engine in partition.engines.values()}
        partition.stale = set()
        try:
            if names and not partition.ended:
                self._broker.checkpoints.discard(owner, sorted(names))
        except PushError as error:
            partition.stale |= names
            self._failed(owner, error)

    @staticmethod
    def _failed(owner: Owner, error: PushError) -> None:
        metrics.UNWRITTEN.inc()
        level = logging.INFO if isinstance(error, Fenced) else logging.WARNING
        log.log(level, "partition %d: no checkpoint was written: %s", owner.partition, error)


def _known(partitions: Iterable[Partition]) -> list[tuple[Partition, Owner]]:
    return [(partition, owner) for partition in partitions if (owner := partition.owner) is not None]


def _seconds(engine: Engine) -> float:
    """Return what a checkpoint takes, as far as the last one tells."""
    return engine.cost + (engine.stored.size / BURST if engine.stored else 0.0)


def _is_due(engine: Engine, now: float) -> bool:
    unsaved = engine.unsaved
    worth = unsaved.entries > 0 and unsaved.spent >= max(WORTH, engine.cost / SHARE)
    forgotten = unsaved.forgot and engine.stored is not None
    return (worth or forgotten) and now - engine.taken >= INTERVAL


def _measure(engines: Collection[Engine], now: float) -> None:
    metrics.AGE.set(max((now - engine.taken for engine in engines if engine.unsaved.entries), default=0.0))
    metrics.SIZE.set(sum(engine.stored.size for engine in engines if engine.stored))
