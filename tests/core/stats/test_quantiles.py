"""Quantiles from histograms and from the newest values, against numpy's ``inverted_cdf``."""

import numpy as np
import pytest

from pushsvc.stats.panes.quantiles import NEWEST, Histograms, NewestValues, buckets_of, lower_ends
from support.reference.quantiles import PERCENTS, codes_of, expected

SERIES = {
    "both sides": np.sin(np.arange(500)) * 1e3,
    "nine decades": 10 ** np.linspace(-9, 15, 500),
    "negative": -(10 ** np.linspace(-9, 15, 500)),
    "zeros": np.where(np.arange(400) % 3 == 0, 0.0, np.sin(np.arange(400))),
    "equal": np.full(100, 12345.678),
}


def test_values_of_eight_significant_bits_are_exact():
    values = np.concatenate([np.arange(-256, 257), np.arange(-255, 256) / 8, np.array([3 * 2.0**40, 0.625])])
    assert lower_ends(buckets_of(values)).tolist() == values.tolist()


def test_bucket_ends_are_within_1_128_and_ordered():
    values = np.array(
        [-1e300, -1e15, -257.0, -1.999999, -1e-9, -0.0, 0.0, 1e-9, 1.0, 1.0078124, 1.0078125, 511.9, 1e15]
    )
    ends = lower_ends(buckets_of(values))
    assert (np.abs(ends) <= np.abs(values)).all()
    assert (np.sign(ends) == np.sign(values)).all()
    assert (np.abs(values - ends) <= np.abs(values) / 128).all()
    assert ends[[8, 9, 10]].tolist() == [1.0, 1.0, 1.0078125]
    assert (np.diff(buckets_of(values)) >= 0).all()


@pytest.mark.parametrize("name", SERIES)
def test_quantiles_are_within_one_percent(name):
    histograms, count = Histograms(2), np.array([len(SERIES[name])], np.int32)
    histograms.counted.add(slice(None), *codes_of(3, SERIES[name]))
    found = histograms.quantiles(1, np.array([3]), count, PERCENTS)[:, 0].tolist()
    assert found == [pytest.approx(value, rel=1 / 128, abs=0) for value in expected(SERIES[name])]


def test_expired_panes_are_subtracted():
    histograms = Histograms(2)
    for pane, values in enumerate([[1, 2], [100], [7, 7, 7]]):
        codes = codes_of(1, values)
        histograms.counted.add(slice(None), *codes)
        for window, length in enumerate((2, 3)):
            histograms.counted.add_to_pane(window, pane, *codes)
            histograms.counted.advance(window, pane, pane - length + 1)
    columns = np.array([0, 1, 2])
    for window, inside in enumerate(([100, 7, 7, 7], [1, 2, 100, 7, 7, 7])):
        found = histograms.quantiles(window, columns, np.array([0, len(inside), 0], np.int32), PERCENTS)
        assert found[:, 1].tolist() == expected(inside)
        assert np.isnan(found[:, [0, 2]]).all()


def one(newest, grain, value):
    newest.add(np.array([1]), np.array([0]), np.array([grain]), np.array([value]))


def quantiles(newest, first, last, count):
    return newest.quantiles(np.array([1]), first, last, np.array([count], np.int32), PERCENTS)[:, 0].tolist()


def test_only_the_newest_values_are_kept():
    newest, values = NewestValues(), [float(-n % 7) + n / 8 for n in range(20)]
    newest.reserve(2)
    for grain, value in enumerate(values):
        one(newest, grain, value)
    one(newest, 2, 99.0)  # older than all kept values
    assert quantiles(newest, 4, 19, NEWEST) == expected(values[4:])
    assert quantiles(newest, 17, 18, 2) == expected(values[17:19])
    one(newest, 4, 50.0)
    assert quantiles(newest, 5, 19, 15) == expected(values[5:])
    for first, count in ((4, NEWEST + 1), (5, NEWEST), (20, 0)):
        assert np.isnan(quantiles(newest, first, 19, count)).all()
    newest.forget(np.array([1]))
    assert np.isnan(quantiles(newest, 17, 18, 2)).all()


def test_early_values_count_when_the_window_reaches_them():
    newest = NewestValues()
    newest.reserve(2)
    one(newest, 5, 1.0)
    newest.add_early(np.array([1, 1]), np.array([9, 7]), np.array([3.0, 2.0]))
    for head in (5, 8, 9):
        newest.promote_early(head)
        assert quantiles(newest, 0, 6, 1) == [1.0] * len(PERCENTS)
        assert quantiles(newest, 0, 8, 2) == expected([1.0, 2.0])
        assert quantiles(newest, 6, 9, 2) == expected([2.0, 3.0])
