"""Quantiles: the value of rank ceil(p / 100 * n), which is numpy's ``inverted_cdf``; from histograms or kept values.

The range from one power of two to the next has 128 buckets, as in G. Tene's HdrHistogram. The result is a bucket's end
nearer to zero, which is less than 1/128 nearer to zero than any value of the bucket, for every magnitude and sign. A
value of at most 8 significant bits, such as an integer up to 256, is such an end, so that its quantile is exact. Counts
are integers: a pane that leaves a window is subtracted exactly.

Beside its histogram a column keeps its newest values: a quantile of no more values than are kept is exact.
"""

from collections.abc import Sequence

import numpy as np

from pushsvc.stats.arrays import Counts, Floats, Ints, lengths_of, members_of, runs_of
from pushsvc.stats.pane_counts import CodeCounts
from pushsvc.stats.parts import Batch, append_merged, bytes_of, chosen, joined

NEWEST = 16  # values up to which a quantile is exact
BITS = 19  # bits of a bucket's number: sign, exponent, and the upper 7 bits of the mantissa
_SHIFT = np.uint64(64 - BITS)
_SIGN = np.uint64(1 << 63)
_ALL = np.uint64(2**64 - 1)
_MASK = (1 << BITS) - 1
_LONG_AGO = np.iinfo(np.int64).min

EarlyValues = Batch[np.float64]  # columns, grains and values [m]


def buckets_of(values: Floats) -> Ints:
    """Return the bucket of each value; numbers of buckets have the order of values."""
    bits = (values + 0.0).view(np.uint64)  # -0.0 becomes 0.0
    ordered = bits ^ np.where(bits & _SIGN, _ALL, _SIGN)
    return (ordered >> _SHIFT).view(np.int64)


def lower_ends(buckets: Ints) -> Floats:
    """Return the end nearer to zero of each bucket."""
    ordered = buckets.view(np.uint64) << _SHIFT
    bits = np.where(ordered & _SIGN, ordered ^ _SIGN, ~ordered & (_ALL << _SHIFT))
    return bits.view(np.float64)


class Histograms:
    """Counts of the buckets of a block's columns in several windows; a code is (column, bucket)."""

    STATE = ("counted",)

    def __init__(self, windows: int) -> None:
        self.counted = CodeCounts(windows, np.int32)

    def drop(self, columns: Ints) -> None:
        self.counted.keep(lambda codes: ~np.isin(codes >> BITS, columns))

    def buckets_in(self, window: int, column: int) -> tuple[Ints, Ints]:
        """Return the buckets of a column that are not empty, ascending, and their counts."""
        first, last = np.searchsorted(self.counted.codes, [column << BITS, (column + 1) << BITS])
        counts = self.counted.counts[window, first:last]
        there = np.flatnonzero(counts)
        return (self.counted.codes[first:last][there] & _MASK).astype(np.int64), counts[there]

    def totals(self, columns: Ints) -> Ints:
        """Return how many values each column has in the first window."""
        below = np.concatenate([[0], np.cumsum(self.counted.counts[0])])
        codes = self.counted.codes
        first, last = np.searchsorted(codes, (np.stack([columns, columns + 1]) << BITS).astype(codes.dtype))
        return np.asarray(below[last] - below[first])

    def quantiles(self, window: int, columns: Ints, count: Counts, percents: Sequence[int]) -> Floats:
        """Return [percents, n] of ascending columns, which have ``count`` [n] values in the window; NaN for none."""
        codes = self.counted.codes
        # Bounds of a wider type would make numpy convert all codes.
        bounds = (np.stack([columns, columns + 1]) << BITS).astype(codes.dtype)
        first, last = np.searchsorted(codes, bounds)
        lengths = last - first
        ends = np.cumsum(lengths)
        members = members_of(first, lengths)
        below = np.cumsum(self.counted.counts[window, members])
        codes = codes[members]
        base = np.where(ends > lengths, below[np.maximum(ends - lengths, 1) - 1], 0) if len(below) else first
        found = np.full((len(percents), len(columns)), np.nan)
        there = np.flatnonzero((count > 0) & (lengths > 0))
        ranks = (np.multiply.outer(count[there].astype(np.int64), percents) + 99) // 100
        place = np.searchsorted(below, (base[there][:, None] + ranks).ravel())  # ascending, hence fast
        ends = lower_ends((codes[place] & _MASK).astype(np.int64))
        found[:, there] = ends.reshape(ranks.shape).T
        return found


