"""Histograms for quantiles: the value of rank ceil(p / 100 * n), which is numpy's ``inverted_cdf``.

The range from one power of two to the next has 128 buckets, as in G. Tene's HdrHistogram. The result is a bucket's end
nearer to zero, which is less than 1/128 nearer to zero than any value of the bucket, for every magnitude and sign. A
value of at most 8 significant bits, such as an integer up to 256, is such an end, so that its quantile is exact. Counts
are integers: a pane that leaves a window is subtracted exactly.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pushsvc.stats.arrays import Counts, Floats, Ints, members_of
from pushsvc.stats.code_counts import CodeCounts

BITS = 19
"""Bits of a bucket's number: sign, exponent, and the upper 7 bits of the mantissa."""

_SHIFT = np.uint64(64 - BITS)
_SIGN = np.uint64(1 << 63)
_ALL = np.uint64(2**64 - 1)
_MASK = (1 << BITS) - 1


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
        """Drop everything in columns."""
        self.counted.keep(lambda codes: ~np.isin(codes >> BITS, columns))

    def buckets_in(self, window: int, column: int) -> tuple[Ints, Ints]:
        """Return the buckets of a column that are not empty, ascending, and their counts."""
        first, last = np.searchsorted(self.counted.codes, [column << BITS, (column + 1) << BITS])
        counts = self.counted.counts[window, first:last]
        there = np.flatnonzero(counts)
        return (self.counted.codes[first:last][there] & _MASK).astype(np.int64), counts[there]

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
