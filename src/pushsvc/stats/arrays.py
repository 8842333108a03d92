"""Array types, and helpers for sorted arrays and the runs of equal elements in them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Flags = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Counts = NDArray[np.integer[Any]]
"""Numbers of events: in 32 bits for what one pane holds, in 64 for whole windows."""

Index = NDArray[np.integer[Any]]
"""Rows or columns, in integers of any width."""


def narrow(count: Counts) -> Counts:
    """Return counts in as few bits as they need: most panes hold few events of a row."""
    most = int(count.max(initial=0))
    return count.astype(np.uint8 if most < 2**8 else np.uint16 if most < 2**16 else count.dtype, copy=False)


def shared(array: Index, other: Index | None) -> Index:
    """Return ``other`` in place of an array that is equal: one that panes have in common is held once."""
    return other if other is not None and other.dtype == array.dtype and np.array_equal(array, other) else array


def size_of(arrays: Iterable[NDArray[Any]]) -> int:
    """Return the bytes of arrays, each counted once."""
    return sum({id(array): array.nbytes for array in arrays}.values())


def runs_of(ordered: NDArray[np.generic]) -> Ints:
    """Return where each run of equal elements starts."""
    edges = np.empty(len(ordered), np.bool_)
    edges[:1] = True
    np.not_equal(ordered[1:], ordered[:-1], out=edges[1:])
    return np.flatnonzero(edges)


def lengths_of(starts: Ints, size: int) -> Ints:
    """Return how long each run of an array of ``size`` is."""
    lengths = np.empty(len(starts), np.int64)
    np.subtract(starts[1:], starts[:-1], out=lengths[:-1])
    lengths[-1:] = size - starts[-1:]
    return lengths


def places_of(ordered: Index, codes: Index) -> tuple[Ints, NDArray[np.bool_]]:
    """Return where codes are, or would be, among ordered ones, and which are not there."""
    place = np.searchsorted(ordered, codes)
    new = np.ones(len(codes), np.bool_)
    inside = np.flatnonzero(place < len(ordered))
    new[inside] = ordered[place[inside]] != codes[inside]
    return place, new


def members_of(first: Ints, lengths: Ints) -> Ints | slice:
    """Return the members of runs that begin at ``first``, one run behind the other."""
    ends = np.cumsum(lengths)
    if not len(ends) or not ends[-1]:
        return slice(0, 0)
    if ends[-1] == first[-1] + lengths[-1] - first[0] and (first[:-1] <= first[1:]).all():
        return slice(int(first[0]), int(first[-1] + lengths[-1]))  # nobody's members lie between
    members: Ints = np.arange(ends[-1]) + np.repeat(first - (ends - lengths), lengths)
    return members
