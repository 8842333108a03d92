"""Counts of codes in several windows. A code is one integer: a row or column, and the bucket or value counted in it.

Counts are integers: a pane that leaves a window is subtracted exactly.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import DTypeLike

from pushsvc.stats.arrays import Counts, Flags, Index, Ints, places_of
from pushsvc.stats.pane_counts import PaneCounts

_SWEEP = 16


class CodeCounts:
    """Ascending ``codes`` [n] and their ``counts`` [W, n]; the counts of each pane are kept until it expires."""

    STATE = ("codes", "counts", "_panes", "_advances")

    def __init__(self, windows: int, kind: DTypeLike) -> None:
        self.codes: Index = np.zeros(0, kind)
        self.counts: Ints = np.zeros((windows, 0), np.int64)
        self._panes = [PaneCounts() for _ in range(windows)]
        self._advances = 0

    @property
    def bytes(self) -> int:
        """Size of the arrays."""
        return self.codes.nbytes + self.counts.nbytes + sum(counts.bytes for counts in self._panes)

    def add(self, window: int | slice, codes: Index, counts: Counts) -> None:
        """Add counts of ascending, distinct codes to a window or to several."""
        place, new = places_of(self.codes, codes)
        if new.any():
            self.codes = np.insert(self.codes, place[new], codes[new])
            self.counts = np.insert(self.counts, place[new], 0, axis=1)
            place += np.cumsum(new) - new
        self.counts[window, place] += counts

    def add_to_pane(self, window: int, pane: int, codes: Index, counts: Counts) -> None:
        """Record that counts, already added to a window, expire with ``pane``."""
        self._panes[window].add(pane, codes, counts)

    def advance(self, window: int, closed: int, oldest: int) -> None:
        """Close a pane, and subtract the panes before ``oldest``."""
        self._panes[window].close(closed)
        for codes, counts in self._panes[window].expire(oldest):
            self.counts[window, np.searchsorted(self.codes, codes)] -= counts
        self._advances += 1
        if self._advances % _SWEEP == 0:
            self._sweep()

    def keep(self, kept: Callable[[Index], Flags]) -> None:
        """Drop the codes for which ``kept`` returns False."""
        for counts in self._panes:
            counts.keep(kept)
        chosen = kept(self.codes)
        self.codes, self.counts = self.codes[chosen], self.counts[:, chosen]

    def _sweep(self) -> None:
        """Drop codes that are in no window, if they are many."""
        used = np.asarray(self.counts.any(axis=0))
        if 2 * np.count_nonzero(used) < len(used):
            self.codes, self.counts = self.codes[used], self.counts[:, used]
