"""How often each code has occurred in several windows. A code says what is counted and where, in one integer.

Counts are integers, so what leaves a window with its pane is taken off exactly.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import DTypeLike, NDArray

from pushsvc.stats.moments import Counts, Index, Ints
from pushsvc.stats.tally import Tally

_SWEEP = 16


class CodeCounts:
    """``codes`` [n] in order and ``counts`` [W, n] in the windows; panes remember what leaves with them."""

    STATE = ("codes", "counts", "_panes", "_advances")

    def __init__(self, windows: int, kind: DTypeLike) -> None:
        self.codes: Index = np.zeros(0, kind)
        self.counts: Ints = np.zeros((windows, 0), np.int64)
        self._panes = [Tally() for _ in range(windows)]
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

    def keep(self, kept: Callable[[Index], NDArray[np.bool_]]) -> None:
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
