"""Reads the logs of a partition in pieces, and says what the reads are complete for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from time import monotonic

from pushsvc.broker.broker import READ_BYTES
from pushsvc.broker.keys import Log
from pushsvc.broker.log import NO_ENTRIES, LogRead, PartitionRead
from pushsvc.hub.feed.reads import SharedReads
from pushsvc.hub.feed.subscriptions import Subscriptions
from pushsvc.hub.feed.tail import Tail
from pushsvc.hub.limits import FeedLimits


class Restarted(Exception):
    """The partition has another epoch: Redis may have lost entries, and the sequences start over."""

    def __init__(self, epoch: int) -> None:
        super().__init__(f"epoch {epoch}")
        self.epoch = epoch


@dataclass(slots=True)
class TailRead:
    """What a read of a tail's log returned, and the sequence of the partition at that instant."""

    tail: Tail
    log: LogRead
    sequence: int

    @property
    def end(self) -> int:
        """The offset of the last entry that was read, or after which nothing was."""
        return max(self.log.entries[-1].last if self.log.entries else self.log.after, self.tail.after)


TailReads = dict[Log, TailRead]


class TailReader:
    """Reads logs of one partition. Between two pieces the event loop gets a turn."""

    def __init__(
        self, partition: int, reader: SharedReads, subscriptions: Subscriptions, limits: FeedLimits
    ) -> None:  # fmt: skip
        self._partition = partition
        self._reader = reader
        self._subscriptions = subscriptions
        self._limits = limits
        self._unsure_until = 0.0

    def read(self, tails: Iterable[Tail], reads: TailReads, epoch: int | None) -> PartitionRead:
        """Read logs into ``reads``; return the last read. Raise Restarted if the epoch is another one (None: any)."""
        # A log that is followed from its end is of use only if it is read before the others.
        wanted = [tail for tail in tails if not tail.loading]
        waiting = sorted(wanted, key=lambda tail: tail.after != NO_ENTRIES)
        size = self._limits.read_logs
        pieces = [waiting[start : start + size] for start in range(0, len(waiting), size)] or [[]]
        widest = max((len(tail.consumers) for tail in waiting), default=0)
        parts = max(len(pieces), widest // self._limits.wide)
        budget = {"budget": READ_BYTES // parts} if parts > 1 else {}
        for piece in pieces:
            sure = monotonic() >= self._unsure_until
            for tail in piece:
                tail.continuous = sure and self._subscriptions.is_confirmed(tail.log)
            read = self._reader.read(self._partition, {tail.log: tail.after for tail in piece}, **budget)
            if epoch is not None and read.epoch != epoch:
                raise Restarted(read.epoch)
            epoch = read.epoch
            for tail in piece:
                reads[tail.log] = TailRead(tail, read.logs[tail.log], read.sequence)
        return read

    def read_ends(self, logs: Iterable[Log], epoch: int) -> dict[Log, int] | None:
        """Return the last offsets of logs in a new epoch; None if there is another one already."""
        names, size = list(logs), self._limits.read_logs
        last: dict[Log, int] = {}
        for start in range(0, len(names), size):
            read = self._reader.read(self._partition, dict.fromkeys(names[start : start + size], NO_ENTRIES))
            if read.epoch != epoch:
                return None
            last |= {of: logged.last for of, logged in read.logs.items()}
        return last

    def distrust(self) -> None:
        """Take logs for in doubt after each read, for some time."""
        self._unsure_until = monotonic() + self._limits.unsure

    def wait_arrived(self, tails: Mapping[Log, Tail], reads: TailReads) -> bool:
        """Wait for the notifications up to now of the logs that were not read; return False if some may be lost."""
        unread = (of for of, tail in tails.items() if of not in reads and not tail.loading)
        of = next(unread, None) or next(iter(tails), None)
        return of is not None and self._subscriptions.wait_arrived(of, self._limits.wait)


def complete_through(reads: TailReads, limit: int) -> int:
    """Return up to where nothing is missing, if nothing is of the logs that were not read."""
    for one in reads.values():
        if one.log.more:
            limit = min(limit, one.log.entries[-1].sequence)
        elif not one.tail.continuous:
            limit = min(limit, one.sequence)
    return limit
