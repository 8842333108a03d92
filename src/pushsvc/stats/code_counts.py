"""How often each code has occurred in several windows. A code says what is counted and where, in one integer.

Counts are integers, so what leaves a window with its pane is taken off exactly.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import DTypeLike

from pushsvc.stats.arrays import Counts, Flags, Index, Ints, places_of
from pushsvc.stats.pane_counts import PaneCounts

_SWEEP = 16


class CodeCounts:
    """``codes`` [n] in order and ``counts`` [W, n] in the windows; panes remember what leaves with them."""

    STATE = ("codes", "counts", "_panes", "_advances")

    def __init__(self, windows: int, kind: DTypeLike) -> None:
        self.codes: Index = np.zeros(0, kind)
        self.counts: Ints = np.zeros((windows, 0), np.int64)
        self._panes = [PaneCounts() for _ in range(windows)]
        self._advances = 0

    @property
    def bytes(self) -> int:
        """Size of what is held."""
        return self.codes.nbytes + self.counts.nbytes + sum(tally.bytes for tally in self._panes)

    def add(self, window: int | slice, codes: Index, counts: Counts) -> None:
        """Count codes, in order and each once, in a window or in several."""
        place, new = places_of(self.codes, codes)
        if new.any():
            self.codes = np.insert(self.codes, place[new], codes[new])
            self.counts = np.insert(self.counts, place[new], 0, axis=1)
            place += np.cumsum(new) - new
        self.counts[window, place] += counts

    def remember(self, window: int, pane: int, codes: Index, counts: Counts) -> None:
        """Note that counted codes leave a window with ``pane``."""
        self._panes[window].add(pane, codes, counts)

    def advance(self, window: int, closed: int, oldest: int) -> None:
        """Close a pane, and take off what came in panes before ``oldest``."""
        self._panes[window].close(closed)
        for codes, counts in self._panes[window].expire(oldest):
            self.counts[window, np.searchsorted(self.codes, codes)] -= counts
        self._advances += 1
        if self._advances % _SWEEP == 0:
            self._sweep()

    def keep(self, kept: Callable[[Index], Flags]) -> None:
        """Forget the codes of which ``kept`` says no, whatever is counted."""
        for tally in self._panes:
            tally.keep(kept)
        chosen = kept(self.codes)
        self.codes, self.counts = self.codes[chosen], self.counts[:, chosen]

    def _sweep(self) -> None:
        """Drop codes that no window counts, if they are many."""
        used = np.asarray(self.counts.any(axis=0))
        if 2 * np.count_nonzero(used) < len(used):
            self.codes, self.counts = self.codes[used], self.counts[:, used]
