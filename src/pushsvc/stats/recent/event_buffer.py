"""The newest events of one topic as they came, for windows that no panes can tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pushsvc.stats.arrays import Flags, Floats, Index, Ints
from pushsvc.stats.window import Window

NEVER = int(np.iinfo(np.int64).min)
_NO_INTS: Ints = np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True)
class Horizon:
    """What decides which events a window holds: ``time`` is where the clock is, ``floor`` the greatest time of the
    events let go for lack of room, ``offset`` that of the topic's last event."""

    time: int
    floor: int
    offset: int

    def holds(self, window: Window, offsets: Ints, times: Ints) -> Flags:
        """Tell which events [n] are in a window."""
        if window.events:
            return np.asarray(offsets > self.offset - window.events)
        return np.asarray((times > max(self.time - window.length, self.floor)) & (times <= self.time))


@dataclass(frozen=True, slots=True)
class Observations:
    """Values that events gave to rows [n]: 0 in a row that only counts, ``ValueStatistics.kept`` in a row of VALUES."""

    offsets: Ints
    times: Ints
    rows: NDArray[np.int32]
    values: Floats

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def bytes(self) -> int:
        return self.offsets.nbytes + self.times.nbytes + self.rows.nbytes + self.values.nbytes

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


class Entry:
    """Events of one entry: ``first`` is the offset of the first, ``clock`` where the clock was when they came."""

    def __init__(self, clock: int, first: int, times: Ints, fit: Flags | None) -> None:
        self.clock = clock
        self.first = first
        self.times = times
        chosen = slice(None) if fit is None else fit
        self.kept_offsets: Ints = np.arange(first, first + len(times))[chosen]
        self.kept_times: Ints = times[chosen]
        self.cells: list[Observations] = []

    @property
    def size(self) -> int:
        return sum(map(len, self.cells))

    def put(self, offsets: Ints, rows: Index, values: Floats | None) -> None:
        """Note what some of the events say of rows."""
        numbers = np.zeros(len(rows)) if values is None else values + 0.0  # -0.0 becomes 0.0
        self.cells.append(Observations(offsets, self.times[offsets - self.first], rows.astype(np.int32), numbers))


class EventBuffer:
    """Events (``offsets`` and ``times`` [n]) and what they said of rows (``cells``), as far as windows need them.

    ``aside`` are entries not taken in yet, ``reach`` is that of when it last was settled.
    """

    STATE = ("reach", "limit", "offsets", "times", "cells", "offset", "aside")

    def __init__(self, time: int, limit: int) -> None:
        self.reach = Horizon(time, NEVER, 0)
        self.limit = limit
        self.offsets = _NO_INTS
        self.times = _NO_INTS
        self.cells = NO_OBSERVATIONS
        self.offset = 0
        self.aside: list[Entry] = []

    @property
    def bytes(self) -> int:
        """Size of what is held."""
        return self.offsets.nbytes + self.times.nbytes + self.cells.bytes

    def take_in(self) -> Ints:
        """Take in what lay aside, behind the cells there were; return where the clock was for each new cell."""
        aside, self.aside = self.aside, []
        if not aside:
            return _NO_INTS
        self.offsets = np.concatenate([self.offsets, *(entry.kept_offsets for entry in aside)])
        self.times = np.concatenate([self.times, *(entry.kept_times for entry in aside)])
        self.cells = Observations.joined([self.cells, *(cells for entry in aside for cells in entry.cells)])
        return np.repeat([entry.clock for entry in aside], [entry.size for entry in aside])

    def follow(self, time: int, longest: int) -> Horizon:
        """Go with the clock, and let go of the oldest events if windows of ``longest`` ms need more than the limit.

        What is let go is all up to a time, so what remains is whole from there on, however entries were divided.
        """
        floor = self.reach.floor
        if longest:
            needed = self.times[self.times > max(floor, time - longest)]
            if len(needed) > self.limit:
                surplus = len(needed) - self.limit
                floor = int(np.partition(needed, surplus - 1)[surplus - 1])
        self.reach = Horizon(time, floor, self.offset)
        return self.reach

    def needed(self, longest: int, last: int, offsets: Ints, times: Ints) -> Flags:
        """Tell which events windows of at most ``longest`` ms and ``last`` events hold or may still come to hold."""
        needed = np.asarray(offsets > self.reach.offset - last)
        if longest:
            needed |= times > max(self.reach.floor, self.reach.time - longest)
        return needed
