"""Counts by pane: when a pane expires, its counts are subtracted from those of the window.

Counts are integers, so that the subtraction is exact.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import DTypeLike

from pushsvc.stats.arrays import Counts, Flags, Index, Ints, lengths_of, narrow, places_of, runs_of, shared
from pushsvc.stats.parts import append_merged, bytes_of

_SWEEP = 16

IdCounts = tuple[Index, Counts]  # distinct ids, such as rows or codes, and the count of each


class PaneCounts:
    """The panes of one window, by number. A pane is a list of counts until it closes, which adds them up."""

    STATE = ("_panes", "_closed")

    def __init__(self) -> None:
        self._panes: dict[int, list[IdCounts]] = {}
        self._closed: Index | None = None

    @property
    def bytes(self) -> int:
        return bytes_of(self._panes)

    def add(self, pane: int, ids: Index, counts: Counts) -> None:
        append_merged(self._panes.setdefault(pane, []), (ids, counts), sum_counts)

    def close(self, pane: int) -> None:
        """Add up the counts of a pane; late ones may still be added."""
        if pane in self._panes:
            ids, counts = sum_counts(self._panes[pane])
            self._closed = shared(ids, self._closed)
            self._panes[pane] = [(self._closed, narrow(counts))]

    def expire(self, oldest: int) -> list[IdCounts]:
        """Remove the panes before ``oldest``; return the counts of each."""
        return [sum_counts(self._panes.pop(pane)) for pane in [pane for pane in self._panes if pane < oldest]]

    def keep(self, kept: Callable[[Index], Flags]) -> None:
        """Drop the ids for which ``kept`` returns False."""
        self._panes = {pane: kept_counts(counted, kept) for pane, counted in self._panes.items()}

    def oldest(self) -> int | None:
        """Return the oldest pane that is not empty."""
        return min(self._panes, default=None)


def sum_counts(counted: list[IdCounts]) -> IdCounts:
    """Add up counts by id; return the ids ascending."""
    if len(counted) == 1:
        return counted[0]
    ids, counts = zip(*counted, strict=True)
    return sum_by_id(np.concatenate(ids), np.concatenate(counts))


def sum_by_id(ids: Index, counts: Counts) -> IdCounts:
    """Add up the counts of equal ids; return the ids ascending."""
    order = np.argsort(ids)
    ids = ids[order]
    starts = runs_of(ids)
    return ids[starts], np.add.reduceat(counts[order], starts, dtype=np.int32) if len(starts) else counts


def count_ids(ids: Index) -> IdCounts:
    """Count equal ids; return the ids ascending."""
    ordered = np.sort(ids)
    starts = runs_of(ordered)
    return ordered[starts], lengths_of(starts, len(ids)).astype(np.int32)


def kept_counts(counted: list[IdCounts], kept: Callable[[Index], Flags]) -> list[IdCounts]:
    """Return the counts of the ids for which ``kept`` returns True."""
    chosen = [(ids, counts, kept(ids)) for ids, counts in counted]
    return [(ids[mask], counts[mask]) for ids, counts, mask in chosen]


class CodeCounts:
    """Ascending ``codes`` [n] and their ``counts`` [W, n]; the counts of each pane are kept until it expires. A code is
    one integer: a row or column, and the bucket or value counted in it."""

    STATE = ("codes", "counts", "_panes", "_advances")

    def __init__(self, windows: int, kind: DTypeLike) -> None:
        self.codes: Index = np.zeros(0, kind)
        self.counts: Ints = np.zeros((windows, 0), np.int64)
        self._panes = [PaneCounts() for _ in range(windows)]
        self._advances = 0

    @property
    def bytes(self) -> int:
        return bytes_of(self.codes, self.counts, self._panes)

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
