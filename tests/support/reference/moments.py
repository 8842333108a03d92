"""Sums, means and deviations by exact fractions, and by merging panes as the engine does."""

from fractions import Fraction
from functools import cache
from math import sqrt

import numpy as np

from pushsvc.stats.moments import Moments, describe, empty, merge, reduce


def partial(values):
    if not len(values):
        return Moments(np.zeros(1, np.int32), empty(1))
    return reduce(np.array(values, float), np.array([0]))


def merged(panes):
    """Describe panes (lists of values, perhaps empty) merged as the engine does, pane after pane."""
    whole = partial([])
    for pane in panes:
        whole = merge(whole, partial(pane))
    return describe(whole)[:, 0].tolist()


@cache
def exact(values):
    """Return the sum and the mean of a tuple of values, each rounded once, and the std."""
    fractions, n = list(map(Fraction, values)), len(values)
    total = sum(fractions)
    spread = sum(value * value for value in fractions) - total * total / n
    return float(total), float(total / n), std_of(spread, n)


def std_of(spread, n):
    """Return the std of ``n`` values with an exact sum of squared distances: it is rounded once, halves upwards."""
    return sqrt(float(spread * (1 + Fraction(1, 2**85))) / (n - 1))


def exact_std(values):
    return exact(tuple(values))[2]


def noise(n, seed=1):
    return np.random.default_rng(seed).normal(size=n)
