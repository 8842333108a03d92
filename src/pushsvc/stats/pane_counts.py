"""Counts by pane: when a pane expires, its counts are subtracted from those of the window."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pushsvc.stats.arrays import Counts, Flags, Index, narrow, runs_of, shared, size_of

_MANY = 32

IdCounts = tuple[Index, Counts]
"""Distinct ids, such as rows or codes, and the count of each."""


class PaneCounts:
    """The panes of one window, by number. A pane is a list of counts until it closes, which adds them up."""

    STATE = ("_panes", "_closed")

    def __init__(self) -> None:
        self._panes: dict[int, list[IdCounts]] = {}
        self._closed: Index | None = None

    @property
    def bytes(self) -> int:
        """Size of the arrays."""
        return size_of(array for counted in self._panes.values() for pair in counted for array in pair)

    def add(self, pane: int, ids: Index, counts: Counts) -> None:
        counted = self._panes.setdefault(pane, [])
        counted.append((ids, counts))
        if len(counted) >= _MANY:
            counted[:] = [sum_counts(counted)]

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
        for pane, counted in self._panes.items():
            chosen = [(ids, counts, kept(ids)) for ids, counts in counted]
            self._panes[pane] = [(ids[mask], counts[mask]) for ids, counts, mask in chosen]

    def oldest(self) -> int | None:
        """Return the oldest pane that is not empty."""
        return min(self._panes, default=None)


def sum_counts(counted: list[IdCounts]) -> IdCounts:
    """Add up counts by id; return the ids ascending."""
    if len(counted) == 1:
        return counted[0]
    ids = np.concatenate([ids for ids, _ in counted])
    counts = np.concatenate([counts for _, counts in counted])
    order = np.argsort(ids)
    ids = ids[order]
    starts = runs_of(ids)
    return ids[starts], np.add.reduceat(counts[order], starts, dtype=np.int32) if len(starts) else counts
