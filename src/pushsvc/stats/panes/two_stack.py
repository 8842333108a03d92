"""A rolling merge over panes that costs a few merges a pane, not one for each pane of the window.

Two stacks, as a queue is made of them (K. Tangwongsan, M. Hirzel, S. Schneider: Low-latency sliding-window
aggregation in worst-case constant time, 2017, section 2). The newer panes keep what came in them, and ``back`` is
their merge. From time to time they are folded: walking from the newest to the oldest, each pane's own partials are
replaced by the merge of all panes *behind* it, and the whole becomes ``front``. When a folded pane leaves the window,
``front`` is what the pane says remains: a copy, nothing subtracted. The window is front, back and what is not closed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pushsvc.stats.arrays import Counts, Floats, Index, Ints, narrow, runs_of, shared, size_of
from pushsvc.stats.moments import EMPTY, Moments, empty, merge, merge_equal

BLOCK = 2_048
"""Columns of a block: few enough that folding it takes milliseconds, many enough that numpy's calls pay."""


_MANY = 32


@dataclass(slots=True)
class Part:
    """Partials of some columns, in order. Behind a fold ``moments.parts`` are what remains when the part leaves."""

    columns: Index
    moments: Moments


class TwoStack:
    """One window over the columns of one block; ``phase`` spreads the folding of blocks over the panes."""

    STATE = (
        "_panes", "_phase", "_head", "_folded", "_parts", "_late", "_late_sum", "_open", "_columns", "_front", "_back",
    )  # fmt: skip

    def __init__(self, panes: int, head: int, phase: int) -> None:
        self._panes = panes
        self._phase = phase % panes
        self._head = head
        self._folded = head - 1
        self._parts: dict[int, list[Part]] = {}
        self._late: dict[int, list[Part]] = {}
        self._late_sum: Part | None = None
        self._open: list[Part] = []
        self._columns: Index | None = None
        self._front = Moments(np.zeros(0, np.int64), empty(0))
        self._back = Moments(np.zeros(0, np.int64), empty(0))

    @property
    def bytes(self) -> int:
        """Size of what is held."""
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

    def add(self, part: Part) -> None:
        """Take in what a closed grain of the head pane brought."""
        self._parts_of(self._head).append(part)
        self._merge_back(part)

    def add_late(self, panes: Ints, columns: Index, moments: Moments) -> None:
        """Take in what came too late for its grain, ordered by pane and column; all panes are in the window."""
        own = panes > self._folded
        if own.any():
            self._merge_back(Part(*merge_equal(columns[own], moments.take(np.flatnonzero(own)))))
        if not own.all():
            self._late_sum = None
        starts = runs_of(panes).tolist()
        for start, end in zip(starts, [*starts[1:], len(panes)], strict=True):
            part = Part(columns[start:end].astype(np.uint16), moments.take(slice(start, end)))
            self._parts_of(int(panes[start])).append(part)

    def _parts_of(self, pane: int) -> list[Part]:
        """Return the parts of a pane, made one when they are many."""
        if pane == self._head:
            parts = self._open
        else:
            parts = (self._parts if pane > self._folded else self._late).setdefault(pane, [])
        if len(parts) >= _MANY:
            parts[:] = [_joined(parts)]
        return parts

    def advance(self, head: int) -> None:
        """Let the window end with pane ``head``, newer than before."""
        if self._open:
            part = _joined(self._open)
            self._columns = shared(part.columns, self._columns)
            self._parts[self._head] = [Part(self._columns, Moments(narrow(part.moments.count), part.moments.parts))]
            self._open = []
        oldest = head - self._panes
        for pane in sorted(pane for pane in self._parts if pane <= oldest):
            if pane > self._folded:
                self._fold(head)
            self._expire(pane)
        if any(pane <= oldest for pane in self._late):
            self._late = {pane: parts for pane, parts in self._late.items() if pane > oldest}
            self._late_sum = None
        self._head = head
        if head % self._panes == self._phase and oldest >= self._folded:
            self._fold(head)

    def discard(self, columns: Ints) -> None:
        """Forget columns, whatever is in them."""
        for moments in (self._front, self._back):
            moments.count[columns] = 0
            moments.parts[:, columns] = EMPTY[:, None]
        self._parts = {pane: left for pane, own in self._parts.items() if (left := _without(own, columns))}
        self._late = {pane: left for pane, own in self._late.items() if (left := _without(own, columns))}
        self._open = _without(self._open, columns)
        self._late_sum = None

    def read(self, columns: Ints) -> Moments:
        """Return the merge of all closed grains of the window for some columns."""
        merged = self._front.take(columns)
        back = self._back.take(columns)
        if back.count.any():
            merged = merge(merged, back)
        if self._late:
            merged = merge(merged, self._late_of(columns))
        return merged

    def _merge_back(self, part: Part) -> None:
        back, columns = self._back, part.columns
        merged = merge(back.take(columns), part.moments)
        back.count[columns], back.parts[:, columns] = merged.count, merged.parts

    def _expire(self, pane: int) -> None:
        (part,) = self._parts.pop(pane)  # folding has made it one
        self._front.parts[:, part.columns] = part.moments.parts
        self._front.count[part.columns] -= part.moments.count

    def _fold(self, head: int) -> None:
        """Turn what is closed into the front; nothing is left in the old one."""
        size = len(self._front)
        running = Moments(np.zeros(size, np.int64), empty(size))
        for pane in sorted(self._parts, reverse=True):
            part = _joined(self._parts[pane])
            self._parts[pane] = [part]
            behind = running.take(part.columns)
            merged = merge(part.moments, behind) if behind.count.any() else part.moments
            running.count[part.columns], running.parts[:, part.columns] = merged.count, merged.parts
            part.moments = Moments(narrow(part.moments.count), behind.parts)
        self._front = running
        self._back = Moments(np.zeros(size, np.int64), empty(size))
        self._folded = head - 1

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


def _without(parts: list[Part], columns: Ints) -> list[Part]:
    """Return what is left of parts without columns; nothing of those that had no others."""
    masks = [np.flatnonzero(~np.isin(part.columns, columns)) for part in parts]
    chosen = zip(parts, masks, strict=True)
    return [Part(part.columns[kept], part.moments.take(kept)) for part, kept in chosen if len(kept)]


def _joined(parts: list[Part]) -> Part:
    if len(parts) == 1:
        return Part(parts[0].columns, parts[0].moments)
    columns = np.concatenate([part.columns for part in parts])
    count: Counts = np.concatenate([part.moments.count for part in parts])
    floats: Floats = np.concatenate([part.moments.parts for part in parts], axis=1)
    ordered, moments = merge_equal(columns, Moments(count, floats))
    return Part(ordered, moments)


def _widened(moments: Moments, size: int) -> Moments:
    wide = Moments(np.zeros(size, np.int64), empty(size))
    wide.count[: len(moments)], wide.parts[:, : len(moments)] = moments.count, moments.parts
    return wide
