"""The merge of the panes of a sliding window, for a few merges per pane instead of one for each pane of the window.

Two-stacks aggregation (K. Tangwongsan, M. Hirzel, S. Schneider: Low-latency sliding-window aggregation in worst-case
constant time, 2017, section 2). The newer panes form the back stack: each keeps its own partials, and ``back`` is their
merge. A flip turns the back stack into the front stack: from the newest pane to the oldest, the partials of each pane
are replaced by the merge of all *newer* panes, and ``front`` becomes the merge of all. When a pane of the front stack
expires, its stored partials become ``front``: a copy, no subtraction. The closed part of a window is front plus back.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pushsvc.stats.arrays import Counts, Floats, Index, Ints, narrow, shared, slices_of
from pushsvc.stats.moments import EMPTY, Moments, empty, merge, merge_equal
from pushsvc.stats.parts import bytes_of
from pushsvc.stats.window import Window

BLOCK = 2_048  # columns: few, so that a flip takes milliseconds; many, to outweigh the cost of numpy's calls
_MANY = 32


@dataclass(slots=True)
class ColumnMoments:
    """Partials of ascending columns. In the front stack ``moments.parts`` are those of all newer panes."""

    columns: Index
    moments: Moments


class TwoStack:
    """One window over the columns of one block; ``head`` is its newest pane. A flip comes when the front stack is
    empty; ``phase`` spreads the flips of blocks. Late partials of panes in the front stack are kept separately."""

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
        parts = [part for panes in (self._parts, self._late) for own in panes.values() for part in own] + self._open
        moments = [self._front, self._back, *(part.moments for part in parts)]
        return bytes_of([part.columns for part in parts], [(one.count, one.parts) for one in moments])

    @property
    def size(self) -> int:
        """Number of columns for which there is room."""
        return len(self._front)

    def reserve(self, size: int) -> None:
        if size > self.size:
            self._front, self._back = _widened(self._front, size), _widened(self._back, size)

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
        for here in slices_of(panes):
            part = ColumnMoments(columns[here].astype(np.uint16), moments.take(here))
            self._parts_of(int(panes[here.start])).append(part)

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


def by_block(columns: Ints) -> Iterator[tuple[int, slice]]:
    """Divide ascending columns among the blocks; yield the number of each block and the slice of its columns."""
    if len(columns):
        numbers = np.arange(columns[0] // BLOCK, columns[-1] // BLOCK + 1)
        edges = np.searchsorted(columns, np.append(numbers, numbers[-1] + 1) * BLOCK).tolist()
        for number, first, last in zip(numbers.tolist(), edges, edges[1:], strict=False):
            if last > first:
                yield number, slice(first, last)


class ColumnStacks:
    """The closed panes of several windows [W], by column."""

    STATE = ("_windows", "_blocks")

    def __init__(self, windows: Sequence[Window]) -> None:
        self._windows = tuple(windows)
        self._blocks: list[list[TwoStack]] = []

    @property
    def bytes(self) -> int:
        return bytes_of(self._blocks)

    def reserve(self, columns: int, heads: Sequence[int]) -> None:
        """Make room for so many columns; ``heads`` [W] are the newest panes."""
        while len(self._blocks) * BLOCK < columns:
            phase = 7 * len(self._blocks)
            stacks = zip(self._windows, heads, strict=True)
            self._blocks.append([TwoStack(window.panes, head, phase) for window, head in stacks])
        for number, block in enumerate(self._blocks):
            for stack in block:
                stack.reserve(min(BLOCK, columns - number * BLOCK))

    def start(self, heads: Sequence[int]) -> None:
        """Move empty windows to other heads."""
        columns = sum(block[0].size for block in self._blocks)
        self._blocks = []
        self.reserve(columns, heads)

    def add(self, columns: Ints, moments: Moments) -> None:
        """Add the partials of a closed grain, ascending by column, to every window."""
        for number, here in by_block(columns):
            own = Moments(moments.count[here].copy(), moments.parts[:, here].copy())
            added = ColumnMoments((columns[here] - number * BLOCK).astype(np.uint16), own)
            for stack in self._blocks[number]:
                stack.add(added)

    def add_late(self, window: int, panes: Ints, columns: Ints, moments: Moments) -> None:
        """Add late partials to panes of a window, in any order."""
        order = np.lexsort((columns, panes))
        panes, columns, moments = panes[order], columns[order], moments.take(order)
        numbers = columns // BLOCK
        for number in np.unique(numbers).tolist():
            here = np.flatnonzero(numbers == number)
            stack = self._blocks[number][window]
            stack.add_late(panes[here], columns[here] - number * BLOCK, moments.take(here))

    def advance(self, window: int, head: int) -> None:
        """Make ``head`` the newest pane of a window."""
        for block in self._blocks:
            block[window].advance(head)

    def read(self, window: int, columns: Ints) -> Moments:
        """Merge all closed grains of a window for some columns, ascending."""
        count: Counts = np.zeros(len(columns), np.int64)
        parts: Floats = empty(len(columns))
        for number, here in by_block(columns):
            read = self._blocks[number][window].read(columns[here] - number * BLOCK)
            count[here], parts[:, here] = read.count, read.parts
        return Moments(count, parts)

    def drop(self, columns: Ints) -> None:
        """Drop everything in columns, ascending."""
        for number, here in by_block(columns):
            for stack in self._blocks[number]:
                stack.drop(columns[here] - number * BLOCK)
