"""How many events each row has in each pane of a window: what leaves takes its number along."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pushsvc.stats.arrays import Counts, Flags, Index, narrow, runs_of, shared, size_of

_MANY = 32

Numbers = tuple[Index, Counts]
"""Rows (or whatever is counted), each once, and how many events of each."""


class PaneCounts:
    """The panes of one window, by number; a pane holds the numbers as they came, made one when it closes."""

    STATE = ("_panes", "_closed")

    def __init__(self) -> None:
        self._panes: dict[int, list[Numbers]] = {}
        self._closed: Index | None = None

    @property
    def bytes(self) -> int:
        """Size of what is held."""
        return size_of(array for numbers in self._panes.values() for pair in numbers for array in pair)

    def add(self, pane: int, rows: Index, counts: Counts) -> None:
        numbers = self._panes.setdefault(pane, [])
        numbers.append((rows, counts))
        if len(numbers) >= _MANY:
            numbers[:] = [sum_counts(numbers)]

    def close(self, pane: int) -> None:
        """Make one of what came in a pane; more may still come late."""
        if pane in self._panes:
            rows, counts = sum_counts(self._panes[pane])
            self._closed = shared(rows, self._closed)
            self._panes[pane] = [(self._closed, narrow(counts))]

    def expire(self, oldest: int) -> list[Numbers]:
        """Take out and return the panes before ``oldest``."""
        return [sum_counts(self._panes.pop(pane)) for pane in [pane for pane in self._panes if pane < oldest]]

    def keep(self, kept: Callable[[Index], Flags]) -> None:
        """Forget the rows of which ``kept`` says no."""
        for pane, numbers in self._panes.items():
            chosen = [(rows, counts, kept(rows)) for rows, counts in numbers]
            self._panes[pane] = [(rows[mask], counts[mask]) for rows, counts, mask in chosen]

    def first(self) -> int | None:
        """Return the oldest pane that has something."""
        return min(self._panes, default=None)


def sum_counts(numbers: list[Numbers]) -> Numbers:
    """Add up numbers of rows, each row once in each; return the rows in order, each once."""
    if len(numbers) == 1:
        return numbers[0]
    rows = np.concatenate([rows for rows, _ in numbers])
    counts = np.concatenate([counts for _, counts in numbers])
    order = np.argsort(rows)
    rows = rows[order]
    starts = runs_of(rows)
    return rows[starts], np.add.reduceat(counts[order], starts, dtype=np.int32) if len(starts) else counts
