"""Quantiles of windows: the value of rank ceil(p / 100 * n), as numpy's ``inverted_cdf`` has it.

Values are counted in buckets of 128 to the power of two, so a bucket's lower end (towards zero) is less than 1/128
below any value in it, whatever the magnitude and on either side of zero; a value of at most 8 significant bits,
as every integer up to 256, is a lower end itself and comes back as it is (buckets of that form: G. Tene's
HdrHistogram).
Counts are integers, so what leaves a window is taken off exactly. Beside the buckets each column keeps its NEWEST
values as they are: a quantile of no more than those is exact.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pushsvc.stats.arrays import Counts, Flags, Floats, Ints, lengths_of, members_of, runs_of
from pushsvc.stats.code_counts import CodeCounts

NEWEST = 16
"""Values up to which a quantile is exact."""

BITS = 19
"""Bits of a bucket: sign, exponent, and the upper 7 of the mantissa."""

_SHIFT = np.uint64(64 - BITS)
_SIGN = np.uint64(1 << 63)
_ALL = np.uint64(2**64 - 1)
_MASK = (1 << BITS) - 1
_MANY = 32
_LONG_AGO = np.iinfo(np.int64).min

Early = tuple[Ints, Ints, Floats]
"""Columns, grains and values [m]."""


def buckets_of(values: Floats) -> Ints:
    """Return the bucket of each value, numbered in the order of values."""
    bits = (values + 0.0).view(np.uint64)  # -0.0 becomes 0.0
    ordered = bits ^ np.where(bits & _SIGN, _ALL, _SIGN)
    return (ordered >> _SHIFT).view(np.int64)


def lower_ends(buckets: Ints) -> Floats:
    """Return the end of each bucket that is nearer to zero."""
    ordered = buckets.view(np.uint64) << _SHIFT
    bits = np.where(ordered & _SIGN, ordered ^ _SIGN, ~ordered & (_ALL << _SHIFT))
    return bits.view(np.float64)


class Histograms:
    """The buckets of some columns in several windows: a code is column and bucket."""

    STATE = ("counted",)

    def __init__(self, windows: int) -> None:
        self.counted = CodeCounts(windows, np.int32)

    def discard(self, columns: Ints) -> None:
        """Forget columns, whatever is in them."""
        self.counted.keep(lambda codes: ~np.isin(codes >> BITS, columns))

    def held(self, window: int, column: int) -> tuple[Ints, Ints]:
        """Return the buckets of a column that hold anything, in order, and how much."""
        first, last = np.searchsorted(self.counted.codes, [column << BITS, (column + 1) << BITS])
        counts = self.counted.counts[window, first:last]
        there = np.flatnonzero(counts)
        return (self.counted.codes[first:last][there] & _MASK).astype(np.int64), counts[there]

    def quantiles(self, window: int, columns: Ints, count: Counts, percents: Sequence[int]) -> Floats:
        """Return [percents, n] for columns, in order, with so many values in the window; NaN without any."""
        codes = self.counted.codes
        bounds = (np.stack([columns, columns + 1]) << BITS).astype(codes.dtype)  # or all codes would be widened
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
        place = np.searchsorted(below, (base[there][:, None] + ranks).ravel())  # near each other, and so soon found
        ends = lower_ends((codes[place] & _MASK).astype(np.int64))
        found[:, there] = ends.reshape(ranks.shape).T
        return found


class NewestValues:
    """The values with the newest grains of each column, at most NEWEST of them."""

    STATE = ("_values", "_grains", "_early")

    def __init__(self) -> None:
        self._values: Floats = np.zeros((0, NEWEST))
        self._grains: Ints = np.full((0, NEWEST), _LONG_AGO)
        self._early: list[Early] = []

    @property
    def bytes(self) -> int:
        """Size of what is held."""
        early = sum(array.nbytes for chunk in self._early for array in chunk)
        return self._values.nbytes + self._grains.nbytes + early

    def reserve(self, columns: int) -> None:
        more = columns - len(self._values)
        if more > 0:
            self._values = np.concatenate([self._values, np.zeros((more, NEWEST))])
            self._grains = np.concatenate([self._grains, np.full((more, NEWEST), _LONG_AGO)])

    def add(self, columns: Ints, starts: Ints, grains: Ints, values: Floats) -> None:
        """Take in a run of values [m] for each of the columns [n], its newest last; grains [m].

        Each value replaces the oldest of its column unless it is older itself.
        """
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
        """Keep values [m] apart whose grains are still to come: they may be in a window or not."""
        self._early.append(_newest_of_each(columns, grains, values))
        if len(self._early) >= _MANY:
            self._early = [_newest_of_each(*_joined(self._early))]

    def ripen(self, head: int) -> None:
        """Take in the early values of grains up to ``head``."""
        if not any(grains.min() <= head for _, grains, _ in self._early):
            return
        columns, grains, values = _newest_of_each(*_joined(self._early))
        ripe = grains <= head
        starts = runs_of(columns[ripe])
        self.add(columns[ripe][starts], starts, grains[ripe], values[ripe])
        self._early = [] if ripe.all() else [(columns[~ripe], grains[~ripe], values[~ripe])]

    def forget(self, columns: Ints) -> None:
        """Forget what is known of columns."""
        self._grains[columns] = _LONG_AGO
        kept = [_chosen(early, ~np.isin(early[0], columns)) for early in self._early]
        self._early = [early for early in kept if len(early[0])]

    def quantiles(self, columns: Ints, first: int, last: int, count: Counts, percents: Sequence[int]) -> Floats:
        """Return [percents, n] over grains ``first`` … ``last``; NaN where not all ``count`` values are known."""
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
        """Return the values of columns, in order; None where not all ``count`` are known."""
        ordered, inside = self._inside(columns, first, last)
        return [
            ordered[at, :own].tolist() if known == own else None
            for at, (known, own) in enumerate(zip(inside.tolist(), count.tolist(), strict=True))
        ]

    def _inside(self, columns: Ints, first: int, last: int) -> tuple[Floats, Ints]:
        """Return the known values of columns [n], in order, in grains ``first`` … ``last``, and how many these are."""
        grains, values = self._grains[columns], self._values[columns]
        if self._early:
            early = self._early_of(columns)
            grains, values = np.hstack([grains, early[0]]), np.hstack([values, early[1]])
        inside = (grains >= first) & (grains <= last)
        return np.sort(np.where(inside, values, np.inf), axis=1), inside.sum(axis=1)

    def _early_of(self, columns: Ints) -> tuple[Ints, Floats]:
        """Return grains and values [n, NEWEST] of the first early values of columns, in order."""
        wanted = np.zeros(len(self._grains), np.bool_)
        wanted[columns] = True
        owners, ages, early = _sorted(*_joined([_chosen(one, wanted[one[0]]) for one in self._early]))
        grains = np.full((len(columns), NEWEST), _LONG_AGO)
        values = np.zeros((len(columns), NEWEST))
        first, last = (np.searchsorted(owners, columns, side=side) for side in ("left", "right"))
        for rank in range(min(NEWEST, int((last - first).max(initial=0)))):
            there = np.flatnonzero(last - first > rank)
            grains[there, rank] = ages[first[there] + rank]
            values[there, rank] = early[first[there] + rank]
        return grains, values


def _joined(chunks: Sequence[Early]) -> Early:
    columns, grains, values = (np.concatenate(arrays) for arrays in zip(*chunks, strict=True))
    return columns, grains, values


def _chosen(early: Early, mask: Flags) -> Early:
    return early[0][mask], early[1][mask], early[2][mask]


def _sorted(columns: Ints, grains: Ints, values: Floats) -> Early:
    """Order by column and grain; in one grain as they came."""
    order = np.lexsort((grains, columns))
    return columns[order], grains[order], values[order]


def _newest_of_each(columns: Ints, grains: Ints, values: Floats) -> Early:
    """Return the last NEWEST values of each column and grain, in order: whatever the head, no others are asked for."""
    columns, grains, values = _sorted(columns, grains, values)
    same = np.flatnonzero((columns[NEWEST:] == columns[:-NEWEST]) & (grains[NEWEST:] == grains[:-NEWEST]))
    if not len(same):
        return columns, grains, values
    kept = np.ones(len(columns), np.bool_)
    kept[same] = False  # as many newer ones of the same grain follow
    return columns[kept], grains[kept], values[kept]
