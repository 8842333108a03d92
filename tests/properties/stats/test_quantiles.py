"""Quantiles of arbitrary values and of long series, against numpy's ``inverted_cdf``."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushsvc.stats.panes.quantiles import NEWEST, Histograms, NewestValues, buckets_of, lower_ends
from support.effort import rounds
from support.reference.quantiles import PERCENTS, codes_of, expected


@given(st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False))
def test_bucket_end_is_within_1_128(value):
    (end,) = lower_ends(buckets_of(np.array([value]))).tolist()
    assert abs(end) <= abs(value)
    assert end * value >= 0
    assert abs(value - end) <= abs(value) / 128


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=20))
def test_buckets_have_the_order_of_values(values):
    assert np.all(np.diff(buckets_of(np.array(sorted(values)))) >= 0)


def test_expired_panes_are_subtracted_and_unused_codes_dropped():
    random, histograms, panes = np.random.default_rng(5), Histograms(2), {}
    for pane in range(max(34, rounds(64))):
        panes[pane] = random.integers(0, 200, 5) * 3 + pane * 97
        codes = codes_of(1, panes[pane])
        histograms.counted.add(slice(None), *codes)
        histograms.counted.add_to_pane(0, pane, *codes)
        histograms.counted.add_to_pane(1, pane, *codes)
        for window, length in enumerate((3, 10)):
            histograms.counted.advance(window, pane, pane - length + 1)
            if pane % 3:
                continue
            inside = np.concatenate([panes[n] for n in range(max(0, pane - length + 1), pane + 1)])
            found = histograms.quantiles(window, np.array([0, 1, 2]), np.array([0, len(inside), 0], np.int32), PERCENTS)
            assert found[:, 1].tolist() == [pytest.approx(value, rel=1 / 128) for value in expected(inside)]
            assert np.isnan(found[:, [0, 2]]).all()
    assert len(histograms.counted.codes) < 150  # those of the last ten panes, and those since the last sweep


@pytest.mark.parametrize("early", [0, 3])
def test_newest_values_are_kept_for_any_order_of_arrival(early):
    random, newest, head = np.random.default_rng(6), NewestValues(), 1_000
    newest.reserve(3)
    known = []
    for _ in range(rounds(600)):
        head += int(random.integers(0, 3))
        newest.promote_early(head)
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
