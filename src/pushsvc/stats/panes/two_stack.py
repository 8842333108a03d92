"""The merge of the panes of a sliding window, for a few merges per pane instead of one for each pane of the window.

Two-stacks aggregation (K. Tangwongsan, M. Hirzel, S. Schneider: Low-latency sliding-window aggregation in worst-case
constant time, 2017, section 2). The newer panes form the back stack: each keeps its own partials, and ``back`` is their
merge. A flip turns the back stack into the front stack: from the newest pane to the oldest, the partials of each pane
are replaced by the merge of all *newer* panes, and ``front`` becomes the merge of all. When a pane of the front stack
expires, its stored partials become ``front``: a copy, no subtraction. The closed part of a window is front plus back.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pushsvc.stats.arrays import Counts, Floats, Index, Ints, narrow, runs_of, shared, size_of
from pushsvc.stats.moments import EMPTY, Moments, empty, merge, merge_equal

BLOCK = 2_048
"""Columns of a block: few enough that a flip takes milliseconds, many enough to outweigh the cost of numpy's calls."""

_MANY = 32


@dataclass(slots=True)
class ColumnMoments:
    """Partials of ascending columns. In the front stack ``moments.parts`` are those of all newer panes."""

    columns: Index
    moments: Moments


class TwoStack:
    """One window over the columns of one block.

    ``head`` is its newest pane. A flip comes when the front stack is empty; ``phase`` spreads the flips of blocks over
    the panes. Late partials of panes in the front stack are kept separately.
    """

    STATE = (
        "_panes", "_phase", "_head", "_flipped", "_parts", "_late", "_late_sum", "_open", "_columns", "_front", "_back",
    )  # fmt: skip

    def __init__(self, panes: int, head: int, phase: int) -> None:
        self._panes = panes
        self._phase = phase % panes
        self._head = head
        self._flipped = head - 1
        self._parts: dict[int, list[ColumnMoments]] = {}
        self._late: dict[int, list[ColumnMoments]] = {}
        self._late_sum: ColumnMoments | None = None
        self._open: list[ColumnMoments] = []
        self._columns: Index | None = None
        self._front = Moments(np.zeros(0, np.int64), empty(0))
        self._back = Moments(np.zeros(0, np.int64), empty(0))

    @property
    def bytes(self) -> int:
        """Size of the arrays."""
        parts = [part for panes in (self._parts, self._late) for own in panes.values() for part in own] + self._open
        moments = [self._front, self._back, *(part.moments for part in parts)]
        return size_of(array for one in moments for array in (one.count, one.parts)) + size_of(
            part.columns for part in parts
        )

    @property
    def size(self) -> int:
        """Number of columns for which there is room."""
        return len(self._front)

    def reserve(self, size: int) -> None:
        """Make room for so many columns."""
        if size <= self.size:
            return
        self._front = _widened(self._front, size)
        self._back = _widened(self._back, size)

    def add(self, part: ColumnMoments) -> None:
        """Add the partials of a closed grain of the head pane."""
        self._parts_of(self._head).append(part)
        self._merge_back(part)

    def add_late(self, panes: Ints, columns: Index, moments: Moments) -> None:
        """Add partials that came after their grain closed, ordered by pane and column; all panes are in the window."""
        own = panes > self._flipped
        if own.any():
            self._merge_back(ColumnMoments(*merge_equal(columns[own], moments.take(np.flatnonzero(own)))))
        if not own.all():
            self._late_sum = None
        starts = runs_of(panes).tolist()
        for start, end in zip(starts, [*starts[1:], len(panes)], strict=True):
            part = ColumnMoments(columns[start:end].astype(np.uint16), moments.take(slice(start, end)))
            self._parts_of(int(panes[start])).append(part)

    def _parts_of(self, pane: int) -> list[ColumnMoments]:
        """Return the list of the parts of a pane; many are merged into one."""
        if pane == self._head:
            parts = self._open
        else:
            parts = (self._parts if pane > self._flipped else self._late).setdefault(pane, [])
        if len(parts) >= _MANY:
            parts[:] = [_joined(parts)]
        return parts

    def advance(self, head: int) -> None:
        """Move the head of the window to a newer pane."""
        if self._open:
            part = _joined(self._open)
            self._columns = shared(part.columns, self._columns)
            moments = Moments(narrow(part.moments.count), part.moments.parts)
            self._parts[self._head] = [ColumnMoments(self._columns, moments)]
            self._open = []
        oldest = head - self._panes
        for pane in sorted(pane for pane in self._parts if pane <= oldest):
            if pane > self._flipped:
                self._flip(head)
            self._expire(pane)
        if any(pane <= oldest for pane in self._late):
            self._late = {pane: parts for pane, parts in self._late.items() if pane > oldest}
            self._late_sum = None
        self._head = head
        if head % self._panes == self._phase and oldest >= self._flipped:
            self._flip(head)

    def drop(self, columns: Ints) -> None:
        """Drop everything in columns."""
        for moments in (self._front, self._back):
            moments.count[columns] = 0
            moments.parts[:, columns] = EMPTY[:, None]
        self._parts = {pane: left for pane, own in self._parts.items() if (left := _without(own, columns))}
        self._late = {pane: left for pane, own in self._late.items() if (left := _without(own, columns))}
        self._open = _without(self._open, columns)
        self._late_sum = None

    def read(self, columns: Ints) -> Moments:
        """Merge all closed grains of the window for some columns."""
        merged = self._front.take(columns)
        back = self._back.take(columns)
        if back.count.any():
            merged = merge(merged, back)
        if self._late:
            merged = merge(merged, self._late_of(columns))
        return merged

    def _merge_back(self, part: ColumnMoments) -> None:
        back, columns = self._back, part.columns
        merged = merge(back.take(columns), part.moments)
        back.count[columns], back.parts[:, columns] = merged.count, merged.parts

    def _expire(self, pane: int) -> None:
        (part,) = self._parts.pop(pane)  # a flip leaves one part in each pane
        self._front.parts[:, part.columns] = part.moments.parts
        self._front.count[part.columns] -= part.moments.count

    def _flip(self, head: int) -> None:
        """Make all closed panes the front stack. The old front stack is empty."""
        size = len(self._front)
        running = Moments(np.zeros(size, np.int64), empty(size))
        for pane in sorted(self._parts, reverse=True):
            part = _joined(self._parts[pane])
            self._parts[pane] = [part]
            newer = running.take(part.columns)
            merged = merge(part.moments, newer) if newer.count.any() else part.moments
            running.count[part.columns], running.parts[:, part.columns] = merged.count, merged.parts
            part.moments = Moments(narrow(part.moments.count), newer.parts)
        self._front = running
        self._back = Moments(np.zeros(size, np.int64), empty(size))
        self._flipped = head - 1

    def _late_of(self, columns: Ints) -> Moments:
        if self._late_sum is None:
            self._late_sum = _joined([part for parts in self._late.values() for part in parts])
        late = self._late_sum
        found = Moments(np.zeros(len(columns), np.int64), empty(len(columns)))
        place = np.minimum(np.searchsorted(late.columns, columns), len(late.columns) - 1)
        hit = late.columns[place] == columns
        taken = late.moments.take(place[hit])
        found.count[hit], found.parts[:, hit] = taken.count, taken.parts
        return found


def _without(parts: list[ColumnMoments], columns: Ints) -> list[ColumnMoments]:
    """Return parts without some columns; a part without other columns is dropped."""
    masks = [np.flatnonzero(~np.isin(part.columns, columns)) for part in parts]
    chosen = zip(parts, masks, strict=True)
    return [ColumnMoments(part.columns[kept], part.moments.take(kept)) for part, kept in chosen if len(kept)]


def _joined(parts: list[ColumnMoments]) -> ColumnMoments:
    if len(parts) == 1:
        return ColumnMoments(parts[0].columns, parts[0].moments)
    columns = np.concatenate([part.columns for part in parts])
    count: Counts = np.concatenate([part.moments.count for part in parts])
    floats: Floats = np.concatenate([part.moments.parts for part in parts], axis=1)
    ordered, moments = merge_equal(columns, Moments(count, floats))
    return ColumnMoments(ordered, moments)


def _widened(moments: Moments, size: int) -> Moments:
    wide = Moments(np.zeros(size, np.int64), empty(size))
    wide.count[: len(moments)], wide.parts[:, : len(moments)] = moments.count, moments.parts
    return wide
