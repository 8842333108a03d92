"""The engine of one topic: several windows over shared rows, what is in them and which rows changed."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

import numpy as np
from numpy.typing import NDArray

from pushsvc.stats.cells import FIRST_CAPACITY, Cells, widen
from pushsvc.stats.moments import Floats, Ints, Moments, Runs, combine, describe
from pushsvc.stats.ring import Ring
from pushsvc.stats.rows import CLOSED, Rows
from pushsvc.stats.window import Window

_RADIX = 1 << 16
_ENOUGH = 8_192


class Rolling:
    """Windows [W] over rows [R]. ``time`` is where the heads begin.

    Values are put aside first and added in one go when a head moves, somebody reads, or there are ``_ENOUGH``: an array
    operation costs the same for one value as for a hundred.

    ``heads`` [W, 1] are the panes at the heads; ``all_from`` and ``any_from`` the first ms in every window, and in one.
    """

    def __init__(self, windows: Sequence[Window], rows: Rows, time: int) -> None:
        self.rows = rows
        self.rings: list[Ring] = []
        places = 0
        for window in windows:
            self.rings.append(Ring(window, places, time))
            places += self.rings[-1].size
        self._nowhere = places
        self._cells = Cells(places + 1)
        self._changed: NDArray[np.bool_] = np.zeros((len(windows), FIRST_CAPACITY), np.bool_)
        self._held: Ints = np.zeros((len(windows), FIRST_CAPACITY), np.int64)
        self._grain = gcd(*(window.pane for window in windows))
        self._pane: Ints = np.array([[window.pane] for window in windows])
        self._panes: Ints = np.array([[window.panes] for window in windows])
        self._base: Ints = np.array([ring.base for ring in self.rings])
        self._size: Ints = np.array([ring.size for ring in self.rings])
        self._changes: list[int | None] | None = None
        self._times: list[int] = []
        self._rows: list[int] = []
        self._values: list[float] = []
        self._note_heads()

    # -- the head

    def begin(self, time: int) -> None:
        """Set the heads to ``time``, back too, while there is nothing in the windows."""
        for ring in self.rings:
            ring.head = time // ring.window.pane
        self._note_heads()

    def move(self, time: int) -> None:
        """Let the heads follow to the panes of ``time``; never back. Rows that lose or gain a pane are changed."""
        if time < self._next_edge:
            return
        self.settle()
        for number, ring in enumerate(self.rings):
            head = time // ring.window.pane
            if head > ring.head:
                self._move(number, ring, head)
        self._note_heads()

    def panes_of(self, times: Ints) -> Ints:
        """Return the pane [W, n] of each time in each window."""
        return times // self._pane

    def late(self, times: Ints, heads: Ints) -> NDArray[np.bool_]:
        """Tell for each window and time [W, n] whether its pane has left; ``heads`` is [W, 1] or [W, n]."""
        return self.panes_of(times) <= heads - self._panes

    def next_changes(self) -> list[int | None]:
        """Return for each window the next ms at which a pane with events leaves or enters it."""
        self.settle()
        if self._changes is None:
            self._changes = [self._next_change(ring) for ring in self.rings]
        return self._changes

    def _next_change(self, ring: Ring) -> int | None:
        occupied = self._cells.occupied(ring.base, ring.base + ring.size, 0)
        if not len(occupied):
            return None
        panes = ring.pane_at(occupied)
        edges = np.where(panes > ring.head, panes, panes + ring.window.panes)
        return int(edges.min()) * ring.window.pane

    def _move(self, number: int, ring: Ring, head: int) -> None:
        newest = ring.head + ring.future
        leaving = ring.places(ring.oldest, min(newest, head - ring.window.panes))
        entering = ring.places(max(ring.head + 1, head - ring.window.panes + 1), min(newest, head))
        left, events = self._cells.clear(leaving)
        self._held[number, left] -= events
        self._changed[number, left] = True
        self._changed[number, self._cells.filled(entering)] = True
        ring.head = head

    def _note_heads(self) -> None:
        rings = self.rings
        self._next_edge = min(ring.end for ring in rings)
        self.all_from = max(ring.start for ring in rings)
        self.any_from = min(ring.start for ring in rings)
        self.heads: Ints = np.array([[ring.head] for ring in rings])
        self._oldest: Ints = np.array([[ring.oldest] for ring in rings])
        self._newest: Ints = np.array([[ring.head + ring.future] for ring in rings])
        self._in_window: Ints = np.full((int(self._panes.max()), len(rings)), self._nowhere)
        for number, ring in enumerate(rings):
            self._in_window[: ring.window.panes, number] = ring.places(ring.oldest, ring.head)
        self._changes = None

    # -- events

    def put(self, times: list[int], rows: list[int], values: list[float]) -> None:
        """Count values in their rows and in the totals of those, wherever their panes are in a window.

        Rows that only count take a value as well, which is not looked at.
        """
        self._times += times
        self._rows += rows
        self._values += values
        if len(self._times) >= _ENOUGH:
            self.settle()

    @property
    def settled(self) -> bool:
        return not self._times

    def settle(self) -> None:
        """Add what was put aside."""
        if not self._times:
            return
        times, rows, values = np.array(self._times, np.int64), np.array(self._rows, np.int64), np.array(self._values)
        self._times, self._rows, self._values = [], [], []
        self._reserve()
        totals = self.rows.total[rows]
        keyed = np.flatnonzero(totals != rows)
        self._group(
            np.concatenate([times, times[keyed]]) // self._grain,
            np.concatenate([rows, totals[keyed]]),
            np.concatenate([values, values[keyed]]),
        )
        self._changes = None

    def _group(self, grains: Ints, rows: Ints, values: Floats) -> None:
        first = grains.min()
        order, starts = _runs((grains - first) * len(self.rows) + rows)
        members = order[starts]
        moments = _merge(Moments.of_values(values[order]), starts)
        self._spread(grains[members], rows[members], moments, several=bool(grains.max() > first))

    def _spread(self, grains: Ints, rows: Ints, moments: Moments, several: bool) -> None:
        """Add partials of the finest grain to every window that has a pane for them."""
        panes = self.panes_of(grains * self._grain)
        window, group = np.nonzero((panes >= self._oldest) & (panes <= self._newest))
        pane, row = panes[window, group], rows[group]
        place = self._base[window] + pane % self._size[window]
        moments = Moments(moments.count[group], moments.parts[:, group])
        np.add.at(self._held, (window, row), moments.count)
        entered = pane <= self.heads[window, 0]
        self._changed[window[entered], row[entered]] = True
        if several and len(row):
            order, starts = _runs(place * len(self.rows) + row)
            moments = _merge(Moments(moments.count[order], moments.parts[:, order]), starts)
            members = order[starts]
            place, row = place[members], row[members]
        self._cells.add(place, row, self.rows.column[row], moments)

    def _reserve(self) -> None:
        self._cells.reserve(len(self.rows), self.rows.columns)
        if len(self.rows) > self._held.shape[1]:
            self._held = widen(self._held, len(self.rows), 0)
            self._changed = widen(self._changed, len(self.rows), 0)

    # -- reading

    def touch(self, rows: Sequence[int]) -> None:
        """Mark rows as changed in every window."""
        self._reserve()
        self._changed[:, rows] = True

    def changed(self) -> NDArray[np.bool_]:
        """Return for each window whether a row may have changed since its changes were taken."""
        self.settle()
        return np.asarray(self._changed.any(axis=1))

    def take_changes(self, windows: Ints) -> tuple[Ints, Ints]:
        """Return (window, row) of the rows that changed in some windows, in order, and take their marks off."""
        self.settle()
        number, row = np.nonzero(self._changed[windows])
        self._changed[windows] = False
        return windows[number], row

    def present(self, windows: Ints) -> tuple[Ints, Ints]:
        """Return (window, row) of the rows that may have events in some windows, and of all totals."""
        self.settle()
        self._reserve()
        size = len(self.rows)
        totals = self.rows.total[:size] == np.arange(size)
        number, row = np.nonzero(totals | (self._held[windows, :size] > 0))
        return windows[number], row

    def read(self, windows: Ints, rows: Ints) -> tuple[Ints, Floats]:
        """Return the counts [n] of rows in windows, and sum, mean, min, max, std [5, n], not finite where undefined."""
        self.settle()
        column = self.rows.column[rows]
        count, moments = self._cells.read(self._in_window[:, windows], rows, column)
        figures = np.full((5, len(rows)), np.nan)
        figures[:, column != CLOSED] = describe(moments)
        return count, figures

    def unused(self) -> Ints:
        """Return the open rows of keys that have no event in any pane of any window."""
        self.settle()
        self._reserve()
        size = len(self.rows)
        total = self.rows.total[:size]
        keyed = (total != CLOSED) & (total != np.arange(size))
        return np.flatnonzero(keyed & ~self._held[:, :size].any(axis=0))

    def close(self, rows: Ints) -> None:
        """Free unused rows."""
        self._changed[:, rows] = False
        self.rows.close(rows.tolist())


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
