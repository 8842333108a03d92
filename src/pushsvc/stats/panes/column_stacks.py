"""The folds of all columns: a fold for each window and each block of columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from pushsvc.stats.arrays import Counts, Floats, Ints
from pushsvc.stats.moments import Moments, empty
from pushsvc.stats.panes.two_stack import BLOCK, Part, TwoStack
from pushsvc.stats.window import Window


def by_block(columns: Ints) -> Iterator[tuple[int, slice]]:
    """Divide columns, in order, among the blocks: yield each block's number and its part."""
    if len(columns):
        numbers = np.arange(columns[0] // BLOCK, columns[-1] // BLOCK + 1)
        edges = np.searchsorted(columns, np.append(numbers, numbers[-1] + 1) * BLOCK).tolist()
        for number, first, last in zip(numbers.tolist(), edges, edges[1:], strict=False):
            if last > first:
                yield number, slice(first, last)


class ColumnStacks:
    """Closed panes of several windows [W], by column."""

    STATE = ("_windows", "_blocks")

    def __init__(self, windows: Sequence[Window]) -> None:
        self._windows = tuple(windows)
        self._blocks: list[list[TwoStack]] = []

    @property
    def bytes(self) -> int:
        """Size of what is held."""
        return sum(fold.bytes for block in self._blocks for fold in block)

    def reserve(self, columns: int, heads: Sequence[int]) -> None:
        """Make room for so many columns; ``heads`` are the panes at the heads."""
        while len(self._blocks) * BLOCK < columns:
            phase = 7 * len(self._blocks)
            folds = zip(self._windows, heads, strict=True)
            self._blocks.append([TwoStack(window.panes, head, phase) for window, head in folds])
        for number, block in enumerate(self._blocks):
            for fold in block:
                fold.reserve(min(BLOCK, columns - number * BLOCK))

    def begin(self, heads: Sequence[int]) -> None:
        """Begin anew at other heads, while there is nothing in the windows."""
        columns = sum(block[0].size for block in self._blocks)
        self._blocks = []
        self.reserve(columns, heads)

    def add(self, columns: Ints, moments: Moments) -> None:
        """Take in what a closed grain brought, in order of columns, in every window."""
        for number, here in by_block(columns):
            own = Moments(moments.count[here].copy(), moments.parts[:, here].copy())
            part = Part((columns[here] - number * BLOCK).astype(np.uint16), own)
            for fold in self._blocks[number]:
                fold.add(part)

    def add_late(self, window: int, panes: Ints, columns: Ints, moments: Moments) -> None:
        """Take in what belongs to closed grains of panes of a window, in any order."""
        order = np.lexsort((columns, panes))
        panes, columns, moments = panes[order], columns[order], moments.take(order)
        numbers = columns // BLOCK
        for number in np.unique(numbers).tolist():
            here = np.flatnonzero(numbers == number)
            fold = self._blocks[number][window]
            fold.add_late(panes[here], columns[here] - number * BLOCK, moments.take(here))

    def advance(self, window: int, head: int) -> None:
        """Let a window end with pane ``head``."""
        for block in self._blocks:
            block[window].advance(head)

    def read(self, window: int, columns: Ints) -> Moments:
        """Return the merge of all closed grains of a window for some columns, in order."""
        count: Counts = np.zeros(len(columns), np.int64)
        parts: Floats = empty(len(columns))
        for number, here in by_block(columns):
            read = self._blocks[number][window].read(columns[here] - number * BLOCK)
            count[here], parts[:, here] = read.count, read.parts
        return Moments(count, parts)

    def discard(self, columns: Ints) -> None:
        """Forget columns, in order, whatever is in them."""
        for number, here in by_block(columns):
            for fold in self._blocks[number]:
                fold.discard(columns[here] - number * BLOCK)
