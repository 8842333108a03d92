"""Publish calls: the events of a request, alone or together with those of others for the same topic."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from typing import Any

from msgspec import Struct

from pushsvc.broker.script import PUBLISH, Argument, Call
from pushsvc.errors import PushError
from pushsvc.event import Batch
from pushsvc.settings import TopicSettings

CHUNK_EVENTS, CHUNK_BYTES = 1_000, 256_000
"""A larger request becomes several entries of at most this many events or bytes (or one event that is larger)."""

ALONE = object()
STORED = b"ok"


class Target(Struct, frozen=True, eq=False):
    """What all publish calls to a topic have in common: ``keys``, the channel on which they wake (``wakes``), and
    arguments. If it ``shares``, calls with the same one, not an equal one, may be sent as one."""

    settings: TopicSettings
    shares: bool
    keys: tuple[str, ...]
    publish_command: str
    wake: str
    topic: str
    bounds: tuple[Argument, ...]
    more_bounds: tuple[Argument, ...]
    wakes: str


class Append(Struct, frozen=True, eq=False):
    """Stores a batch, all or nothing: by the owner of a ``fence`` alone, once under a ``key`` with what is to be
    remembered as ``note``. ``wakes`` is the channel on which it wakes."""

    target: Target
    batch: Batch
    fence: int | None = None
    key: str = ""
    note: bytes = b""

    @property
    def keys(self) -> Sequence[str]:
        return self.target.keys

    @property
    def size(self) -> int:
        """Return what its data weighs."""
        size = len(self.batch.data) + len(self.note)
        return size if self.batch.ids is None else size + sum(map(len, self.batch.ids))

    @property
    def shares(self) -> bool:
        """Tell whether it may be sent as one with others: what a fence or a key decides, it decides of one request."""
        return self.target.shares and self.fence is None and not self.key

    def command(self, run: str) -> list[Argument]:
        """Return the words of the command."""
        target, batch = self.target, self.batch
        pieces = list(batch.split(CHUNK_EVENTS, CHUNK_BYTES)) if batch.count else []
        fence = "" if self.fence is None else self.fence
        command: list[Argument] = [
            "EVALSHA", PUBLISH.sha, len(target.keys), *target.keys,
            run, target.publish_command, target.wakes, target.wake, target.topic, fence,
            *target.bounds, self.key, self.note, *target.more_bounds, len(pieces),
        ]  # fmt: skip
        for piece in pieces:
            command += _entry(piece)
        if batch.ids is not None:
            command += batch.ids
        return command


class Together:
    """Calls that are sent as one; ``places`` are theirs in the round trip.

    What publishes to one target is stored as one entry, as a batch of all would be. Whatever the answer is but that all
    is stored, nothing is: then each is to be sent by itself.
    """

    def __init__(self, place: int, first: Call | Append) -> None:
        self.places = [place]
        self._first = first
        self._batches: list[Batch] = []
        self._events = self._bytes = 0
        self._ids: set[str] | None = None
        if isinstance(first, Append):
            self._add(first.batch)

    def repeats(self, batch: Batch) -> bool:
        """Tell whether an id of a batch is here already."""
        if batch.ids is None:
            return False
        if self._ids is None:  # most calls stay alone, and nobody asks
            self._ids = {name for own in self._batches for name in own.ids or ()}
        return not self._ids.isdisjoint(filter(None, batch.ids))

    def take(self, place: int, batch: Batch) -> bool:
        """Take one more in; return False where it has no room, or beside an equal id, of which one alone is stored."""
        if self._events + batch.count > CHUNK_EVENTS or self._bytes + len(batch.data) > CHUNK_BYTES:
            return False
        if self.repeats(batch):
            return False
        self.places.append(place)
        self._add(batch)
        return True

    def _add(self, batch: Batch) -> None:
        self._batches.append(batch)
        self._events += batch.count
        self._bytes += len(batch.data) + 1
        if self._ids is not None:
            self._ids.update(batch.ids or ())

    def call(self) -> Call | Append:
        """Return the call to be sent."""
        if len(self.places) == 1 or not isinstance(self._first, Append):
            return self._first
        return Append(self._first.target, Batch.concatenate(self._batches))

    def answers(self, answer: Any) -> Iterator[Any]:
        """Yield what the answer says to each; ALONE where it is to be asked by itself."""
        if len(self.places) == 1:
            yield answer
        elif isinstance(answer, PushError):  # to each its own: what is raised in many places gathers their tracebacks
            yield from map(copy, [answer] * len(self.places))
        elif answer[0] != STORED:
            yield from [ALONE] * len(self.places)
        else:
            _, offset, _, arrival, head = answer
            for batch in self._batches:
                yield [STORED, offset, offset + batch.count - 1, arrival, head]
                offset += batch.count


def together(calls: Sequence[Call | Append]) -> list[Together]:
    """Return the calls of a round trip, in one what may be in one."""
    found: list[Together] = []
    latest: dict[int, Together] = {}
    for place, call in enumerate(calls):
        if not isinstance(call, Append) or not call.shares:
            found.append(Together(place, call))
            continue
        one = latest.get(id(call.target))
        if one is not None and one.take(place, call.batch):
            continue
        found.append(Together(place, call))
        if one is None or not one.repeats(call.batch):
            latest[id(call.target)] = found[-1]
    return found


def _entry(piece: Batch) -> tuple[int, int | str, int | str, int, bytes]:
    """Return an entry to be: number of events, least and greatest time, whether an event has none, and the events."""
    if piece.times is None:
        return piece.count, "", "", 1, piece.data
    times = [time for time in piece.times if time is not None]
    least, greatest = (min(times), max(times)) if times else ("", "")
    return piece.count, least, greatest, int(len(times) < piece.count), piece.data
