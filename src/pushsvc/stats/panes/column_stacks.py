"""The two-stack queues of all columns: one for each window and each block of columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from pushsvc.stats.arrays import Counts, Floats, Ints
from pushsvc.stats.moments import Moments, empty
from pushsvc.stats.panes.two_stack import BLOCK, ColumnMoments, TwoStack
from pushsvc.stats.window import Window


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
        """Size of the arrays."""
        return sum(stack.bytes for block in self._blocks for stack in block)

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
