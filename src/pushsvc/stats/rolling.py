"""The engine of one topic: several windows over shared rows, what is in them and which rows changed."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

import numpy as np
from numpy.typing import NDArray

from pushsvc.stats.cells import Cells, Groups, widen
from pushsvc.stats.moments import Floats, Ints, Moments, Runs, combine, describe
from pushsvc.stats.ring import Ring
from pushsvc.stats.rows import CLOSED, Rows
from pushsvc.stats.window import Window

_FIRST_CAPACITY = 16
_RADIX = 1 << 16


class Rolling:
    """Windows [W] over rows [R]. ``time`` is where the heads begin.

    ``changed`` [W, R] marks rows whose columns differ from when the mark was last taken off; the caller takes it off.
    ``held`` [W, R] counts the events in all panes of a window, those still to enter included. ``heads`` [W, 1] are the
    panes at the heads; ``all_from`` and ``any_from`` the first ms that is in every window, and in one.
    """

    def __init__(self, windows: Sequence[Window], rows: Rows, time: int) -> None:
        self.rows = rows
        self.rings: list[Ring] = []
        places = 0
        for window in windows:
            self.rings.append(Ring(window, places, time))
            places += self.rings[-1].size
        self._cells = Cells(places)
        self.changed: NDArray[np.bool_] = np.zeros((len(windows), _FIRST_CAPACITY), np.bool_)
        self.held: Ints = np.zeros((len(windows), _FIRST_CAPACITY), np.int64)
        self._grain = gcd(*(window.pane for window in windows))
        self._pane: Ints = np.array([[window.pane] for window in windows])
        self._panes: Ints = np.array([[window.panes] for window in windows])
        self._base: Ints = np.array([[ring.base] for ring in self.rings])
        self._size: Ints = np.array([[ring.size] for ring in self.rings])
        self._set_edges()

    # -- the head

    def begin(self, time: int) -> None:
        """Set the heads to ``time``, back too, while there is nothing in the windows."""
        for ring in self.rings:
            ring.head = time // ring.window.pane
        self._set_edges()

    def move(self, time: int) -> None:
        """Let the heads follow to the panes of ``time``; never back. Rows that lose or gain a pane are changed."""
        if time < self._next_edge:
            return
        for number, ring in enumerate(self.rings):
            head = time // ring.window.pane
            if head > ring.head:
                self._move(number, ring, head)
        self._set_edges()

    def next_change(self) -> int | None:
        """Return the next ms at which a pane with events leaves or enters a window."""
        if not len(self.rows):
            return None
        edges: list[int] = []
        for ring in self.rings:
            panes = ring.panes()[self._cells.occupied(ring.base, ring.base + ring.size, 0)]
            edges += (np.where(panes > ring.head, panes, panes + ring.window.panes) * ring.window.pane).tolist()
        return min(edges, default=None)

    def _move(self, number: int, ring: Ring, head: int) -> None:
        newest = ring.head + ring.future
        leaving = ring.places(ring.oldest, min(newest, head - ring.window.panes))
        entering = ring.places(max(ring.head + 1, head - ring.window.panes + 1), min(newest, head))
        left, events = self._cells.clear(leaving)
        self.held[number, left] -= events
        self.changed[number, left] = True
        if len(entering):
            self.changed[number, self._cells.filled(entering)] = True
        ring.head = head

    def _set_edges(self) -> None:
        self._next_edge = min(ring.end for ring in self.rings)
        self.all_from = max(ring.start for ring in self.rings)
        self.any_from = min(ring.start for ring in self.rings)
        self.heads: Ints = np.array([[ring.head] for ring in self.rings])
        self._oldest: Ints = np.array([[ring.oldest] for ring in self.rings])
        self._newest: Ints = np.array([[ring.head + ring.future] for ring in self.rings])

    def panes_of(self, times: Ints) -> Ints:
        """Return the pane [W, n] of each time in each window."""
        return times // self._pane

    def late(self, times: Ints, heads: Ints) -> NDArray[np.bool_]:
        """Tell for each window and time [W, n] whether its pane has left; ``heads`` is [W, 1] or [W, n]."""
        return self.panes_of(times) <= heads - self._panes

    # -- events

    def add(self, times: Ints, rows: Ints, values: Floats) -> None:
        """Count values [n] in their rows and in the totals of those, wherever their panes are in a window.

        Rows that only count take a value as well, which is not looked at.
        """
        self._reserve()
        totals = self.rows.total[rows]
        keyed = np.flatnonzero(totals != rows)
        times = np.concatenate([times, times[keyed]])
        rows = np.concatenate([rows, totals[keyed]])
        values = np.concatenate([values, values[keyed]])
        grains = times // self._grain
        first = grains.min()
        order, starts = _runs((grains - first) * len(self.rows) + rows)
        members = order[starts]
        moments = _merge(Moments.of_values(values[order]), starts)
        self._spread(grains[members], rows[members], moments, several=bool(grains.max() > first))

    def touch(self, rows: Sequence[int]) -> None:
        """Mark rows as changed in every window."""
        self._reserve()
        self.changed[:, rows] = True

    def _spread(self, grains: Ints, rows: Ints, moments: Moments, several: bool) -> None:
        """Add partials of the finest grain to every window that has a pane for them."""
        panes = self.panes_of(grains * self._grain)
        window, group = np.nonzero((panes >= self._oldest) & (panes <= self._newest))
        pane, row = panes[window, group], rows[group]
        place = self._base[window, 0] + pane % self._size[window, 0]
        moments = Moments(moments.count[group], moments.parts[:, group])
        np.add.at(self.held, (window, row), moments.count)
        entered = pane <= self.heads[window, 0]
        self.changed[window[entered], row[entered]] = True
        if several and len(row):
            order, starts = _runs(place * len(self.rows) + row)
            moments = _merge(Moments(moments.count[order], moments.parts[:, order]), starts)
            members = order[starts]
            place, row = place[members], row[members]
        self._cells.add(Groups(place, row, self.rows.column[row], moments))

    def _reserve(self) -> None:
        self._cells.reserve(len(self.rows), self.rows.columns)
        if len(self.rows) > self.held.shape[1]:
            self.held = widen(self.held, len(self.rows), 0)
            self.changed = widen(self.changed, len(self.rows), 0)

    # -- reading

    def present(self, number: int) -> Ints:
        """Return the rows that may have events in a window, and all totals."""
        size = len(self.rows)
        totals = self.rows.total[:size] == np.arange(size)
        return np.flatnonzero(totals | (self._held(number) > 0))

    def read(self, number: int, rows: Ints) -> tuple[Ints, Floats]:
        """Return counts [n] in a window, and sum, mean, min, max and std [5, n], not finite where there is none."""
        ring = self.rings[number]
        places = ring.places(ring.oldest, ring.head)
        column = self.rows.column[rows]
        valued = column != CLOSED
        count = np.empty(len(rows), np.int64)
        figures = np.full((5, len(rows)), np.nan)
        moments = self._cells.merge(places, rows[valued], column[valued])
        count[valued] = moments.count
        figures[:, valued] = describe(moments)
        count[~valued] = self._cells.count(places, rows[~valued])
        return count, figures

    def unused(self) -> Ints:
        """Return the open rows of keys that have no event in any pane of any window."""
        size = len(self.rows)
        total = self.rows.total[:size]
        keyed = (total != CLOSED) & (total != np.arange(size))
        return np.flatnonzero(keyed & ~self._held(slice(None)).any(axis=0))

    def _held(self, number: int | slice) -> Ints:
        self._reserve()
        held: Ints = self.held[number, ..., : len(self.rows)]
        return held


def _runs(codes: Ints) -> tuple[Ints, Ints]:
    """Return the order that sorts ``codes`` stably, and where in it each run of equal codes starts."""
    small = codes.astype(np.uint16) if codes.max() < _RADIX else codes
    order = np.argsort(small, kind="stable")
    ordered = codes[order]
    edges = np.empty(len(codes), np.bool_)
    edges[0] = True
    np.not_equal(ordered[1:], ordered[:-1], out=edges[1:])
    return order, np.flatnonzero(edges)


def _merge(moments: Moments, starts: Ints) -> Moments:
    size = len(moments.count)
    return moments if len(starts) == size else combine(moments, Runs(starts, size))
