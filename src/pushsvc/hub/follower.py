"""Follows the watched logs of one partition: a wake-up says that there is something, one script reads them all.

Reading them at one instant gives what a cursor needs: up to the partition's sequence nothing of them is missing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import monotonic
from types import MappingProxyType
from typing import TYPE_CHECKING

import gevent
from gevent.event import Event

from pushsvc.broker import Broker, Entry, Log, Read, ReadLog, StatisticsEntry
from pushsvc.broker.broker import FROM_SNAPSHOT, NOTHING
from pushsvc.cursor import Position
from pushsvc.errors import PushError
from pushsvc.hub import metrics
from pushsvc.hub.frames import Rendering
from pushsvc.hub.mirror import Mirror

if TYPE_CHECKING:
    from pushsvc.hub.group import Group
    from pushsvc.hub.hub import Hub

log = logging.getLogger(__name__)

LOOK_ANYWAY = 5.0
"""Seconds after which a watched log is read without a wake-up; a lost one costs no more than that."""

_PAUSE = 0.2

REPLAY_AFTER_RESET = 1_000
"""Events sent, at most, of what is left of a log after a reset."""


class Tail:
    """Where the reading of one log stands. It is ``fresh`` until it has been read as far as the others of its
    partition, and up to ``end``, where somebody begins who wants nothing of before."""

    def __init__(self, of: Log) -> None:
        self.log = of
        self.groups: dict[Group, None] = {}
        self.from_end: dict[Group, None] = {}  # those of them that want nothing of what is there when it is read next
        self.mirror = Mirror(of) if of.window is not None else None
        self.trimmed = self.deleted = 0
        self.born = False  # while one of its groups watched
        self.rewind()

    def rewind(self, last: int | None = None) -> None:
        """Begin anew: at the last snapshot; an events log at its end, or at what is left before ``last``."""
        self.after = FROM_SNAPSHOT if self.mirror is not None else NOTHING
        if self.mirror is None and last is not None:
            self.after = max(0, last - REPLAY_AFTER_RESET)
        self.fresh = True
        self.end = 0
        self.from_end.clear()
        if self.mirror is not None:
            self.mirror = Mirror(self.log)


class Follower:
    """Reads the watched logs of one partition and offers their entries, in order of sequence."""

    def __init__(self, hub: Hub, broker: Broker, partition: int, on_end: Callable[[], None]) -> None:
        self.partition = partition
        self.tails: dict[Log, Tail] = {}
        self.epoch: int | None = None
        self.through = 0
        self.owned = False
        self._born = 0
        self._hub = hub
        self._broker = broker
        self._on_end = on_end
        self._wake = Event()
        self._moved = Event()
        self._failing = False
        self.greenlet = gevent.spawn(self._run)

    @property
    def position(self) -> Position:
        """Return up to where everything of every watched log was offered."""
        return Position(self.epoch or 0, self.through)

    def wake(self) -> None:
        self._wake.set()

    def add(self, group: Group, logs: Sequence[Log], *, from_start: bool = False) -> None:
        """Register a group for logs, which may be events ``from_start`` on. It is told when it may ``look``."""
        for of in logs:
            tail = self.tails.get(of)
            if tail is None or (from_start and tail.mirror is None and tail.after != 0):
                tail = self.tails[of] = self._begin(of, tail, from_start=from_start)
            elif tail.fresh and tail.mirror is None and tail.after != NOTHING and not from_start:
                tail.from_end[group] = None
            tail.groups[group] = None
            tail.born |= from_start
        self._wake.set()

    @staticmethod
    def _begin(of: Log, before: Tail | None, *, from_start: bool) -> Tail:
        """Return a new tail. One that stands ``before`` it is read again: its groups skip what they have."""
        tail = Tail(of)
        if from_start and tail.mirror is None:
            tail.after = 0
        if before is not None:
            tail.groups.update(before.groups)
            tail.end = before.end
            tail.from_end.update(before.groups if before.after == NOTHING else before.from_end)
            for group in before.groups:
                group.skip(of, before.after)
        return tail

    def discard(self, group: Group, logs: Sequence[Log]) -> None:
        for of in logs:
            tail = self.tails.get(of)
            if tail is None or group not in tail.groups:
                continue
            del tail.groups[group]
            if not tail.groups:
                del self.tails[of]
                self._hub.unwatch(of)
        if not self.tails:
            self._wake.set()

    def wait_for(self, position: Position, timeout: float) -> bool:
        """Wait until everything up to a position was offered; return False where Redis has not been there.

        Another worker may have been asked before this one has read as far.
        """
        deadline = monotonic() + timeout
        while not (reached := position.epoch == self.epoch and position.sequence <= self.through):
            read = self._broker.read(self.partition, {})
            known = (
                read.epoch == self.epoch
            )  # else the follower has still to hear of the restart, and to tell of it once
            if known and (position.epoch != read.epoch or read.sequence < position.sequence):
                return False
            if monotonic() >= deadline:
                break
            self.wake()
            self._moved.wait(_PAUSE)
        return reached

    def _run(self) -> None:
        more = True
        try:
            while True:
                if not more:
                    self._wake.wait(LOOK_ANYWAY)
                # What cannot be sent fast enough waits in Redis, not here.
                self._hub.flush.room.wait()
                self._wake.clear()
                if not self.tails:
                    return
                more = self._step()
        finally:
            self._on_end()

    def _step(self) -> bool:
        """Read and offer once; return whether there is more to read at once."""
        try:
            asked = dict(self.tails)
            read = self._broker.read(self.partition, {of: tail.after for of, tail in asked.items()})
            self._failing = False
            return self._take(read, asked)
        except PushError as error:
            if not self._failing:  # once, as Redis may be away for long and there may be 64 of us
                log.warning("partition %d: %s", self.partition, error)
            self._failing = True
        except Exception:
            # One bad entry must not deafen the process: it is logged, and the tails begin anew behind it.
            log.exception("partition %d", self.partition)
            self._forget("trimmed")
        gevent.sleep(_PAUSE)
        return True

    def _take(self, read: Read, asked: dict[Log, Tail]) -> bool:
        if self.epoch is not None and read.epoch != self.epoch:
            self.epoch, self.through, self._born = read.epoch, 0, 0
            self._forget("broker-restarted", {of: logged.last for of, logged in read.logs.items()})
            self._moved.set()
            self._moved.clear()
            return True
        self.epoch = read.epoch
        self.owned = read.owned
        if read.born > self._born:
            self._hub.list_again(self.partition)
            self._born = read.born
        if any(asked.get(of) is not tail and tail.born for of, tail in self.tails.items()):
            return True  # a topic was born among what was read: nothing later of others may come before its own
        # A tail that came in place of another meanwhile stands elsewhere: what was read is not its continuation.
        found = {of: logged for of, logged in read.logs.items() if self.tails.get(of) is asked[of]}
        if self._lost_position(found):
            return True
        # A log that was cut may go on below what the others brought: nothing above its end is offered yet.
        cuts = [logged.entries[-1].sequence for logged in found.values() if logged.more]
        limit = min(cuts, default=read.sequence)
        if cuts:
            # A log that is followed from its end on has its end above the limit: it begins with a later read.
            found = {of: logged for of, logged in found.items() if self.tails[of].after != NOTHING}
        # A log that is new here and was cut may end below what the others have long been offered.
        behind = limit < self.through
        self.through = max(self.through, limit)
        self._offer(found, limit, behind=behind, cut=bool(cuts))
        self._moved.set()
        self._moved.clear()
        return bool(cuts) or len(found) < len(self.tails)

    def _lost_position(self, found: dict[Log, ReadLog]) -> bool:
        """Rewind the tails whose place in the log is gone; return whether there were any."""
        rewound = False
        for of, logged in found.items():
            tail = self.tails[of]
            reason = None
            if not tail.fresh and logged.deleted > self.through:
                reason = "deleted"
            elif not tail.fresh and logged.trimmed > self.through:
                reason = "trimmed"
            tail.trimmed, tail.deleted = logged.trimmed, logged.deleted
            if reason is not None:
                rewound = True
                tail.rewind(logged.last)
                for group in tail.groups:
                    group.forget(of, reason)
        return rewound

    def _offer(self, found: dict[Log, ReadLog], limit: int, *, behind: bool, cut: bool) -> None:
        batch: list[tuple[int, Tail, Entry]] = []
        for of, logged in found.items():
            tail = self.tails[of]
            for group in tail.from_end:
                group.skip(of, logged.last)
                tail.end = logged.last
            tail.from_end.clear()
            tail.after = max(logged.after, tail.after)
            for entry in logged.entries:
                if entry.sequence > limit:
                    break
                batch.append((entry.sequence, tail, entry))
                tail.after = entry.last
            tail.fresh = tail.fresh and (behind or (cut and tail.after < tail.end))
        batch.sort(key=lambda item: item[0])
        self._hand_out(batch)
        for group in {group: None for of in found for group in self.tails[of].groups}:
            self._guarded(group, group.look)

    def _hand_out(self, batch: list[tuple[int, Tail, Entry]]) -> None:
        """Apply entries to the mirrors, and give each group its own."""
        shares: dict[Group, list[tuple[Log, Entry]]] = {}
        for _, tail, entry in batch:
            if tail.mirror is not None and isinstance(entry, StatisticsEntry):
                tail.mirror.apply(entry)
            for group in tail.groups:
                shares.setdefault(group, []).append((tail.log, entry))
        rendering = Rendering()
        for group, share in shares.items():
            self._guarded(group, partial(group.take, self.partition, share, rendering))

    @staticmethod
    def _guarded(group: Group, call: Callable[[], None]) -> None:
        """One group that fails ends; its streams come back. The others do not hear of it."""
        try:
            call()
        except Exception:
            metrics.ERRORS.inc()
            log.exception("a group of streams, %s", group.query)
            group.fail()

    def _forget(self, reason: str, last: Mapping[Log, int] = MappingProxyType({})) -> None:
        for of, tail in self.tails.items():
            if last and tail.fresh and of not in last:
                continue  # it joined while the others were read: nothing was told of it, and it begins where it was to
            tail.rewind(last.get(of))
            for group in tail.groups:
                group.forget(of, reason)
