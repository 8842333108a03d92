"""Array types, and helpers for sorted arrays and the runs of equal elements in them."""

from itertools import pairwise, starmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

Flags = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Counts = NDArray[np.integer[Any]]  # numbers of events: at most 32 bits for one pane, 64 for a window
Index = NDArray[np.integer[Any]]  # rows or columns, as integers of any width


def narrow(count: Counts) -> Counts:
    """Return counts in as few bits as they need, because most panes have few events of a row."""
    most = int(count.max(initial=0))
    return count.astype(np.uint8 if most < 2**8 else np.uint16 if most < 2**16 else count.dtype, copy=False)


def shared(array: Index, other: Index | None) -> Index:
    """Return ``other`` instead of an equal array, so that panes share one copy."""
    return other if other is not None and other.dtype == array.dtype and np.array_equal(array, other) else array


def runs_of(ordered: NDArray[np.generic]) -> Ints:
    """Return the start of each run of equal elements."""
    edges = np.empty(len(ordered), np.bool_)
    edges[:1] = True
    np.not_equal(ordered[1:], ordered[:-1], out=edges[1:])
    return np.flatnonzero(edges)


def slices_of(ordered: NDArray[np.generic]) -> list[slice]:
    """Return the slice of each run of equal elements."""
    return list(starmap(slice, pairwise([*runs_of(ordered).tolist(), len(ordered)])))


def lengths_of(starts: Ints, size: int) -> Ints:
    """Return the length of each run of an array of ``size`` elements."""
    lengths = np.empty(len(starts), np.int64)
    np.subtract(starts[1:], starts[:-1], out=lengths[:-1])
    lengths[-1:] = size - starts[-1:]
    return lengths


def places_of(ordered: Index, codes: Index) -> tuple[Ints, Flags]:
    """Return where codes are among ascending ones, or would be inserted, and which codes are missing."""
    place = np.searchsorted(ordered, codes)
    new = np.ones(len(codes), np.bool_)
    inside = np.flatnonzero(place < len(ordered))
    new[inside] = ordered[place[inside]] != codes[inside]
    return place, new


def members_of(first: Ints, lengths: Ints) -> Ints | slice:
    """Return the indices of all members of runs, run after run; ``first`` and ``lengths`` are those of the runs."""
    ends = np.cumsum(lengths)
    if not len(ends) or not ends[-1]:
        return slice(0, 0)
    if ends[-1] == first[-1] + lengths[-1] - first[0] and (first[:-1] <= first[1:]).all():
        return slice(int(first[0]), int(first[-1] + lengths[-1]))  # the runs are adjacent
    return np.asarray(np.arange(ends[-1]) + np.repeat(first - (ends - lengths), lengths))
