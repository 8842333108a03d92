"""The arrays: one cell for each place of a pane and each row."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pushsvc.stats.moments import EMPTY, PARTS, Floats, Ints, Moments, Stacks, combine

FIRST_CAPACITY = 16
_BLOCK = 2_048
_Scalar = TypeVar("_Scalar", bound=np.generic)


class Cells:
    """Counts [places, rows] and the six floats of partials [6, places, columns], pane-major.

    Pane-major because an advance clears whole panes and a batch falls into one or two of them. A row that bears values
    has a column; a row that only counts has a negative one.
    """

    def __init__(self, places: int) -> None:
        self._count = np.zeros((places, FIRST_CAPACITY), np.int32)
        self._parts = _empty(places, FIRST_CAPACITY)

    def reserve(self, rows: int, columns: int) -> None:
        """Make room for so many rows and columns; what is there stays."""
        if rows > self._count.shape[1]:
            self._count = widen(self._count, rows, 0)
        if columns > self._parts.shape[2]:
            grown = _empty(self._parts.shape[1], _roomy(columns))
            grown[:, :, : self._parts.shape[2]] = self._parts
            self._parts = grown

    def add(self, places: Ints, rows: Ints, columns: Ints, moments: Moments) -> None:
        """Merge partials [n] into their cells, each cell named at most once."""
        before = self._count[places, rows]
        self._count[places, rows] = before + moments.count
        valued = np.flatnonzero(columns >= 0)
        if not len(valued):
            return
        flat = self._flat()
        where = places[valued] * self._parts.shape[2] + columns[valued]
        count = np.array([before[valued], moments.count[valued]], np.int64)
        parts = np.stack([flat.take(where, axis=1), moments.parts[:, valued]], axis=1)
        flat[:, where] = combine(Moments(count, parts), Stacks(count)).parts

    def clear(self, places: Ints) -> tuple[Ints, Ints]:
        """Empty whole panes; return the rows that had something in them and how many events that was."""
        counts = self._count[places]
        rows = np.flatnonzero(counts.any(axis=0))
        if len(rows):
            self._count[places] = 0
            self._parts[:, places] = EMPTY[:, None, None]
        return rows, counts[:, rows].sum(axis=0, dtype=np.int64)

    def filled(self, places: Ints) -> Ints:
        """Return the rows that have something in one of the places."""
        return np.flatnonzero(self._count[places].any(axis=0))

    def occupied(self, first: int, last: int, row: int) -> Ints:
        """Return those of the places ``first`` … ``last - 1`` where ``row`` has events, counted from ``first``."""
        return np.flatnonzero(self._count[first:last, row])

    def read(self, places: Ints, rows: Ints, columns: Ints) -> tuple[Ints, Moments]:
        """Merge each row [n] over its places [P, n]; return all counts [n] and the partials of rows with values."""
        starts = range(0, len(rows), _BLOCK) or [0]
        blocks = [slice(start, start + _BLOCK) for start in starts]
        read = [self._read(places[:, block], rows[block], columns[block]) for block in blocks]
        if len(read) == 1:
            return read[0]
        moments = Moments(
            np.concatenate([block.count for _, block in read]),
            np.concatenate([block.parts for _, block in read], axis=1),
        )
        return np.concatenate([count for count, _ in read]), moments

    def _read(self, places: Ints, rows: Ints, columns: Ints) -> tuple[Ints, Moments]:
        counts = self._count.ravel().take(places * self._count.shape[1] + rows)
        valued = np.flatnonzero(columns >= 0)
        members = counts[:, valued].astype(np.int64)
        where = places[:, valued] * self._parts.shape[2] + columns[valued]
        moments = Moments(members, self._flat().take(where, axis=1))
        return counts.sum(axis=0, dtype=np.int64), combine(moments, Stacks(members))

    def _flat(self) -> Floats:
        """Return a view [6, places * columns]: one index is gathered several times faster than two."""
        return self._parts.reshape(PARTS, -1)


def widen(array: NDArray[_Scalar], width: int, fill: int) -> NDArray[_Scalar]:
    """Return a copy whose last axis has room for ``width``, the new part filled with ``fill``."""
    grown = np.full((*array.shape[:-1], _roomy(width)), fill, array.dtype)
    grown[..., : array.shape[-1]] = array
    return grown


def _roomy(width: int) -> int:
    """Return a width with reserve: twice for few, a quarter more for many, since a column costs 3 KB per window."""
    return 2 * width if width < 1_024 else width + width // 4


def _empty(places: int, columns: int) -> Floats:
    parts = np.empty((PARTS, places, columns))
    parts[:] = EMPTY[:, None, None]
    return parts
