"""Numbers of distinct values, by codes and panes."""

from hashlib import blake2b

import numpy as np
import pytest

from pushsvc.stats.values.dictionary import RANKS, SKETCHED, cells_of
from pushsvc.stats.values.distinct import STANDARD_ERROR, DistinctCounts
from support.reference.distinct import NO_CELLS, cells, codes


def read(distinct, window, *rows, cell=NO_CELLS):
    """Return the numbers of distinct values of rows, and which are estimates."""
    found, approximate = distinct.read(window, np.array(rows), cell)
    return found.tolist(), approximate.tolist()


def test_hyperloglog_cells_depend_on_the_json_text_only():
    texts = [b'"a"', b"1", b"true"]
    hashes = [int.from_bytes(blake2b(text, digest_size=8).digest(), "little") for text in texts]
    expected = [(one >> 52) << RANKS | 53 - (one & (2**52 - 1)).bit_length() for one in hashes]
    assert cells_of(texts).tolist() == expected == [172098, 121026, 65474]


def test_value_counts_while_its_newest_pane_is_in_the_window():
    distinct = DistinctCounts(2)
    distinct.add(codes(3, np.array([1, 2])), np.array([10, 5]))
    distinct.add(np.concatenate([codes(3, np.array([2, 4])), codes(4, np.array([2]))]), np.array([12, 6]))
    distinct.add_late(0, codes(3, np.array([4, 9])), np.array([9, 11]))
    assert read(distinct, 0, 2, 3, 4) == ([0, 4, 1], [False] * 3)
    distinct.advance(0, 11)
    distinct.advance(1, 5)
    assert [read(distinct, window, 3)[0] for window in (0, 1)] == [[3], [3]]
    distinct.advance(0, 12)
    assert [read(distinct, window, 3)[0] for window in (0, 1)] == [[2], [3]]
    distinct.keep(lambda rows: rows != 3)
    assert read(distinct, 0, 3, 4) == ([0, 1], [False] * 2)


def test_sketched_values_expire_with_their_panes():
    distinct = DistinctCounts(1)
    for pane, numbers in enumerate([range(100), range(50, 80), range(70, 90)]):
        distinct.add(codes(3, cells(numbers) | SKETCHED), np.array([pane]))
    found = []
    for oldest in range(4):
        distinct.advance(0, oldest)
        found += read(distinct, 0, 3)
    assert found == [[pytest.approx(100, abs=2)], [True], [40], [True], [20], [True], [0], [False]]


def test_sweep_drops_codes_that_no_window_needs():
    distinct = DistinctCounts(2)
    cell = 5 << RANKS | SKETCHED
    for pane, mark in enumerate([1, cell | 2, cell | 3, cell | 1]):
        distinct.add(codes(0, np.array([mark])), np.array([pane, pane]))
    for oldest in range(16):
        distinct.advance(0, min(oldest, 1))
        distinct.advance(1, min(oldest, 3))
    assert len(distinct) == 2  # of rank 1 and 3: 2 was superseded by a later 3 of the same register
    assert [read(distinct, window, 0) for window in (0, 1)] == [([1], [True])] * 2


def test_tracked_and_sketched_values_make_one_estimate():
    distinct, numbers = DistinctCounts(1), np.arange(1, 201)
    cell = np.concatenate([[0], cells(numbers)])
    distinct.add(codes(0, numbers), np.array([0]))
    distinct.add(codes(0, cells(range(101, 601)) | SKETCHED), np.array([0]))
    distinct.add(codes(1, numbers), np.array([0]))
    (found, other), approximate = read(distinct, 0, 0, 1, cell=cell)
    assert (approximate, other) == ([True, False], 200)
    assert found == pytest.approx(600, rel=4 * STANDARD_ERROR)
