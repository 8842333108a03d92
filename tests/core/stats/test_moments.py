"""Sum, mean, min, max and std of a few values in merged panes."""

from math import isnan, sqrt

import numpy as np
import pytest

from pushsvc.stats.moments import describe, merge_equal, merge_runs, reduce
from support.reference.moments import exact, merged

SERIES = {
    "offset 1e9": [[1e9 + 0.125, 1e9 - 0.5], [1e9 + 0.25]],
    "offset 1e15": [[1e15 + 0.125], [1e15 - 0.5, 1e15 + 3]],
    "level jump": [[0.001, -0.002], [0.003, 1e9 + 0.001], [1e9 - 0.002]],
    "jump back": [[0.1, 0.7], [1e9 + 0.3, 1e9 - 0.9], [0.2, -0.4]],
    "spike": [[0.1, 0.7], [-0.3, 1e15, 0.2], [0.9]],
    "spike first": [[-1e15, 0.1], [0.7, -0.3]],
    "spikes": [[0.1, 1e12], [0.3, 1e12, -0.7], [1e12, 0.2]],
    "tiny": [[1e-150, 3e-150], [-2e-150]],
    "huge": [[1e140, 3e140], [-2e140]],
}


def test_moments_of_a_few_values():
    assert merged([[2, 4], [], [4, 4, 5], [5, 7, 9]]) == [40.0, 5.0, 2.0, 9.0, pytest.approx(sqrt(32 / 7), rel=1e-15)]


@pytest.mark.parametrize("name", SERIES)
def test_jumps_and_spikes_cost_no_digit(name):
    values = [value for pane in SERIES[name] for value in pane]
    total, mean, low, high, std = merged(SERIES[name])
    assert [total, mean, low, high] == [*exact(tuple(values))[:2], min(values), max(values)]
    assert std == exact(tuple(values))[2]


def test_equal_values_have_std_zero_and_themselves_as_mean():
    for value in (0.1, 1e15 + 0.1, -3.3e-200, 7.7e200):
        _, mean, low, high, std = merged([[value] * 49, [value] * 7, [], [value]])
        assert (mean, low, high, std) == (value, value, value, 0.0)


def test_cancelling_sums_are_exact():
    assert merged([[1e16, 1.0], [-1e16], [1e-3]])[0] == 1.001


def test_undefined_statistics_are_not_finite():
    total, mean, low, high, std = merged([[], []])
    assert total == 0
    assert isnan(mean)
    assert isnan(std)
    assert (low, high) == (np.inf, -np.inf)
    assert isnan(merged([[5.0]])[4])


def test_statistics_beyond_the_range_of_doubles_are_not_finite():
    total, mean, low, high, std = merged([[1.7e308, 1.7e308], [-1.0]])
    assert not np.isfinite([total, mean, std]).any()
    assert (low, high) == (-1.0, 1.7e308)
    assert merged([[1.7e308]])[:2] == [1.7e308, 1.7e308]


def test_partials_of_equal_rows_are_merged_in_row_order():
    rows, moments = merge_equal(np.array([7, 3, 7]), reduce(np.array([1.0, 2.0, 4.0]), np.arange(3)))
    assert rows.tolist() == [3, 7]
    assert moments.count.tolist() == [1, 2]
    assert describe(moments)[0].tolist() == [2.0, 5.0]


def test_runs_of_partials_merge_at_once():
    parts = reduce(np.array([1.0, 1e9, 3.0, 5.0, -0.5, 0.25]), np.array([0, 1, 3, 5]))
    statistics = describe(merge_runs(parts, np.array([0, 2])))
    assert statistics[0].tolist() == [1e9 + 4, 4.75]
    assert statistics[2:4].tolist() == [[1.0, -0.5], [1e9, 5.0]]
    deviations = [exact(values)[2] for values in ((1.0, 1e9, 3.0), (5.0, -0.5, 0.25))]
    assert statistics[4].tolist() == [pytest.approx(one, rel=1e-15) for one in deviations]
