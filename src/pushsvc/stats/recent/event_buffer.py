"""The newest events of one topic, for windows that panes cannot represent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pushsvc.stats.arrays import Flags, Floats, Index, Ints
from pushsvc.stats.parts import bytes_of
from pushsvc.stats.rows import NEVER
from pushsvc.stats.window import Window

_NO_INTS: Ints = np.zeros(0, np.int64)
NO_LIMIT = int(np.iinfo(np.int64).max)


@dataclass(frozen=True, slots=True)
class Horizon:
    """The limits that decide which events a window holds. ``time`` is the clock, ``floor`` the greatest time of the
    events evicted for lack of room, and ``offset`` the offset of the topic's last event. Windows of the last events
    have none before the offset ``first``, for lack of room."""

    time: int
    floor: int
    offset: int
    first: int = 0

    def holds(self, window: Window, offsets: Ints, times: Ints) -> Flags:
        """Return for each event [n] whether a window holds it."""
        if window.events:
            return np.asarray(offsets >= max(self.offset - window.events + 1, self.first))
        return np.asarray((times > max(self.time - window.length, self.floor)) & (times <= self.time))


@dataclass(frozen=True, slots=True)
class Observations:
    """Values that events add to rows [n]: 0 in a row that only counts, ``ValueStatistics.kept`` in a row of VALUES."""

    offsets: Ints
    times: Ints
    rows: NDArray[np.int32]
    values: Floats

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def bytes(self) -> int:
        return bytes_of(self.offsets, self.times, self.rows, self.values)

    def take(self, chosen: Flags | Ints) -> Observations:
        return Observations(self.offsets[chosen], self.times[chosen], self.rows[chosen], self.values[chosen])

    @classmethod
    def joined(cls, parts: Sequence[Observations]) -> Observations:
        if len(parts) == 1:
            return parts[0]
        return cls(
            np.concatenate([part.offsets for part in parts]),
            np.concatenate([part.times for part in parts]),
            np.concatenate([part.rows for part in parts]),
            np.concatenate([part.values for part in parts]),
        )


NO_OBSERVATIONS = Observations(_NO_INTS, _NO_INTS, np.zeros(0, np.int32), np.zeros(0))


class PendingEntry:
    """A log entry that is not in the buffer yet: ``first`` is its first offset, ``clock`` the clock at its arrival."""

    def __init__(self, clock: int, first: int, times: Ints, in_range: Flags | None) -> None:
        self.clock = clock
        self.first = first
        self.times = times
        chosen = slice(None) if in_range is None else in_range
        self.kept_offsets: Ints = np.arange(first, first + len(times))[chosen]
        self.kept_times: Ints = times[chosen]
        self.observations: list[Observations] = []

    @property
    def size(self) -> int:
        return sum(map(len, self.observations))

    def put(self, offsets: Ints, rows: Index, values: Floats | None) -> None:
        """Add some of the events to rows."""
        numbers = np.zeros(len(rows)) if values is None else values + 0.0  # -0.0 becomes 0.0
        times = self.times[offsets - self.first]
        self.observations.append(Observations(offsets, times, rows.astype(np.int32), numbers))


class EventBuffer:
    """Events (``offsets`` and ``times`` [n]) and their ``observations``, as far as windows need them: at most ``limit``
    for windows of time, and ``last_limit`` for those of the last events. ``pending`` entries are not in these arrays
    yet; ``horizon`` is that of the last ``follow``."""

    STATE = ("horizon", "limit", "last_limit", "offsets", "times", "observations", "offset", "pending")

    def __init__(self, time: int, limit: int) -> None:
        self.horizon = Horizon(time, NEVER, 0)
        self.limit = limit
        self.last_limit = NO_LIMIT
        self.offsets = _NO_INTS
        self.times = _NO_INTS
        self.observations = NO_OBSERVATIONS
        self.offset = 0
        self.pending: list[PendingEntry] = []

    @property
    def bytes(self) -> int:
        return bytes_of(self.offsets, self.times, self.observations)

    def append_pending(self) -> Ints:
        """Append the pending entries; return for each appended observation the clock at its arrival."""
        pending, self.pending = self.pending, []
        if not pending:
            return _NO_INTS
        self.offsets = np.concatenate([self.offsets, *(entry.kept_offsets for entry in pending)])
        self.times = np.concatenate([self.times, *(entry.kept_times for entry in pending)])
        added = (observations for entry in pending for observations in entry.observations)
        self.observations = Observations.joined([self.observations, *added])
        return np.repeat([entry.clock for entry in pending], [entry.size for entry in pending])

    def follow(self, time: int, longest: int) -> Horizon:
        """Move the horizon to the clock, and its floor up if windows of ``longest`` ms need more events than the limit.
        The floor evicts all events up to a time. So the events above it are complete, however entries were divided."""
        floor = self.horizon.floor
        if longest:
            needed = self.times[self.times > max(floor, time - longest)]
            if len(needed) > self.limit:
                surplus = len(needed) - self.limit
                floor = int(np.partition(needed, surplus - 1)[surplus - 1])
        first = max(self.horizon.first, self.offset - self.last_limit + 1)
        self.horizon = Horizon(time, floor, self.offset, first)
        return self.horizon

    def needed(self, longest: int, last: int, offsets: Ints, times: Ints) -> Flags:
        """Return for each event whether a window of ``longest`` ms or ``last`` events holds it or may still hold it."""
        needed = np.asarray(offsets >= max(self.horizon.offset - last + 1, self.horizon.first))
        if longest:
            needed |= times > max(self.horizon.floor, self.horizon.time - longest)
        return needed
