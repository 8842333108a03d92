"""Valid events in the form in which a log stores them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from msgspec import Struct

from pushsvc.event.model import Event
from pushsvc.pause import Pause, no_pause


class Batch(Struct, frozen=True):
    """Events in their stored form, one a line of ``data``, without a final line end. ``ids`` [count] holds ``""`` for
    an event without an id, ``times`` [count] None for one without a time. Each is None if no event has one."""

    data: bytes
    count: int
    ids: Sequence[str] | None = None
    times: Sequence[int | None] | None = None

    @classmethod
    def from_events(cls, events: Sequence[Event], pause: Pause = no_pause) -> Batch:
        lines = []
        for event in events:
            lines.append(event.encode())
            pause()
        ids = [event.id or "" for event in events]
        times = [event.time for event in events]
        return cls.from_lines(lines, ids, times)

    @classmethod
    def from_lines(cls, lines: Sequence[bytes], ids: Sequence[str], times: Sequence[int | None]) -> Batch:
        """Return the batch of events in their stored form, each with its id or ``""``, and its time or None."""
        return cls(
            b"\n".join(lines),
            len(lines),
            ids if any(ids) else None,
            times if any(time is not None for time in times) else None,
        )

    @classmethod
    def concatenate(cls, batches: Sequence[Batch]) -> Batch:
        """Return the events of all batches in order."""
        ids = times = None
        if any(batch.ids is not None for batch in batches):
            ids = [name for batch in batches for name in (batch.ids or [""] * batch.count)]
        if any(batch.times is not None for batch in batches):
            times = [time for batch in batches for time in (batch.times or [None] * batch.count)]
        data = b"\n".join([batch.data for batch in batches])
        return cls(data, sum([batch.count for batch in batches]), ids, times)

    def select(self, positions: Sequence[int]) -> Batch:
        """Return the events at ``positions``, in this order."""
        lines = self.data.split(b"\n")
        return Batch(
            b"\n".join([lines[at] for at in positions]),
            len(positions),
            None if self.ids is None else [self.ids[at] for at in positions],
            None if self.times is None else [self.times[at] for at in positions],
        )

    def without(self, positions: Collection[int]) -> Batch:
        """Return the events except those at ``positions``."""
        return self.select([at for at in range(self.count) if at not in positions]) if positions else self

    def repeated_ids(self) -> set[int]:
        """Return the positions of events that have the id of an earlier event."""
        if self.ids is None or len(set(self.ids)) == self.count:
            return set()
        seen: set[str] = set()
        found = set()
        for at, name in enumerate(self.ids):
            if name in seen:
                found.add(at)
            elif name:
                seen.add(name)
        return found

    def larger(self, size: int) -> dict[int, int]:
        """Return the positions of events of more than so many bytes, with their bytes."""
        if len(self.data) <= size:
            return {}
        lengths = map(len, self.data.split(b"\n"))
        return {at: length for at, length in enumerate(lengths) if length > size}

    def split(self, events: int, size: int) -> Iterator[Batch]:
        """Yield batches of at most ``events`` events and ``size`` bytes; a larger event is a batch of its own."""
        if self.count <= events and len(self.data) <= size:
            yield self
            return
        lines = self.data.split(b"\n")
        first = taken = 0
        for at, line in enumerate(lines):
            if at > first and (at - first == events or taken + len(line) > size):
                yield self._piece(lines, first, at)
                first, taken = at, 0
            taken += len(line)
        yield self._piece(lines, first, self.count)

    def _piece(self, lines: list[bytes], first: int, end: int) -> Batch:
        ids, times = self.ids, self.times
        return Batch(b"\n".join(lines[first:end]), end - first, ids and ids[first:end], times and times[first:end])
