"""What columns say in windows of panes: moments and quantiles of the numbers in them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pushsvc.stats.arrays import Counts, Floats, Index, Ints
from pushsvc.stats.moments import EMPTY, MOMENTS, Moments, describe, empty, merge
from pushsvc.stats.panes.column_quantiles import ColumnQuantiles
from pushsvc.stats.panes.column_stacks import ColumnStacks
from pushsvc.stats.panes.partials import RowPartial
from pushsvc.stats.panes.two_stack import BLOCK
from pushsvc.stats.rows import CLOSED, ColumnPair
from pushsvc.stats.window import Window

_FIRST_CAPACITY = 16


class ColumnStatistics:
    """Columns [C] of several windows [W]. What the head grain brought is apart, once for all windows; ``heads`` are the
    panes it is in. What was computed of a window stays until it is computed anew."""

    STATE = ("_percents", "_blocks", "_buckets", "_parts", "_told", "_reserved")

    def __init__(self, windows: Sequence[Window], percents: Sequence[int]) -> None:
        self._percents = tuple(percents)
        self._blocks = ColumnStacks(windows)
        self._buckets = ColumnQuantiles(len(windows), percents)
        self._parts: Floats = empty(_FIRST_CAPACITY)
        self._told: Floats = np.zeros((len(windows), _FIRST_CAPACITY, MOMENTS + len(percents)))
        self._reserved = False

    @property
    def bytes(self) -> int:
        """Size of what is held."""
        return self._blocks.bytes + self._buckets.bytes + self._parts.nbytes + self._told.nbytes

    def begin(self, heads: Sequence[int]) -> None:
        """Begin anew at other heads, while there is nothing in the windows."""
        self._blocks.begin(heads)

    def reserve(self, columns: int, heads: Sequence[int]) -> None:
        """Make room for so many columns."""
        size = self._parts.shape[1]
        if columns > size or not self._reserved:
            self._reserved = True
            more = max(columns, 2 * size if size < BLOCK else size + BLOCK) - size
            self._parts = np.concatenate([self._parts, empty(more)], axis=1)
            self._told = np.pad(self._told, ((0, 0), (0, more), (0, 0)))
            self._blocks.reserve(self._parts.shape[1], heads)
            if self._percents:
                self._buckets.reserve(self._parts.shape[1])

    # -- in

    def add(self, columns: Index, count: Counts, moments: Moments) -> None:
        """Add to the head grain, which has ``count`` values of each column."""
        if count.any():
            moments = merge(Moments(count, self._parts[:, columns]), moments)
        self._parts[:, columns] = moments.parts

    def add_values(self, places: ColumnPair, values: Floats, head: int) -> None:
        """Take values of the head grain for the quantiles."""
        self._buckets.keep(*places, values, np.full(len(values), head), head)
        self._buckets.add(*places, values)

    def keep_apart(self, places: ColumnPair, values: Floats, grains: Ints, head: int) -> None:
        """Keep the newest of values that are late, or early, as they are."""
        if len(values):
            self._buckets.keep(*places, values, grains, head)

    def add_late(self, window: int, panes: Ints, columns: Ints, moments: Moments) -> None:
        """Add to panes of a window, in any order."""
        self._blocks.add_late(window, panes, columns, moments)

    def add_values_late(self, window: int, panes: Ints, places: ColumnPair, values: Floats) -> None:
        """Take values of panes of a window for the quantiles."""
        self._buckets.add_late(window, panes, *places, values)

    # -- the head

    def hand_over(self, columns: Ints, counts: Counts) -> None:
        """Hand what the head grain has of columns, in order, to every window."""
        moments = Moments(counts, self._parts[:, columns])
        self._parts[:, columns] = EMPTY[:, None]
        self._blocks.add(columns, moments)

    def close(self, panes: Sequence[int], head: int) -> None:
        """Close the head grain, which was in these panes of the windows; ``head`` is the next."""
        self._buckets.close(panes, head)

    def advance(self, window: int, closed: int, head: int, oldest: int) -> None:
        """Let a window go from pane ``oldest`` to ``head``, after ``closed``."""
        self._blocks.advance(window, head)
        self._buckets.advance(window, closed, oldest)

    # -- out

    def refresh(self, window: int, columns: Ints, counts: Counts, first: int, last: int) -> None:
        """Compute what columns, in order, say: the head grain has ``counts`` values, the window is grains ``first`` …
        ``last``."""
        moments = self._moments(window, columns, counts)
        told = describe(moments)
        if self._percents:
            told = np.concatenate([told, self._buckets.read(window, columns, moments, first, last)])
        self._told[window, columns] = told.T

    def partials(self, window: int, columns: Ints, counts: Counts, first: int, last: int) -> list[RowPartial]:
        """Return what ``refresh`` computes from, to be merged with what others know of the same."""
        moments = self._moments(window, columns, counts)
        if self._percents:
            return self._buckets.partials(window, columns, moments, first, last)
        return [RowPartial(*one) for one in zip(moments.count.tolist(), moments.parts.T.tolist(), strict=True)]

    def _moments(self, window: int, columns: Ints, counts: Counts) -> Moments:
        moments = self._blocks.read(window, columns)
        if not counts.any():
            return moments
        return merge(moments, Moments(counts, self._parts.take(columns, axis=1, mode="clip")))

    def read(self, window: int, columns: Index) -> Floats:
        """Return what columns [n] said when they were computed [5 + percents, n]; NaN for CLOSED."""
        told: Floats = self._told[window].take(columns, axis=0, mode="clip")
        told[columns == CLOSED] = np.nan
        figures: Floats = told.T
        return figures

    # -- columns that go

    def forget(self, columns: Ints) -> None:
        """Forget the newest values of columns in which nothing is counted any more."""
        if self._percents:
            self._buckets.forget(columns)

    def discard(self, columns: Ints) -> None:
        """Forget columns, in order, whatever is in them."""
        self._parts[:, columns] = EMPTY[:, None]
        self._blocks.discard(columns)
        self._buckets.discard(columns)
