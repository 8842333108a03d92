"""Follows the watched logs of one partition: one script reads them all, and wake-ups tell how they go on from there.

Reading them at one instant gives what a cursor needs: up to the partition's sequence nothing of them is missing. From
there on every wake-up is heard, in order, as they come on one connection; one that brings the very next entry of its
log leaves nothing to read. Whatever else is heard only says that there is something, and all are read again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import monotonic
from types import MappingProxyType
from typing import TYPE_CHECKING

import gevent
from gevent import get_hub
from gevent.event import Event

from pushsvc.broker.broker import Broker
from pushsvc.broker.keys import Log
from pushsvc.broker.log import (
    FROM_SNAPSHOT,
    NO_ENTRIES,
    LogEntry,
    LogNotification,
    LogRead,
    PartitionRead,
    StatisticsEntry,
)
from pushsvc.cursor import Position
from pushsvc.errors import PushError
from pushsvc.hub import metrics
from pushsvc.hub.messages import Rendering
from pushsvc.hub.window_state import Mirror

if TYPE_CHECKING:
    from pushsvc.hub.groups.group import Group
    from pushsvc.hub.hub import Hub

log = logging.getLogger(__name__)

LOOK_ANYWAY = 5.0
"""Seconds after which a watched log is read without a wake-up; a lost one costs no more than that."""

_PAUSE = 0.2

HEARD_AT_MOST = 1_000_000
"""Bytes that are heard in one turn of the loop; what is more is read, as far as it can be sent."""

UNSURE = 15.0
"""Seconds after a new epoch for which all is read: in a cluster the primary before goes on saying what it is told, with
gaps, until it is noticed that channels are to be heard elsewhere."""

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
        self.after = FROM_SNAPSHOT if self.mirror is not None else NO_ENTRIES
        if self.mirror is None and last is not None:
            self.after = max(0, last - REPLAY_AFTER_RESET)
        self.fresh = True
        self.end = 0
        self.from_end.clear()
        if self.mirror is not None:
            self.mirror = Mirror(self.log)


Batch = list[tuple[int, Tail, LogEntry]]
"""Entries of several logs in order of their sequences."""


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
        self._complete = False  # nothing lacks of what was read last, and all that was said since was heard
        self._unsure_until = 0.0
        self._heard: list[tuple[Log, bytes]] = []
        self._heard_bytes = 0
        self.greenlet = gevent.spawn(self._run)

    @property
    def position(self) -> Position:
        """Return up to where everything of every watched log was offered."""
        return Position(self.epoch or 0, self.through)

    def wake(self) -> None:
        self._wake.set()

    def hear(self, of: Log, message: bytes) -> None:
        """Take what was said of a log, with whatever else is said in this turn of the loop."""
        if not self._follows or self._heard_bytes + len(message) > HEARD_AT_MOST:
            self._wake.set()
            return
        if not self._heard:
            get_hub().loop.run_callback(self._take_heard)
        self._heard.append((of, message))
        self._heard_bytes += len(message)

    @property
    def _follows(self) -> bool:
        """True while what is heard may be taken instead of reading."""
        sure = self._complete and monotonic() >= self._unsure_until
        return sure and not self._wake.is_set() and self._hub.flush.room.is_set()

    def _take_heard(self) -> None:
        heard, self._heard, self._heard_bytes = self._heard, [], 0
        if not self._follows:
            self._wake.set()
            return
        try:
            batch = self._continuation(heard)
            if batch:
                self._hand_out(batch)
                self._tell_moved()
        except Exception:
            log.exception("partition %d", self.partition)
            self._begin_anew()

    def _continuation(self, heard: list[tuple[Log, bytes]]) -> Batch:
        """Return the entries that were heard, up to where reading is needed, and stand behind them."""
        batch: Batch = []
        for of, message in heard:
            tail = self.tails.get(of)
            if tail is None:
                continue
            said = LogNotification.parse(of, message)
            if said is not None and said.entry.last <= tail.after and said.epoch == self.epoch:
                continue  # it was read meanwhile
            if said is None or not self._is_next(tail, said):
                self._wake.set()
                break
            entry = said.entry
            tail.after, self.through = entry.last, entry.sequence
            batch.append((entry.sequence, tail, entry))
        return batch

    def _is_next(self, tail: Tail, said: LogNotification) -> bool:
        """Tell whether this is the log's next entry, in the life of Redis and with the topics that are known here."""
        entry = said.entry
        known = said.epoch == self.epoch and said.newest_topic_sequence <= self._born
        return known and entry.before == tail.after and entry.sequence > self.through

    def add(self, group: Group, logs: Sequence[Log], *, from_start: bool = False) -> None:
        """Register a group for logs, which may be events ``from_start`` on. It is told when it may ``look``."""
        for of in logs:
            tail = self.tails.get(of)
            if tail is None or (from_start and tail.mirror is None and tail.after != 0):
                tail = self.tails[of] = self._begin(of, tail, from_start=from_start)
            elif tail.fresh and tail.mirror is None and tail.after != NO_ENTRIES and not from_start:
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
            tail.from_end.update(before.groups if before.after == NO_ENTRIES else before.from_end)
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
                self._complete = False
                if not self.tails:
                    return
                all_heard = self._hub.hears_all(self.tails)
                more = self._step()
                self._complete = all_heard and not more and not any(tail.fresh for tail in self.tails.values())
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
            log.exception("partition %d", self.partition)
            self._begin_anew()
        gevent.sleep(_PAUSE)
        return True

    def _begin_anew(self) -> None:
        """Go on behind an entry that cannot be taken: one must not deafen the process."""
        self._forget("trimmed")
        self._wake.set()

    def _tell_moved(self) -> None:
        self._moved.set()
        self._moved.clear()

    def _take(self, read: PartitionRead, asked: dict[Log, Tail]) -> bool:
        if self.epoch is not None and read.epoch != self.epoch:
            self.epoch, self.through, self._born = read.epoch, 0, 0
            self._unsure_until = monotonic() + UNSURE
            self._forget("broker-restarted", {of: logged.last for of, logged in read.logs.items()})
            self._tell_moved()
            return True
        self.epoch = read.epoch
        self.owned = read.owned
        if read.newest_topic_sequence > self._born:
            self._hub.list_again(self.partition)
            self._born = read.newest_topic_sequence
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
            found = {of: logged for of, logged in found.items() if self.tails[of].after != NO_ENTRIES}
        # A log that is new here and was cut may end below what the others have long been offered.
        behind = limit < self.through
        self.through = max(self.through, limit)
        self._offer(found, limit, behind=behind, cut=bool(cuts))
        self._tell_moved()
        return bool(cuts) or len(found) < len(self.tails)

    def _lost_position(self, found: dict[Log, LogRead]) -> bool:
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

    def _offer(self, found: dict[Log, LogRead], limit: int, *, behind: bool, cut: bool) -> None:
        batch: Batch = []
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

    def _hand_out(self, batch: Batch) -> None:
        """Apply entries to the mirrors, and give each group its own."""
        shares: dict[Group, list[tuple[Log, LogEntry]]] = {}
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
