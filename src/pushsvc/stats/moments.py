"""Count, sum, mean, min, max and std of groups, in a form that merges without losing digits.

A partial is a count and five floats: ``total`` and ``carry`` (the sum as an unevaluated pair of about 100 bits),
``spread`` (M2, the sum of squared distances from the mean), ``low`` and ``high``. Two partials merge by the distance of
their means (T. F. Chan, G. H. Golub, R. J. LeVeque: Updating formulae and a pairwise algorithm for computing sample
variances, 1979). Each mean is an unevaluated pair too, so that the distance is correct to the last bits for means of
any magnitude; therefore std survives jumps of 1e9 and spikes of 1e15. Nothing is subtracted from a sum: expired values
are left out of the next merge. A statistic beyond the range of doubles is NaN or infinite, which JSON shows as null.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pushsvc.stats.arrays import Counts, Floats, Index, Ints, lengths_of, runs_of

MOMENTS = 5  # number of statistics of a partial: sum, mean, min, max and std
TOTAL, CARRY, SPREAD, LOW, HIGH = range(5)
PARTS = 5
EMPTY = np.array([0.0, 0.0, 0.0, np.inf, -np.inf])  # the five floats of a partial without values
_UPPER_BITS = np.int64(-1 << 27)
_GIANT = 900


@dataclass(frozen=True, slots=True)
class Moments:
    """Partials: ``count`` [n] and ``parts`` [5, n] (TOTAL … HIGH)."""

    count: Counts
    parts: Floats

    def __len__(self) -> int:
        return len(self.count)

    def take(self, index: Index | slice) -> Moments:
        if isinstance(index, slice):
            return Moments(self.count[index], self.parts[:, index])
        return Moments(self.count[index], self.parts.take(index, axis=1, mode="clip"))  # other modes buffer


def empty(size: int) -> Floats:
    """Return the floats [5, size] of partials without values."""
    parts = np.empty((PARTS, size))
    parts[:] = EMPTY[:, None]
    return parts


def reduce(values: Floats, starts: Ints) -> Moments:
    """Return one partial for each run of ``values``; ``starts`` [groups] begins with 0, and no run is empty."""
    lengths = lengths_of(starts, len(values))
    if len(starts) == len(values):
        nothing = np.zeros(len(values))
        return Moments(lengths.astype(np.int32), np.stack([values, nothing, nothing, values, values]))
    parts = np.empty((PARTS, len(starts)))
    with np.errstate(over="ignore", invalid="ignore"):
        np.minimum.reduceat(values, starts, out=parts[LOW])
        np.maximum.reduceat(values, starts, out=parts[HIGH])
        parts[TOTAL], parts[CARRY] = _sum(values, starts, lengths, np.maximum(-parts[LOW], parts[HIGH]))
        mean, rest = _mean(lengths.astype(np.float64), parts[TOTAL], parts[CARRY])
        away = values - np.repeat(mean, lengths)
        away -= np.repeat(rest, lengths)
        away *= away
        np.add.reduceat(away, starts, out=parts[SPREAD])
    return Moments(lengths.astype(np.int32), parts)


def merge(one: Moments, other: Moments) -> Moments:
    """Merge partials pairwise; partials may be empty."""
    with np.errstate(over="ignore", invalid="ignore"):
        n, m = one.count.astype(np.float64), other.count.astype(np.float64)
        a, b = one.parts, other.parts
        parts = np.empty(a.shape)
        high, low = _two_sum(a[TOTAL], b[TOTAL])
        low += a[CARRY] + b[CARRY]
        parts[TOTAL] = high + low
        parts[CARRY] = low - (parts[TOTAL] - high)
        mean, rest = _mean(n, a[TOTAL], a[CARRY])
        other_mean, other_rest = _mean(m, b[TOTAL], b[CARRY])
        away = (mean - other_mean) + (rest - other_rest)
        weight = n * m
        weight /= np.maximum(n + m, 1.0)
        parts[SPREAD] = a[SPREAD] + b[SPREAD] + np.where(weight, away * away * weight, 0.0)
        np.minimum(a[LOW], b[LOW], out=parts[LOW])
        np.maximum(a[HIGH], b[HIGH], out=parts[HIGH])
    return Moments(np.add(one.count, other.count, dtype=np.int64), parts)


def merge_runs(moments: Moments, starts: Ints) -> Moments:
    """Merge the partials of each run; ``starts`` [groups] begins with 0, and no run is empty."""
    if len(starts) == len(moments):
        return moments
    given = moments.parts
    lengths = lengths_of(starts, len(moments))
    count = np.add.reduceat(moments.count, starts, dtype=np.int32)
    parts = np.empty((PARTS, len(starts)))
    with np.errstate(over="ignore", invalid="ignore"):
        np.minimum.reduceat(given[LOW], starts, out=parts[LOW])
        np.maximum.reduceat(given[HIGH], starts, out=parts[HIGH])
        greatest = np.maximum.reduceat(np.abs(given[TOTAL]), starts)
        parts[TOTAL], parts[CARRY] = _sum(given[TOTAL], starts, lengths, greatest, given[CARRY])
        mean, rest = _mean(count.astype(np.float64), parts[TOTAL], parts[CARRY])
        weight = moments.count.astype(np.float64)
        own_mean, own_rest = _mean(weight, given[TOTAL], given[CARRY])
        away = (own_mean - np.repeat(mean, lengths)) + (own_rest - np.repeat(rest, lengths))
        np.add.reduceat(given[SPREAD] + weight * away * away, starts, out=parts[SPREAD])
    return Moments(count, parts)


def merge_equal(rows: Index, moments: Moments) -> tuple[Index, Moments]:
    """Merge the partials of equal rows; return the distinct rows, ascending, and their partials."""
    order = np.argsort(rows, kind="stable")
    rows = rows[order]
    starts = runs_of(rows)
    return rows[starts], merge_runs(moments.take(order), starts)


def describe(moments: Moments) -> Floats:
    """Return sum, mean, min, max and sample std (ddof 1) as [5, n]; undefined ones are NaN or infinite."""
    parts = moments.parts
    count = moments.count.astype(np.float64)
    with np.errstate(all="ignore"):
        total, carry = parts[TOTAL], parts[CARRY]
        mean, rest = _mean(count, total, carry)
        mean += rest
        mean[moments.count == 0] = np.nan
        std = np.sqrt(parts[SPREAD] / (count - 1.0))
        std[moments.count < 2] = np.nan
    return np.stack([total + carry, mean, parts[LOW], parts[HIGH], std])


def _sum(
    values: Floats, starts: Ints, lengths: Ints, greatest: Floats, carry: Floats | None = None
) -> tuple[Floats, Floats]:
    """Return the sum of each run as (rounded, rest). It does not depend on the order of a run or on other runs."""
    # Members are rounded to multiples of one power of two, so that their sum is exact; the remainders are summed
    # separately (S. M. Rump, T. Ogita, S. Oishi: Accurate floating-point summation, part I, 2008).
    exponent = np.frexp(greatest)[1] + np.frexp(lengths + 2.0)[1]
    ruler = np.where(exponent > _GIANT, 0.0, np.ldexp(1.0, np.minimum(exponent, _GIANT)))
    rulers = np.repeat(ruler, lengths)
    coarse = values + rulers
    coarse -= rulers
    head = np.add.reduceat(coarse, starts)
    rest = values - coarse
    tail = np.add.reduceat(rest if carry is None else rest + carry, starts)
    total = head + tail
    return total, tail - (total - head)


def _two_sum(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """Return the rounded sum and its rounding error (D. E. Knuth, The Art of Computer Programming 2, 4.2.2)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def _mean(count: Floats, total: Floats, carry: Floats) -> tuple[Floats, Floats]:
    """Return the mean as a pair. Both halves of the quotient times count are exact for at most 2**26 values."""
    count = np.maximum(count, 1.0)
    mean = total / count
    upper = (mean.view(np.int64) & _UPPER_BITS).view(np.float64)
    rest = (total - count * upper) - count * (mean - upper)
    rest += carry
    rest /= count
    return mean, rest
