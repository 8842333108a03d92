"""Follows the watched logs of one partition: a wake-up says that there is something, one script reads them all.

Reading them at one instant gives what a cursor needs: up to the partition's sequence nothing of them is missing.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic
from typing import TYPE_CHECKING

import gevent
from gevent.event import Event

from pushsvc.broker import Broker, Entry, Log, Read, ReadLog, StatisticsEntry
from pushsvc.broker.broker import FROM_SNAPSHOT, NOTHING
from pushsvc.cursor import Position
from pushsvc.errors import PushError
from pushsvc.hub.mirror import Mirror

if TYPE_CHECKING:
    from pushsvc.hub.hub import Hub

log = logging.getLogger(__name__)

LOOK_ANYWAY = 5.0
"""Seconds after which a watched log is read without a wake-up; a lost one costs no more than that."""

_PAUSE = 0.2
BACKLOG_ENTRIES, BACKLOG_BYTES = 1_000, 1_000_000
"""What waits for one stream at most (or one larger entry). Backlogs share entries, so many cost little more."""


class Subscription:
    """One stream's backlog of entries, bounded.

    ``lost`` counts entries that did not fit; the stream then goes back to the log or to a snapshot. ``reset`` is the
    reason why the position is gone, until the stream has taken it. ``closing`` asks the stream to end.
    """

    def __init__(self, logs: Sequence[Log]) -> None:
        self.logs = tuple(logs)
        self.backlog: deque[tuple[Log, Entry]] = deque()
        self.collecting = False
        self.lost = 0
        self.reset: str | None = None
        self.closing = False
        self.ready = Event()
        self._size = 0

    def offer(self, of: Log, entry: Entry) -> None:
        if not self.collecting:
            return
        full = len(self.backlog) >= BACKLOG_ENTRIES or self._size + len(entry.data) > BACKLOG_BYTES
        if self.lost or (self.backlog and full):
            self.lost += len(self.backlog) + 1
            self.backlog.clear()
            self._size = 0
        else:
            self.backlog.append((of, entry))
            self._size += len(entry.data)
        self.ready.set()

    def forget(self, reason: str) -> None:
        """Tell the stream that what it follows is no longer what it followed."""
        self.clear()
        self.reset = reason
        self.ready.set()

    def close(self) -> None:
        """Ask the stream to end."""
        self.closing = True
        self.ready.set()

    def clear(self) -> None:
        self.backlog.clear()
        self._size = self.lost = 0

    def take(self, timeout: float) -> list[tuple[Log, Entry]]:
        """Wait for entries, a reset or a loss; return the entries there are."""
        self.ready.wait(timeout)
        self.ready.clear()
        taken = list(self.backlog)
        self.backlog.clear()
        self._size = 0
        return taken


class Tail:
    """Where the reading of one log stands."""

    def __init__(self, of: Log) -> None:
        self.log = of
        self.subscriptions: set[Subscription] = set()
        self.mirror = Mirror(of) if of.window is not None else None
        self.trimmed = self.deleted = 0
        self.rewind()

    def rewind(self) -> None:
        """Begin anew: the last snapshot and what follows, or the end of an events log."""
        self.after = FROM_SNAPSHOT if self.mirror is not None else NOTHING
        self.fresh = True
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
        self._hub = hub
        self._broker = broker
        self._on_end = on_end
        self._wake = Event()
        self._loaded = Event()
        self._moved = Event()
        self.greenlet = gevent.spawn(self._run)

    @property
    def position(self) -> Position:
        """Return up to where everything of every watched log was offered."""
        return Position(self.epoch or 0, self.through)

    def wake(self) -> None:
        self._wake.set()

    def add(self, subscription: Subscription) -> None:
        """Register for the subscription's logs; ``wait_loaded`` before reading any tail of them."""
        for of in subscription.logs:
            tail = self.tails.get(of)
            if tail is None:
                tail = self.tails[of] = Tail(of)
                self._loaded.clear()
            tail.subscriptions.add(subscription)
        self._wake.set()

    def discard(self, subscription: Subscription) -> None:
        for of in subscription.logs:
            tail = self.tails.get(of)
            if tail is None:
                continue
            tail.subscriptions.discard(subscription)
            if not tail.subscriptions:
                del self.tails[of]
                self._hub.unwatch(of)
        if not self.tails:
            self._wake.set()

    def wait_loaded(self, timeout: float) -> bool:
        """Wait until every tail was read once; return False if that took too long."""
        return bool(self._loaded.wait(timeout))

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
            return self._take(read, asked)
        except PushError as error:
            log.warning("partition %d: %s", self.partition, error)
        except Exception:
            # One bad entry must not deafen the process: it is logged, and the tails begin anew behind it.
            log.exception("partition %d", self.partition)
            self._forget("trimmed")
        gevent.sleep(_PAUSE)
        return True

    def _take(self, read: Read, asked: dict[Log, Tail]) -> bool:
        if self.epoch is not None and read.epoch != self.epoch:
            self.epoch, self.through = read.epoch, 0
            self._forget("broker-restarted")
            self._moved.set()
            self._moved.clear()
            return True
        self.epoch = read.epoch
        self.owned = read.owned
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
        self._offer(found, limit)
        # A log that is new here and was cut may end below what the others have long been offered.
        self.through = max(self.through, limit)
        self._moved.set()
        self._moved.clear()
        if not cuts and len(found) == len(self.tails) and not any(tail.fresh for tail in self.tails.values()):
            self._loaded.set()
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
                tail.rewind()
                self._loaded.clear()
                for subscription in tail.subscriptions:
                    subscription.forget(reason)
        return rewound

    def _offer(self, found: dict[Log, ReadLog], limit: int) -> None:
        batch: list[tuple[int, Tail, Entry]] = []
        for of, logged in found.items():
            tail = self.tails[of]
            tail.fresh = False
            tail.after = max(logged.after, tail.after)
            for entry in logged.entries:
                if entry.sequence > limit:
                    break
                batch.append((entry.sequence, tail, entry))
                tail.after = entry.last
        batch.sort(key=lambda item: item[0])
        for _, tail, entry in batch:
            if tail.mirror is not None and isinstance(entry, StatisticsEntry):
                tail.mirror.apply(entry)
            for subscription in tail.subscriptions:
                subscription.offer(tail.log, entry)

    def _forget(self, reason: str) -> None:
        self._loaded.clear()
        for tail in self.tails.values():
            tail.rewind()
            for subscription in tail.subscriptions:
                subscription.forget(reason)
