"""Up to where a group has sent each partition: the positions that the cursors of its messages name."""

from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping
from types import MappingProxyType

from msgspec.structs import replace

from pushsvc.broker.keys import Log
from pushsvc.cursor import Position, encode, sequence_encoder
from pushsvc.hub.feed.router import LogSource

NO_LOGS: frozenset[Log] = frozenset()

_NO_PARTITIONS: dict[int, set[Log]] = {}  # never changed
_NONE_HELD: Mapping[int, Position | None] = MappingProxyType({})
_NO_POSITIONS: Mapping[int, Position] = MappingProxyType({})


class LogsByPartition:
    """A set of logs that is looked at partition by partition: a group may have a thousand, and one of them changes.

    Most groups have none of them, most of the time: they share an empty dictionary.
    """

    __slots__ = ("_logs",)

    def __init__(self) -> None:
        self._logs = _NO_PARTITIONS

    def __bool__(self) -> bool:
        return bool(self._logs)

    def __contains__(self, of: Log) -> bool:
        return of in self._logs.get(of.partition, NO_LOGS)

    def __iter__(self) -> Iterator[Log]:
        return (of for logs in self._logs.values() for of in logs)

    @property
    def partitions(self) -> Collection[int]:
        return self._logs.keys()

    def of(self, partition: int) -> Collection[Log]:
        return self._logs.get(partition, NO_LOGS)

    def add(self, logs: Iterable[Log]) -> None:
        for of in logs:
            if not self._logs:
                self._logs = {}
            self._logs.setdefault(of.partition, set()).add(of)

    def discard(self, logs: Iterable[Log]) -> None:
        for of in logs:
            if of in self:
                kept = self._logs[of.partition]
                kept.discard(of)
                if not kept:
                    del self._logs[of.partition]
        if not self._logs:
            self._logs = _NO_PARTITIONS


class SentPositions:
    """A position is that of the follower (or of the router), unless the partition is held.

    A partition is held while it joins or starts over: its follower may be ahead of what the group has sent, and a
    client that resumes gets all of it. ``unsent_states`` are the statistics logs whose rows are still to be sent as a
    whole: meanwhile the position of their partition is partial, so that a client that resumes gets the rows, but no
    event again. ``paced_cursor`` is the cursor of the last paced update while others are pending, else None. Cursors
    carry a ``digest`` of the query.
    """

    __slots__ = ("_digest", "_held", "_sent_ahead", "followers", "paced_cursor", "unsent_states")

    def __init__(self, followers: Mapping[int, LogSource], digest: bytes = b"") -> None:
        self.unsent_states = LogsByPartition()
        self.paced_cursor: str | None = None
        self.followers = followers
        self._digest = digest
        self._held: Mapping[int, Position | None] = _NONE_HELD  # None: cursors leave the partition out
        self._sent_ahead: tuple[tuple[int, Position], ...] = ()

    def join(self, partition: int) -> None:
        """Hold a partition of which nothing was sent."""
        self._held = {**self._held, partition: None}

    def send_ahead(self, partition: int, sequence: int) -> None:
        """Note that everything of a partition up to a sequence was sent, before its source reports so."""
        ahead = partition, Position(self.followers[partition].position.epoch, sequence)
        others = self._sent_ahead
        if others and (len(others) > 1 or others[0][0] != partition):
            self._sent_ahead = (*(one for one in others if one[0] != partition), ahead)
        else:
            self._sent_ahead = (ahead,)

    def is_held(self, partition: int) -> bool:
        return partition in self._held

    def start_over(self, partition: int) -> None:
        """Hold a partition where it is, if it was sent in this epoch."""
        self._sent_ahead = tuple(one for one in self._sent_ahead if one[0] != partition)
        position = self.followers[partition].position
        held = self._held.get(partition, position)
        kept = held if held is None or held.epoch == position.epoch else position
        self._held = {**self._held, partition: kept}

    def advance(self, partition: int, sequence: int) -> None:
        """Move a held partition to a sequence."""
        if partition in self._held:
            moved = Position(self.followers[partition].position.epoch, sequence)
            self._held = {**self._held, partition: moved}

    def release_all_but(self, unread: Container[int]) -> None:
        self._held = {p: position for p, position in self._held.items() if p in unread} or _NONE_HELD

    def cursor(self) -> str:
        """Return the position of a client that has every message up to now."""
        return self.paced_cursor or encode(self._positions(), self._digest)

    def cursors(self, partition: int) -> Callable[[int], str]:
        """Return a function from a sequence of a partition to the cursor of a client that has the partition up to
        there, and everything of the others. Valid until another position moves.
        """
        epoch, partial = self.followers[partition].position.epoch, bool(self.unsent_states.of(partition))
        positions = self._positions() if len(self.followers) > 1 else _NO_POSITIONS
        return sequence_encoder(positions, partition, epoch, partial=partial, digest=self._digest)

    def _positions(self) -> dict[int, Position]:
        held, followers = self._held, self.followers.items()
        if held:
            found = {p: position for p, f in followers if (position := held.get(p, f.position)) is not None}
        else:
            found = {p: f.position for p, f in followers}
        for one in self._sent_ahead:
            partition, ahead = one
            known = found.get(partition)
            if known is not None and known.epoch == ahead.epoch and known.sequence < ahead.sequence:
                found[partition] = ahead
            else:
                self._sent_ahead = tuple(other for other in self._sent_ahead if other is not one)
        for partition in self.unsent_states.partitions:
            if (position := found.get(partition)) is not None:
                found[partition] = replace(position, partial=True)
        return found
