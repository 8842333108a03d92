"""The arrays: one cell for each place of a pane and each row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pushsvc.stats.moments import EMPTY, PARTS, Floats, Ints, Moments, Stacks, combine

_FIRST_CAPACITY = 16
_BLOCK = 2_048
_Scalar = TypeVar("_Scalar", bound=np.generic)


@dataclass(frozen=True, slots=True)
class Groups:
    """Partials for cells: ``place`` [n], ``row`` [n], and ``column`` [n] (negative for rows that only count)."""

    place: Ints
    row: Ints
    column: Ints
    moments: Moments


class Cells:
    """Counts [places, rows] and the six floats of partials [6, places, columns], pane-major.

    Pane-major because an advance clears whole panes and a batch falls into one or two of them.
    """

    def __init__(self, places: int) -> None:
        self._count = np.zeros((places, _FIRST_CAPACITY), np.int32)
        self._parts = _empty(places, _FIRST_CAPACITY)

    def reserve(self, rows: int, columns: int) -> None:
        """Make room for so many rows and columns; what is there stays."""
        if rows > self._count.shape[1]:
            self._count = widen(self._count, rows, 0)
        if columns > self._parts.shape[2]:
            grown = _empty(self._parts.shape[1], roomy(columns))
            grown[:, :, : self._parts.shape[2]] = self._parts
            self._parts = grown

    def add(self, groups: Groups) -> None:
        """Merge partials into their cells, each cell named at most once."""
        before = self._count[groups.place, groups.row]
        self._count[groups.place, groups.row] = before + groups.moments.count
        valued = np.flatnonzero(groups.column >= 0)
        if not len(valued):
            return
        where = (slice(None), groups.place[valued], groups.column[valued])
        count = np.stack([before[valued].astype(np.int64), groups.moments.count[valued]])
        parts = np.stack([self._parts[where], groups.moments.parts[:, valued]], axis=1)
        self._parts[where] = combine(Moments(count, parts), Stacks(count)).parts

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

    def count(self, places: Ints, rows: Ints) -> Ints:
        """Return the number of events of each row in all the places together."""
        blocks = [rows[i : i + _BLOCK] for i in range(0, len(rows), _BLOCK)] or [rows]
        return np.concatenate([self._count[places[:, None], block].sum(axis=0, dtype=np.int64) for block in blocks])

    def merge(self, places: Ints, rows: Ints, columns: Ints) -> Moments:
        """Return one partial for each of the rows, merged over the places."""
        merged = [
            self._merge(places, rows[i : i + _BLOCK], columns[i : i + _BLOCK]) for i in range(0, len(rows), _BLOCK)
        ]
        if len(merged) == 1:
            return merged[0]
        empty = Moments(np.zeros(0, np.int64), np.zeros((PARTS, 0)))
        return Moments(
            np.concatenate([part.count for part in [empty, *merged]]),
            np.concatenate([part.parts for part in [empty, *merged]], axis=1),
        )

    def _merge(self, places: Ints, rows: Ints, columns: Ints) -> Moments:
        count = self._count[places[:, None], rows].astype(np.int64)
        return combine(Moments(count, self._parts[:, places[:, None], columns]), Stacks(count))


def widen(array: NDArray[_Scalar], width: int, fill: int) -> NDArray[_Scalar]:
    """Return a copy whose last axis has room for ``width``, the new part filled with ``fill``."""
    grown = np.full((*array.shape[:-1], roomy(width)), fill, array.dtype)
    grown[..., : array.shape[-1]] = array
    return grown


def roomy(width: int) -> int:
    """Return a width with reserve: twice for few, an eighth more for many, since a cell costs 3 KB per window."""
    return 2 * width if width < 1_024 else width + width // 8


def _empty(places: int, columns: int) -> Floats:
    parts = np.empty((PARTS, places, columns))
    parts[:] = EMPTY[:, None, None]
    return parts
