"""Count, sum, mean, min, max and std of groups, in a form that merges without losing digits.

A partial is a count and six floats: ``total`` and ``carry`` (the sum as an unevaluated pair of about 100 bits),
``spread`` (M2, the sum of squared distances from the mean), ``low``, ``high`` and ``fine`` (the rest of the spread, a
pair too). Partials merge by the distances of their means (T. F. Chan, G. H. Golub, R. J. LeVeque: Updating formulae and
a pairwise algorithm for computing sample variances, 1979), which are pairs as well; therefore std survives jumps of 1e9
and spikes of 1e15. Statistics are rounded once, from about 100 bits: they have the same bits however the values were
divided into partials, unless the values lie 1e12 times nearer to each other than to zero, or squares of distances are
below 1e-290. Nothing is subtracted from a sum: expired values are left out of the next merge. A statistic beyond the
range of doubles is NaN or infinite, which JSON shows as null.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pushsvc.stats.arrays import Counts, Floats, Index, Ints, lengths_of, runs_of

MOMENTS = 5  # number of statistics of a partial: sum, mean, min, max and std
TOTAL, CARRY, SPREAD, LOW, HIGH, FINE = range(6)
PARTS = 6
EMPTY = np.array([0.0, 0.0, 0.0, np.inf, -np.inf, 0.0])  # the floats of a partial without values
_UPPER_BITS = np.int64(-1 << 27)
_GIANT = 1_020
_UPWARD = 2.0**-85
_NOISE = 2.0**-95


@dataclass(frozen=True, slots=True)
class Moments:
    """Partials: ``count`` [n] and ``parts`` [6, n] (TOTAL … FINE)."""

    count: Counts
    parts: Floats

    def __len__(self) -> int:
        return len(self.count)

    def take(self, index: Index | slice) -> Moments:
        if isinstance(index, slice):
            return Moments(self.count[index], self.parts[:, index])
        return Moments(self.count[index], self.parts.take(index, axis=1, mode="clip"))  # other modes buffer


def empty(size: int) -> Floats:
    """Return the floats [6, size] of partials without values."""
    parts = np.empty((PARTS, size))
    parts[:] = EMPTY[:, None]
    return parts


def reduce(values: Floats, starts: Ints) -> Moments:
    """Return one partial for each run of ``values``; ``starts`` [groups] begins with 0, and no run is empty."""
    lengths = lengths_of(starts, len(values))
    if len(starts) == len(values):
        nothing = np.zeros(len(values))
        return Moments(lengths.astype(np.int32), np.stack([values, nothing, nothing, values, values, nothing]))
    parts = np.empty((PARTS, len(starts)))
    with np.errstate(over="ignore", invalid="ignore"):
        np.minimum.reduceat(values, starts, out=parts[LOW])
        np.maximum.reduceat(values, starts, out=parts[HIGH])
        parts[TOTAL], parts[CARRY] = _sum(values, starts, lengths, np.maximum(-parts[LOW], parts[HIGH]))
        mean, rest = _divide(parts[TOTAL], parts[CARRY], lengths.astype(np.float64))
        squares, fine = _square(*_two_sum(values, np.repeat(-mean, lengths)))
        greatest = np.maximum(parts[HIGH] - mean, mean - parts[LOW])
        spread, fine = _sum(squares, starts, lengths, greatest * greatest, fine)
        # These are distances from the rounded mean. The exact one lies ``rest`` beside it.
        parts[SPREAD], parts[FINE] = _normal(spread, fine - lengths * rest * rest)
    return Moments(lengths.astype(np.int32), parts)


def merge(one: Moments, other: Moments) -> Moments:
    """Merge partials pairwise; partials may be empty."""
    with np.errstate(over="ignore", invalid="ignore"):
        n, m = one.count.astype(np.float64), other.count.astype(np.float64)
        a, b = one.parts, other.parts
        parts = np.empty(a.shape)
        parts[TOTAL], parts[CARRY] = _add(a[TOTAL], a[CARRY], b[TOTAL], b[CARRY])
        away = _divide(*_divide(*_add(*_times(a[TOTAL], a[CARRY], m), *_times(-b[TOTAL], -b[CARRY], n)), n), m)
        between, fine = _times(*_divide(*_times(*_square(*away), n), n + m), m)
        empty_one = n * m == 0.0  # what is taken out of shared rows may leave a sum without values
        between[empty_one] = 0.0
        fine[empty_one] = 0.0
        spread, rest = _add(a[SPREAD], a[FINE], b[SPREAD], b[FINE])
        parts[SPREAD], parts[FINE] = _add(spread, rest, between, fine)
        np.minimum(a[LOW], b[LOW], out=parts[LOW])
        np.maximum(a[HIGH], b[HIGH], out=parts[HIGH])
    return Moments(np.add(one.count, other.count, dtype=np.int64), parts)


def without(moments: Moments, values: Floats) -> Moments:
    """Take one of its values out of each partial, by the inverse of a merge. Low and high stay as they are."""
    left = Moments(moments.count - 1, moments.parts.copy())
    with np.errstate(over="ignore", invalid="ignore"):
        n, parts = left.count.astype(np.float64), left.parts
        nothing = np.zeros(len(values))
        parts[TOTAL], parts[CARRY] = _add(parts[TOTAL], parts[CARRY], -values, nothing)
        away = _divide(*_add(*_times(values, nothing, n), -parts[TOTAL], -parts[CARRY]), n)
        between, fine = _divide(*_times(*_square(*away), n), n + 1.0)
        spread, rest = _add(parts[SPREAD], parts[FINE], -between, -fine)
        noise = spread <= parts[SPREAD] * _NOISE  # the values left are equal, as far as the digits tell
        parts[SPREAD], parts[FINE] = np.where(noise, 0.0, spread), np.where(noise, 0.0, rest)
    return left


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
        own, whole = moments.count.astype(np.float64), np.repeat(count.astype(np.float64), lengths)
        total, carry = np.repeat(parts[TOTAL], lengths), np.repeat(parts[CARRY], lengths)
        away = _add(*_times(given[TOTAL], given[CARRY], whole), *_times(-total, -carry, own))
        between, fine = _times(*_square(*_divide(*_divide(*away, whole), own)), own)
        spread, fine = _add(given[SPREAD], given[FINE], between, fine)
        parts[SPREAD], parts[FINE] = _sum(spread, starts, lengths, np.maximum.reduceat(spread, starts), fine)
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
        mean, rest = _divide(total, carry, count)
        mean += rest
        mean[moments.count == 0] = np.nan
        # A spread may lie exactly between two doubles. There the last of the 100 bits, which depend on the order of
        # merges, must not choose: such spreads are rounded up.
        spread = parts[SPREAD] + (parts[FINE] + parts[SPREAD] * _UPWARD)
        std = np.sqrt(spread / (count - 1.0))
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


# Pairs: unevaluated sums of two doubles (T. J. Dekker: A floating-point technique for extending the available
# precision, 1971). The functions below err by some 2**-100 of the result.


def _add(a: Floats, a_rest: Floats, b: Floats, b_rest: Floats) -> tuple[Floats, Floats]:
    """Return the sum of two pairs."""
    total, rest = _two_sum(a, b)
    rest += a_rest
    rest += b_rest
    return _normal(total, rest)


def _square(a: Floats, rest: Floats) -> tuple[Floats, Floats]:
    """Return the square of a pair."""
    upper = _upper_half(a)
    lower = a - upper
    square = a * a
    low = upper * upper
    low -= square
    upper *= 2.0
    upper *= lower
    low += upper
    lower *= lower
    low += lower
    low += 2.0 * a * rest
    return square, low


def _times(a: Floats, rest: Floats, count: Floats) -> tuple[Floats, Floats]:
    """Return a pair times a whole number up to 2**26."""
    upper = _upper_half(a)
    lower = a - upper
    product = a * count
    upper *= count
    upper -= product
    lower *= count
    upper += lower
    upper += rest * count
    return product, upper


def _divide(a: Floats, rest: Floats, count: Floats) -> tuple[Floats, Floats]:
    """Return a pair divided by a whole number up to 2**26. Zero stands for one."""
    count = np.maximum(count, 1.0)
    quotient = a / count
    upper = _upper_half(quotient)
    lower = quotient - upper
    upper *= count
    lower *= count
    left = a - upper
    left -= lower
    left += rest
    left /= count
    return quotient, left


def _normal(total: Floats, rest: Floats) -> tuple[Floats, Floats]:
    """Return a pair of which the first is the rounded sum."""
    rounded = total + rest
    return rounded, rest - (rounded - total)


def _two_sum(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """Return the rounded sum and its rounding error (D. E. Knuth, The Art of Computer Programming 2, 4.2.2)."""
    total = a + b
    part = total - a
    rest = b - part
    np.subtract(total, part, out=part)
    np.subtract(a, part, out=part)
    rest += part
    return total, rest


def _upper_half(a: Floats) -> Floats:
    """Return the upper 26 bits: their products with the upper or lower half of a double are exact."""
    return (a.view(np.int64) & _UPPER_BITS).view(np.float64)
