"""Moments of many and of arbitrary values, against exact fractions."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushsvc.stats.moments import describe, merge_runs, reduce, without
from support.reference.moments import exact, exact_std, merged, noise

SERIES = {
    "plain": noise(150),
    "offset 1e9": noise(150) * 1e-3 + 1e9,
    "offset 1e15": noise(150) + 1e15,
    "level jump": np.concatenate([noise(75) * 1e-3, noise(75) * 1e-3 + 1e9]),
    "jump back": np.concatenate([noise(50), noise(50) + 1e9, noise(50)]),
    "spike": np.concatenate([noise(75), [1e15], noise(74)]),
    "spike first": np.concatenate([[-1e15], noise(149)]),
    "spikes": np.where(np.arange(150) % 37 == 5, 1e12, noise(150)),
    "tiny": noise(150) * 1e-150,
    "huge": noise(150) * 1e140,
}


@pytest.mark.parametrize("name", SERIES)
@pytest.mark.parametrize("panes", [1, 7, 60])
def test_std_and_mean_equal_exact_fractions(name, panes):
    values = SERIES[name].tolist()
    total, mean, low, high, std = merged([part.tolist() for part in np.array_split(np.array(values), panes)])
    assert (total, mean) == exact(tuple(values))[:2]
    assert (low, high) == (min(values), max(values))
    assert std == exact_std(values)


@pytest.mark.parametrize("name", ["offset 1e9", "level jump", "spike"])
def test_expired_jump_leaves_no_error_in_std(name):
    """Only panes that are in the window are merged, so that expired values leave no error."""
    rest = SERIES[name][-60:].tolist()
    assert merged([[], rest[:50], [], rest[50:]])[4] == exact_std(rest)


eighths = st.integers(-(2**40), 2**40).map(lambda k: k / 8)


@given(st.lists(st.lists(eighths, max_size=20), min_size=1, max_size=8), st.data())
def test_any_division_into_panes_gives_the_same_moments(panes, data):
    values = [value for pane in panes for value in pane]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(values)), max_size=5)))
    other = merged([values[a:b] for a, b in zip([0, *cuts], [*cuts, len(values)], strict=True)])
    ours = merged(panes)
    assert ours[0] == sum(map(Fraction, values))
    np.testing.assert_array_equal(ours, other)
    if len(values) > 1:
        assert ours[4] == exact_std(values)


@given(st.lists(st.floats(-1e100, 1e100), min_size=1, max_size=40))
def test_sums_of_doubles_are_rounded_once(values):
    exact = sum(map(Fraction, values))
    total, mean, *_ = merged([values[:7], values[7:]])
    assert abs(Fraction(total) - exact) <= abs(exact) * Fraction(1, 2**52) + Fraction(max(map(abs, values))) / 2**95
    assert abs(Fraction(mean) * len(values) - exact) <= abs(exact) / 2**52 + Fraction(max(map(abs, values))) / 2**95


@pytest.mark.parametrize("name", SERIES)
def test_merging_a_run_equals_merging_pairs(name):
    values = SERIES[name]
    starts = np.array([0, 1, 7, 50, 51, 120])
    parts = reduce(values, starts)
    at_once = describe(merge_runs(parts, np.array([0, 3])))
    for statistics, (first, last) in zip(at_once.T.tolist(), [(0, 50), (50, 150)], strict=True):
        total, mean, low, high, std = statistics
        part = values[first:last].tolist()
        exact = sum(map(Fraction, part))
        assert (total, mean, low, high) == (float(exact), float(exact / len(part)), min(part), max(part))
        assert std == exact_std(part)


@given(st.lists(eighths, min_size=2, max_size=40), st.data())
def test_what_is_taken_out_leaves_ninety_bits(values, data):
    whole, left = reduce(np.array(values), np.array([0])), list(values)
    greatest = exact_std(values) ** 2 * (len(values) - 1)
    for _ in range(data.draw(st.integers(0, len(values) - 1))):
        whole = without(whole, np.array([left.pop(data.draw(st.integers(0, len(left) - 1)))]))
    total, mean, _, _, std = describe(whole)[:, 0].tolist()
    assert (total, mean) == (sum(left), float(sum(map(Fraction, left)) / len(left)))
    if len(left) > 1:
        spread = exact_std(left) ** 2 * (len(left) - 1)
        assert std**2 * (len(left) - 1) == pytest.approx(spread, rel=1e-15, abs=greatest * 2.0**-90)
