"""Moments and quantiles of columns in windows of panes. A column is a row that bears numbers."""

from collections.abc import Sequence

import numpy as np

from pushsvc.stats.arrays import Counts, Floats, Index, Ints
from pushsvc.stats.moments import EMPTY, MOMENTS, Moments, describe, empty, merge
from pushsvc.stats.panes.column_quantiles import ColumnQuantiles
from pushsvc.stats.panes.partials import RowPartial
from pushsvc.stats.panes.two_stack import BLOCK, ColumnStacks
from pushsvc.stats.parts import bytes_of
from pushsvc.stats.rows import CLOSED, ColumnPair
from pushsvc.stats.window import Window

_FIRST_CAPACITY = 16


class ColumnStatistics:
    """Statistics of columns [C] in several windows [W].

    The partials of the head grain are kept once for all windows; ``heads`` are the panes of the windows that it is in.
    Those of closed grains are in ``stacks``, what quantiles need is in ``quantiles``.
    ``refresh`` computes statistics, ``read`` returns them as they were computed.
    """

    STATE = ("_percents", "stacks", "quantiles", "_head_parts", "_statistics", "_reserved")

    def __init__(self, windows: Sequence[Window], percents: Sequence[int]) -> None:
        self._percents = tuple(percents)
        self.stacks = ColumnStacks(windows)
        self.quantiles = ColumnQuantiles(len(windows), percents)
        self._head_parts: Floats = empty(_FIRST_CAPACITY)
        self._statistics: Floats = np.zeros((len(windows), _FIRST_CAPACITY, MOMENTS + len(percents)))
        self._reserved = False

    @property
    def bytes(self) -> int:
        return bytes_of(self.stacks, self.quantiles, self._head_parts, self._statistics)

    def reserve(self, columns: int, heads: Sequence[int]) -> None:
        size = self._head_parts.shape[1]
        if columns > size or not self._reserved:
            self._reserved = True
            more = max(columns, 2 * size if size < BLOCK else size + BLOCK) - size
            self._head_parts = np.concatenate([self._head_parts, empty(more)], axis=1)
            self._statistics = np.pad(self._statistics, ((0, 0), (0, more), (0, 0)))
            self.stacks.reserve(self._head_parts.shape[1], heads)
            if self._percents:
                self.quantiles.reserve(self._head_parts.shape[1])

    def add(self, columns: Index, count: Counts, moments: Moments) -> None:
        """Add to the head grain, which has ``count`` values [n] of the columns."""
        if count.any():
            moments = merge(Moments(count, self._head_parts[:, columns]), moments)
        self._head_parts[:, columns] = moments.parts

    def add_values(self, columns: ColumnPair, values: Floats, head: int) -> None:
        """Add values of the head grain to the quantiles."""
        self.quantiles.keep(*columns, values, np.full(len(values), head), head)
        self.quantiles.add(*columns, values)

    def close_grain(self, columns: Ints, counts: Counts) -> None:
        """Move the head grain's partials of columns, ascending, to every window."""
        moments = Moments(counts, self._head_parts[:, columns])
        self._head_parts[:, columns] = EMPTY[:, None]
        self.stacks.add(columns, moments)

    def advance(self, window: int, closed: int, head: int, oldest: int) -> None:
        """Close pane ``closed`` of a window, which now consists of panes ``oldest`` … ``head``."""
        self.stacks.advance(window, head)
        self.quantiles.advance(window, closed, oldest)

    def refresh(self, window: int, columns: Ints, counts: Counts, first: int, last: int) -> None:
        """Compute the statistics of columns, ascending. The head grain has ``counts`` values of them, the window
        consists of grains ``first`` … ``last``."""
        moments = self._moments(window, columns, counts)
        found = describe(moments)
        if self._percents:
            found = np.concatenate([found, self.quantiles.read(window, columns, moments, first, last)])
        self._statistics[window, columns] = found.T

    def partials(self, window: int, columns: Ints, counts: Counts, first: int, last: int) -> list[RowPartial]:
        """Return the states that ``refresh`` computes from, to be merged with those of other engines."""
        moments = self._moments(window, columns, counts)
        if self._percents:
            return self.quantiles.partials(window, columns, moments, first, last)
        return [RowPartial(*one) for one in zip(moments.count.tolist(), moments.parts.T.tolist(), strict=True)]

    def _moments(self, window: int, columns: Ints, counts: Counts) -> Moments:
        moments = self.stacks.read(window, columns)
        if not counts.any():
            return moments
        return merge(moments, Moments(counts, self._head_parts.take(columns, axis=1, mode="clip")))

    def read(self, window: int, columns: Index) -> Floats:
        """Return the statistics [5 + percents, n] of columns as they were last computed; NaN for CLOSED."""
        found: Floats = self._statistics[window].take(columns, axis=0, mode="clip")
        found[columns == CLOSED] = np.nan
        return np.asarray(found.T)

    def forget(self, columns: Ints) -> None:
        """Forget the newest values of columns without events."""
        if self._percents:
            self.quantiles.forget(columns)

    def drop(self, columns: Ints) -> None:
        """Drop everything in columns, ascending."""
        self._head_parts[:, columns] = EMPTY[:, None]
        self.stacks.drop(columns)
        if self._percents:
            self.quantiles.drop(columns)
