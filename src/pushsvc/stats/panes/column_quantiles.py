"""Quantiles of all columns: from their newest values while these are complete, else from histograms."""

from collections.abc import Sequence

import numpy as np

from pushsvc.stats.arrays import Counts, Floats, Index, Ints, runs_of, slices_of
from pushsvc.stats.moments import HIGH, LOW, Moments
from pushsvc.stats.pane_counts import IdCounts, count_ids, kept_counts, sum_by_id, sum_counts
from pushsvc.stats.panes.partials import RowPartial
from pushsvc.stats.panes.quantiles import BITS, Histograms, NewestValues, buckets_of
from pushsvc.stats.panes.two_stack import BLOCK, by_block
from pushsvc.stats.parts import append_merged, bytes_of

_PANE_SHIFT = 56
_CODE = (1 << _PANE_SHIFT) - 1


class ColumnQuantiles:
    """Values of several windows [W] by column. A value counts in its own column and in the column of its total
    (``totals``; negative for none)."""

    STATE = ("_windows", "_percents", "_histograms", "_newest", "_head")

    def __init__(self, windows: int, percents: Sequence[int]) -> None:
        self._windows = windows
        self._percents = tuple(percents)
        self._histograms: list[Histograms] = []
        self._newest = NewestValues()
        self._head: list[IdCounts] = []

    @property
    def bytes(self) -> int:
        return bytes_of(self._head, [histograms.counted for histograms in self._histograms], self._newest)

    def reserve(self, columns: int) -> None:
        self._newest.reserve(columns)
        while len(self._histograms) * BLOCK < columns:
            self._histograms.append(Histograms(self._windows))

    def add(self, columns: Index, totals: Index, values: Floats) -> None:
        """Count values of the head grain in all windows."""
        codes = _codes_of(columns, totals, values)
        append_merged(self._head, codes, sum_counts)
        self._count(slice(None), codes)

    def add_late(self, window: int, panes: Ints, columns: Index, totals: Index, values: Floats) -> None:
        """Count late values in panes of a window."""
        first = int(panes.min())
        codes, counts = _codes_of(columns, totals, values, (panes - first) << _PANE_SHIFT)
        for here in slices_of(codes >> _PANE_SHIFT):
            pane = first + int(codes[here.start] >> _PANE_SHIFT)
            self._add_to_pane(window, pane, (codes[here] & _CODE, counts[here]))
        self._count(window, sum_by_id(codes & _CODE, counts))

    def keep(self, columns: Index, totals: Index, values: Floats, grains: Ints, head: int) -> None:
        """Keep the newest values of each column; those of grains after ``head`` separately until their grain comes."""
        keyed = totals >= 0
        for owners, mine in ((columns, slice(None)), (totals[keyed], np.flatnonzero(keyed))):
            own, ages, these = owners.astype(np.int64), grains[mine], values[mine]
            early = ages > head
            if early.any():
                self._newest.add_early(own[early], ages[early], these[early])
                own, ages, these = own[~early], ages[~early], these[~early]
            if len(own):
                same = ages[0] == head and ages.min() == head
                order = np.argsort(own) if same else np.lexsort((ages, own))
                own = own[order]
                starts = runs_of(own)
                self._newest.add(own[starts], starts, ages[order], these[order])

    def close(self, panes: Sequence[int], head: int) -> None:
        """Close the head grain, which was in ``panes`` [W]; ``head`` is the next one."""
        if self._head:
            codes, self._head = sum_counts(self._head), []
            for window, pane in enumerate(panes):
                self._add_to_pane(window, pane, codes)
        self._newest.promote_early(head)

    def advance(self, window: int, closed: int, oldest: int) -> None:
        """Close a pane of a window, and subtract the panes before ``oldest``."""
        for histograms in self._histograms:
            histograms.counted.advance(window, closed, oldest)

    def read(self, window: int, columns: Ints, moments: Moments, first: int, last: int) -> Floats:
        """Return quantiles [percents, n] of ascending columns over grains ``first`` … ``last``. They are exact for at
        most NEWEST values, else approximate, but never outside the least and the greatest value."""
        count = moments.count
        found = self._newest.quantiles(columns, first, last, count, self._percents)
        many = np.flatnonzero(np.isnan(found[0]) & (count > 0))
        for number, here in by_block(columns[many]):
            chosen = many[here]
            local = columns[chosen] - number * BLOCK
            approximate = self._histograms[number].quantiles(window, local, count[chosen], self._percents)
            found[:, chosen] = np.clip(approximate, moments.parts[LOW, chosen], moments.parts[HIGH, chosen])
        return found

    def partials(self, window: int, columns: Ints, moments: Moments, first: int, last: int) -> list[RowPartial]:
        """Return the mergeable states of ascending columns over grains ``first`` … ``last``."""
        newest = self._newest.values(columns, first, last, moments.count)
        found = []
        for column, count, parts, values in zip(
            columns.tolist(), moments.count.tolist(), moments.parts.T.tolist(), newest, strict=True
        ):
            buckets, counts = self._histograms[column // BLOCK].buckets_in(window, column % BLOCK)
            found.append(RowPartial(count, parts, buckets.tobytes(), counts.tobytes(), values))
        return found

    def forget(self, columns: Ints) -> None:
        """Forget the newest values of columns without events."""
        self._newest.forget(columns)

    def drop(self, columns: Ints) -> None:
        """Drop everything in columns, ascending."""
        self._newest.forget(columns)
        for number, here in by_block(columns):
            self._histograms[number].drop(columns[here] - number * BLOCK)
        self._head = kept_counts(self._head, lambda codes: ~np.isin(codes >> BITS, columns))

    def _count(self, window: int | slice, codes: IdCounts) -> None:
        for number, own, counts in _by_block(codes):
            self._histograms[number].counted.add(window, own, counts)

    def _add_to_pane(self, window: int, pane: int, codes: IdCounts) -> None:
        for number, own, counts in _by_block(codes):
            self._histograms[number].counted.add_to_pane(window, pane, own, counts)


def _codes_of(columns: Index, totals: Index, values: Floats, panes: Ints | None = None) -> IdCounts:
    """Return the codes (column, bucket) of values, ascending and distinct, and their counts. With ``panes`` a code is
    (pane, column, bucket)."""
    buckets, keyed = buckets_of(values), totals >= 0
    own = (columns.astype(np.int64) << BITS) | buckets
    together = (totals[keyed].astype(np.int64) << BITS) | buckets[keyed]
    if panes is not None:
        own, together = own | panes, together | panes[keyed]
    return count_ids(np.concatenate([own, together]))


def _by_block(counted: IdCounts) -> list[tuple[int, Index, Counts]]:
    """Divide codes among the blocks of their columns; return number, codes and counts of each block."""
    codes, counts = counted
    return [
        (number, (codes[here] - number * (BLOCK << BITS)).astype(np.int32), counts[here])
        for number, here in by_block(codes >> BITS)
    ]