class NewestValues:
    """At most NEWEST values of each column, those of the newest grains."""

    STATE = ("_values", "_grains", "_early")

    def __init__(self) -> None:
        self._values: Floats = np.zeros((0, NEWEST))
        self._grains: Ints = np.full((0, NEWEST), _LONG_AGO)
        self._early: list[EarlyValues] = []

    @property
    def bytes(self) -> int:
        return bytes_of(self._values, self._grains, self._early)

    def reserve(self, columns: int) -> None:
        more = columns - len(self._values)
        if more > 0:
            self._values = np.concatenate([self._values, np.zeros((more, NEWEST))])
            self._grains = np.concatenate([self._grains, np.full((more, NEWEST), _LONG_AGO)])

    def add(self, columns: Ints, starts: Ints, grains: Ints, values: Floats) -> None:
        """Add a run of values [m] to each of the columns [n]; ``grains`` [m] ascend within a run. A value replaces the
        oldest one of its column unless it is older itself."""
        lengths = lengths_of(starts, len(values))
        for rank in range(min(NEWEST, int(lengths.max(initial=0)))):
            chosen = np.flatnonzero(lengths > rank)
            where, taken = columns[chosen], starts[chosen] + lengths[chosen] - 1 - rank
            slot = self._grains[where].argmin(axis=1)
            newer = self._grains[where, slot] <= grains[taken]
            where, slot, taken = where[newer], slot[newer], taken[newer]
            self._grains[where, slot] = grains[taken]
            self._values[where, slot] = values[taken]

    def add_early(self, columns: Ints, grains: Ints, values: Floats) -> None:
        """Keep values [m] of future grains separately, because windows do not contain them yet."""
        append_merged(self._early, _newest_of([(columns, grains, values)]), _newest_of)

    def promote_early(self, head: int) -> None:
        """Add the early values of grains up to ``head``."""
        if not any(grains.min() <= head for _, grains, _ in self._early):
            return
        early = _newest_of(self._early)
        due = early[1] <= head
        columns, grains, values = chosen(early, due)
        starts = runs_of(columns)
        self.add(columns[starts], starts, grains, values)
        self._early = [] if due.all() else [chosen(early, ~due)]

    def forget(self, columns: Ints) -> None:
        self._grains[columns] = _LONG_AGO
        kept = [chosen(early, ~np.isin(early[0], columns)) for early in self._early]
        self._early = [early for early in kept if len(early[0])]

    def quantiles(self, columns: Ints, first: int, last: int, count: Counts, percents: Sequence[int]) -> Floats:
        """Return [percents, n] over grains ``first`` … ``last``; NaN where not all ``count`` values are kept."""
        found = np.full((len(percents), len(columns)), np.nan)
        few = np.flatnonzero((count > 0) & (count <= NEWEST))
        if not len(few):
            return found
        ordered, inside = self._inside(columns[few], first, last)
        known = np.flatnonzero(inside == count[few])
        for number, percent in enumerate(percents):
            rank = (percent * count[few[known]].astype(np.int64) + 99) // 100
            found[number, few[known]] = ordered[known, rank - 1]
        return found

    def values(self, columns: Ints, first: int, last: int, count: Counts) -> list[list[float] | None]:
        """Return the values of each column, ascending; None where not all ``count`` values are kept."""
        ordered, inside = self._inside(columns, first, last)
        return [
            ordered[at, :own].tolist() if known == own else None
            for at, (known, own) in enumerate(zip(inside.tolist(), count.tolist(), strict=True))
        ]

    def _inside(self, columns: Ints, first: int, last: int) -> tuple[Floats, Ints]:
        """Return the kept values of columns [n] in grains ``first`` … ``last``, ascending, and their numbers [n]."""
        grains, values = self._grains[columns], self._values[columns]
        if self._early:
            early = self._early_of(columns)
            grains, values = np.hstack([grains, early[0]]), np.hstack([values, early[1]])
        inside = (grains >= first) & (grains <= last)
        return np.sort(np.where(inside, values, np.inf), axis=1), inside.sum(axis=1)

    def _early_of(self, columns: Ints) -> tuple[Ints, Floats]:
        """Return grains and values [n, NEWEST] of the earliest early values of ascending columns."""
        asked = np.zeros(len(self._grains), np.bool_)
        asked[columns] = True
        owners, ages, early = _ordered([chosen(one, asked[one[0]]) for one in self._early])
        grains = np.full((len(columns), NEWEST), _LONG_AGO)
        values = np.zeros((len(columns), NEWEST))
        first, last = (np.searchsorted(owners, columns, side=side) for side in ("left", "right"))
        for rank in range(min(NEWEST, int((last - first).max(initial=0)))):
            there = np.flatnonzero(last - first > rank)
            grains[there, rank] = ages[first[there] + rank]
            values[there, rank] = early[first[there] + rank]
        return grains, values


def _ordered(batches: Sequence[EarlyValues]) -> EarlyValues:
    """Return the values of batches by column and grain, within a grain by arrival."""
    columns, grains, _ = batch = joined(batches)
    return chosen(batch, np.lexsort((grains, columns)))


def _newest_of(batches: Sequence[EarlyValues]) -> EarlyValues:
    """Return the last NEWEST values of each column and grain, ordered; no head can need others."""
    columns, grains, _ = batch = _ordered(batches)
    kept = np.ones(len(columns), np.bool_)  # False: NEWEST newer values of the same grain follow
    kept[:-NEWEST] = (columns[NEWEST:] != columns[:-NEWEST]) | (grains[NEWEST:] != grains[:-NEWEST])
    return chosen(batch, kept)
