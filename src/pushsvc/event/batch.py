"""Judged events in the form in which the log holds them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from msgspec import Struct

from pushsvc.event.model import Event


class Batch(Struct, frozen=True):
    """Some events: ``data`` has the stored form of each on a line of its own, without a line end behind the last.

    ``ids`` and ``times`` [count] are None where no event has one; in them ``""`` and None stand for an event without.
    """

    data: bytes
    count: int
    ids: Sequence[str] | None = None
    times: Sequence[int | None] | None = None

    @classmethod
    def from_events(cls, events: Sequence[Event]) -> Batch:
        """Return events as a batch."""
        ids = [event.id or "" for event in events]
        times = [event.time for event in events]
        return cls(
            b"\n".join([event.encode() for event in events]),
            len(events),
            ids if any(ids) else None,
            times if times.count(None) < len(times) else None,
        )

    @classmethod
    def concatenate(cls, batches: Sequence[Batch]) -> Batch:
        """Return the events of all, in their order."""
        ids = times = None
        if any(batch.ids is not None for batch in batches):
            ids = [name for batch in batches for name in (batch.ids or [""] * batch.count)]
        if any(batch.times is not None for batch in batches):
            times = [time for batch in batches for time in (batch.times or [None] * batch.count)]
        data = b"\n".join([batch.data for batch in batches])
        return cls(data, sum([batch.count for batch in batches]), ids, times)

    def select(self, places: Sequence[int]) -> Batch:
        """Return the events at ``places``, in this order."""
        lines = self.data.split(b"\n")
        return Batch(
            b"\n".join([lines[at] for at in places]),
            len(places),
            None if self.ids is None else [self.ids[at] for at in places],
            None if self.times is None else [self.times[at] for at in places],
        )

    def without(self, places: Collection[int]) -> Batch:
        """Return the events but for those at ``places``."""
        return self.select([at for at in range(self.count) if at not in places]) if places else self

    def repeated_ids(self) -> set[int]:
        """Return the places of events whose id an earlier one has."""
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

    def split(self, events: int, size: int) -> Iterator[Batch]:
        """Yield batches of at most ``events`` events and ``size`` bytes, or of one event that is larger."""
        if self.count <= events and len(self.data) <= size:
            yield self
            return
        lines = self.data.split(b"\n")
        begun = taken = 0
        for at, line in enumerate(lines):
            if at > begun and (at - begun == events or taken + len(line) > size):
                yield self._piece(lines, begun, at)
                begun, taken = at, 0
            taken += len(line)
        yield self._piece(lines, begun, self.count)

    def _piece(self, lines: list[bytes], begun: int, end: int) -> Batch:
        ids, times = self.ids, self.times
        return Batch(b"\n".join(lines[begun:end]), end - begun, ids and ids[begun:end], times and times[begun:end])
