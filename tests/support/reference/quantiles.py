"""Quantiles by numpy's ``inverted_cdf``, and values as codes of one column."""

import numpy as np

from pushsvc.stats.arrays import runs_of
from pushsvc.stats.panes.quantiles import BITS, buckets_of

PERCENTS = (1, 25, 50, 90, 95, 99)


def expected(values):
    return [float(np.quantile(values, percent / 100, method="inverted_cdf")) for percent in PERCENTS]


def codes_of(column, values):
    codes = np.sort((column << BITS) | buckets_of(np.array(values, float)))
    starts = runs_of(codes)
    return codes[starts].astype(np.int32), np.diff(starts, append=len(codes)).astype(np.int32)
