import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from effort import rounds
from pushsvc.stats.moments import runs_of
from pushsvc.stats.quantiles import BITS, NEWEST, Histograms, Newest, buckets_of, lower_ends

PERCENTS = (1, 25, 50, 90, 95, 99)


def expected(values):
    return [float(np.quantile(values, percent / 100, method="inverted_cdf")) for percent in PERCENTS]


def codes_of(column, values):
    codes = np.sort((column << BITS) | buckets_of(np.array(values, float)))
    starts = runs_of(codes)
    return codes[starts].astype(np.int32), np.diff(starts, append=len(codes)).astype(np.int32)


@given(st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False))
def test_a_bucket_begins_less_than_1_128_nearer_to_zero(value):
    (end,) = lower_ends(buckets_of(np.array([value]))).tolist()
    assert abs(end) <= abs(value)
    assert end * value >= 0
    assert abs(value - end) <= abs(value) / 128


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=20))
def test_buckets_are_ordered_as_values_are(values):
    assert np.all(np.diff(buckets_of(np.array(sorted(values)))) >= 0)


def test_values_of_eight_bits_come_back_as_they_are():
    values = np.concatenate([np.arange(-256, 257), np.arange(-255, 256) / 8, np.array([3 * 2.0**40, 0.625])])
    assert lower_ends(buckets_of(values)).tolist() == values.tolist()


SERIES = {
    "both sides": np.random.default_rng(1).normal(size=500) * 1e3,
    "nine decades": 10 ** np.random.default_rng(2).uniform(-9, 15, size=500),
    "negative": -(10 ** np.random.default_rng(3).uniform(-9, 15, size=500)),
    "zeros": np.where(np.arange(400) % 3 == 0, 0.0, np.random.default_rng(4).normal(size=400)),
    "equal": np.full(100, 12345.678),
}


@pytest.mark.parametrize("name", SERIES)
def test_quantiles_are_good_to_one_percent(name):
    histograms, count = Histograms(2), np.array([len(SERIES[name])], np.int32)
    histograms.counted.add(slice(None), *codes_of(3, SERIES[name]))
    found = histograms.quantiles(1, np.array([3]), count, PERCENTS)[:, 0].tolist()
    assert found == [pytest.approx(value, rel=1 / 128, abs=0) for value in expected(SERIES[name])]


def test_what_leaves_a_window_is_taken_off_and_codes_nobody_counts_are_dropped():
    random, histograms, panes = np.random.default_rng(5), Histograms(2), {}
    for pane in range(max(34, rounds(64))):
        panes[pane] = random.integers(0, 200, 5) * 3 + pane * 97
        codes = codes_of(1, panes[pane])
        histograms.counted.add(slice(None), *codes)
        histograms.counted.remember(0, pane, *codes)
        histograms.counted.remember(1, pane, *codes)
        for window, length in enumerate((3, 10)):
            histograms.counted.advance(window, pane, pane - length + 1)
            if pane % 3:
                continue
            inside = np.concatenate([panes[n] for n in range(max(0, pane - length + 1), pane + 1)])
            found = histograms.quantiles(window, np.array([0, 1, 2]), np.array([0, len(inside), 0], np.int32), PERCENTS)
            assert found[:, 1].tolist() == [pytest.approx(value, rel=1 / 128) for value in expected(inside)]
            assert np.isnan(found[:, [0, 2]]).all()
    assert len(histograms.counted.codes) < 150  # of those in the last ten panes, and what came since the last sweep


@pytest.mark.parametrize("early", [0, 3])
def test_the_newest_values_are_kept_whatever_the_order_they_come_in(early):
    random, newest, head = np.random.default_rng(6), Newest(), 1_000
    newest.reserve(3)
    known = []
    for _ in range(rounds(600)):
        head += int(random.integers(0, 3))
        newest.ripen(head)
        grain, value = head + int(random.integers(-9, 1 + early)), float(random.normal())
        known.append((grain, value))
        if grain > head:
            newest.add_early(np.array([1]), np.array([grain]), np.array([value]))
        else:
            newest.add(np.array([1]), np.array([0]), np.array([grain]), np.array([value]))
        for last in (head, head + 2):
            for first in (head - 12, head - 4):
                inside = [value for grain, value in known if first <= grain <= last]
                count = np.array([0, len(inside)], np.int32)
                found = newest.quantiles(np.array([0, 1]), first, last, count, PERCENTS)
                if 0 < len(inside) <= NEWEST:
                    assert found[:, 1].tolist() == expected(inside)
                elif last == head:
                    assert np.isnan(found[:, 1]).all()
                assert np.isnan(found[:, 0]).all()
