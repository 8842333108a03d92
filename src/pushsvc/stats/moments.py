"""Count, sum, mean, min, max and std of groups, in a form that merges without losing digits.

A partial is a count and six floats: ``pivot`` (the first value in log order), ``total`` and ``carry`` (the sum as an
unevaluated pair), ``spread`` (M2, the sum of squared distances from the mean), ``low`` and ``high``. The distance of
the mean from the pivot follows from them with a relative error of one rounding, so two means are compared through
their pivots and never formed: that is why std survives jumps of 1e9 and spikes of 1e15. Nothing is ever subtracted
from a sum; what leaves a window is left out of the next merge. A statistic beyond the range of doubles becomes NaN or
infinite, and so null.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PIVOT, TOTAL, CARRY, SPREAD, LOW, HIGH = range(6)
PARTS = 6
EMPTY = np.array([0.0, 0.0, 0.0, 0.0, np.inf, -np.inf])
"""The six floats of a partial without values."""

_UPPER_BITS = np.int64(-1 << 27)
_GIANT = 900


@dataclass(frozen=True, slots=True)
class Moments:
    """Partials: ``count`` of any shape, ``parts`` of that shape behind a first axis of six (PIVOT … HIGH)."""

    count: Ints
    parts: Floats

    @classmethod
    def of_values(cls, values: Floats) -> Moments:
        """Return one partial for each value, shape [n]."""
        parts = np.zeros((PARTS, len(values)))
        parts[[PIVOT, TOTAL, LOW, HIGH]] = values
        return cls(np.ones(len(values), np.int64), parts)


class Groups(Protocol):
    """How partials belong together: reductions to one element per group, and ``spread`` back to the members."""

    bits: int

    def add(self, values: Floats) -> Floats: ...
    def count(self, values: Ints) -> Ints: ...
    def least(self, values: Floats) -> Floats: ...
    def greatest(self, values: Floats) -> Floats: ...
    def first(self, values: Floats) -> Floats: ...
    def spread(self, values: Floats) -> Floats: ...


class Runs:
    """Groups that are runs of a sorted array: ``starts`` [groups], none empty, over ``size`` elements."""

    def __init__(self, starts: Ints, size: int) -> None:
        self._starts = starts
        self._lengths = np.diff(starts, append=size)
        self.bits = (int(self._lengths.max()) + 2).bit_length()

    def add(self, values: Floats) -> Floats:
        return np.add.reduceat(values, self._starts)

    def count(self, values: Ints) -> Ints:
        return np.add.reduceat(values, self._starts)

    def least(self, values: Floats) -> Floats:
        return np.minimum.reduceat(values, self._starts)

    def greatest(self, values: Floats) -> Floats:
        return np.maximum.reduceat(values, self._starts)

    def first(self, values: Floats) -> Floats:
        return values[self._starts]

    def spread(self, values: Floats) -> Floats:
        return np.repeat(values, self._lengths)


class Stacks:
    """Groups that are the columns of arrays [members, groups]; members without values are allowed."""

    def __init__(self, count: Ints) -> None:
        self.bits = (len(count) + 2).bit_length()
        self._first = (count > 0).argmax(axis=0)
        self._columns = np.arange(count.shape[1])

    def add(self, values: Floats) -> Floats:
        return np.asarray(np.add.reduce(values, axis=0))

    def count(self, values: Ints) -> Ints:
        return np.asarray(np.add.reduce(values, axis=0))

    def least(self, values: Floats) -> Floats:
        return np.asarray(np.minimum.reduce(values, axis=0))

    def greatest(self, values: Floats) -> Floats:
        return np.asarray(np.maximum.reduce(values, axis=0))

    def first(self, values: Floats) -> Floats:
        return np.asarray(values[self._first, self._columns])

    def spread(self, values: Floats) -> Floats:
        return values


def combine(moments: Moments, groups: Groups) -> Moments:
    """Merge the members of each group into one partial."""
    parts = moments.parts
    weight = moments.count.astype(np.float64)
    count = groups.count(moments.count)
    merged = np.empty((PARTS, len(count)))
    with np.errstate(over="ignore", invalid="ignore"):
        merged[PIVOT] = pivot = groups.first(parts[PIVOT])
        merged[TOTAL], merged[CARRY] = total, carry = _sum(parts[TOTAL], parts[CARRY], groups)
        members = count.astype(np.float64)
        centre = _offset(members, pivot, total, carry)
        offset = _offset(weight, parts[PIVOT], parts[TOTAL], parts[CARRY])
        distance = (parts[PIVOT] - groups.spread(pivot)) + (offset - groups.spread(centre))
        moved = weight * distance
        lean = groups.add(moved)
        spread = groups.add(parts[SPREAD] + moved * distance) - lean * lean / np.maximum(members, 1.0)
        merged[SPREAD] = np.maximum(spread, 0.0)
    merged[LOW] = groups.least(parts[LOW])
    merged[HIGH] = groups.greatest(parts[HIGH])
    return Moments(count, merged)


def describe(moments: Moments) -> Floats:
    """Return sum, mean, min, max and std as [5, n]; what does not exist is NaN or infinite."""
    parts = moments.parts
    count = moments.count.astype(np.float64)
    with np.errstate(all="ignore"):
        total, carry = parts[TOTAL], parts[CARRY]
        mean = total / count
        mean += _offset(count, mean, total, carry)
        std = np.sqrt(parts[SPREAD] / (count - 1.0))
        std[moments.count < 2] = np.nan
    return np.stack([total + carry, mean, parts[LOW], parts[HIGH], std])


def _sum(total: Floats, carry: Floats, groups: Groups) -> tuple[Floats, Floats]:
    """Return the sum of each group as (rounded, rest), in any order of the members the same.

    Rounding every member to a multiple of one power of two makes their sum exact; what was cut off is summed apart
    (S. M. Rump, T. Ogita, S. Oishi: Accurate floating-point summation, part I, 2008).
    """
    exponent = np.frexp(groups.greatest(np.abs(total)))[1] + groups.bits
    ruler = groups.spread(np.where(exponent > _GIANT, 0.0, np.ldexp(1.0, np.minimum(exponent, _GIANT))))
    coarse = (total + ruler) - ruler
    head = groups.add(coarse)
    tail = groups.add((total - coarse) + carry)
    rounded = head + tail
    part = rounded - head
    return rounded, (head - (rounded - part)) + (tail - part)


def _offset(count: Floats, pivot: Floats, total: Floats, carry: Floats) -> Floats:
    """Return mean - pivot. Both halves of the pivot times count are exact up to 2**26 values."""
    upper = (pivot.view(np.int64) & _UPPER_BITS).view(np.float64)
    rest = (total - count * upper) - count * (pivot - upper)
    offset: Floats = (rest + carry) / np.maximum(count, 1.0)
    return offset
