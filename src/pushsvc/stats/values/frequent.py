"""The most frequent values of rows in windows.

Tracked values are counted exactly. All others of a row count together as UNTRACKED. While that count is not zero, the
result is approximate: it may lack a value, but none that occurred more often than all untracked ones together.
"""

from collections.abc import Callable

import numpy as np

from pushsvc.stats.arrays import Flags, Ints, lengths_of, members_of, runs_of, slices_of
from pushsvc.stats.pane_counts import CodeCounts, IdCounts, count_ids, kept_counts, sum_counts
from pushsvc.stats.parts import append_merged, bytes_of
from pushsvc.stats.values.dictionary import UNTRACKED, ValueDictionary

SHIFT = 32
_NUMBER = (1 << SHIFT) - 1
_RARE = 1 << 40

Ranked = list[tuple[int, int]]  # number and count of values, the most frequent first


class FrequentValues:
    """Counts of codes (row and number of a value) in several windows, and those of the head grain."""

    STATE = ("_counted", "_head")

    def __init__(self, windows: int) -> None:
        self._counted = CodeCounts(windows, np.int64)
        self._head: list[IdCounts] = []

    @property
    def bytes(self) -> int:
        return bytes_of(self._counted, self._head)

    def add(self, rows: Ints, numbers: Ints) -> None:
        """Count values of the head grain in all windows."""
        counted = count_ids((rows << SHIFT) | numbers)
        append_merged(self._head, counted, sum_counts)
        self._counted.add(slice(None), *counted)

    def add_late(self, window: int, panes: Ints, rows: Ints, numbers: Ints) -> None:
        """Count late values in panes of a window."""
        codes = (rows << SHIFT) | numbers
        for pane in np.unique(panes).tolist():
            self._counted.add_to_pane(window, pane, *count_ids(codes[panes == pane]))
        self._counted.add(window, *count_ids(codes))

    def close(self, panes: list[int]) -> None:
        """Close the head grain, which was in ``panes`` [W]."""
        if self._head:
            codes, self._head = sum_counts(self._head), []
            for window, pane in enumerate(panes):
                self._counted.add_to_pane(window, pane, *codes)

    def advance(self, window: int, closed: int, oldest: int) -> None:
        """Close a pane of a window, and subtract the panes before ``oldest``."""
        self._counted.advance(window, closed, oldest)

    def mark_in_use(self, used: Flags) -> None:
        """Mark the numbers of values that are in any window."""
        used[(self._counted.codes & _NUMBER)[self._counted.counts.any(axis=0)]] = True

    def keep(self, kept: Callable[[Ints], Flags]) -> None:
        """Drop the rows for which ``kept`` returns False."""
        self._counted.keep(lambda codes: kept(codes >> SHIFT))
        self._head = kept_counts(self._head, lambda codes: kept(codes >> SHIFT))

    def read(self, window: int, rows: Ints, most: int, dictionary: ValueDictionary) -> tuple[list[Ranked], Flags]:
        """Return the ``most`` most frequent values of rows [n], and which of these lists are approximate."""
        codes = self._counted.codes
        first = np.searchsorted(codes, rows << SHIFT)
        lengths = np.searchsorted(codes, (rows + 1) << SHIFT) - first
        members = members_of(first, lengths)
        counts, numbers = self._counted.counts[window, members], codes[members] & _NUMBER
        owner = np.repeat(np.arange(len(rows)), lengths)
        approximate = np.zeros(len(rows), np.bool_)
        approximate[owner[(numbers == UNTRACKED) & (counts > 0)]] = True
        there = (numbers != UNTRACKED) & (counts > 0)
        return rank(owner[there], numbers[there], counts[there], len(rows), most, dictionary), approximate


def rank(owner: Ints, numbers: Ints, counts: Ints, size: int, most: int, dictionary: ValueDictionary) -> list[Ranked]:
    """Return for each owner [size] the ``most`` values with the greatest counts, equal counts in order of JSON text."""
    order = np.argsort(owner * _RARE + (_RARE - 1 - counts))
    owner, numbers, counts = owner[order], numbers[order], counts[order]
    starts = runs_of(owner)
    lengths = lengths_of(starts, len(owner))
    least = counts[starts + np.minimum(lengths, most) - 1]
    kept = np.flatnonzero(counts >= np.repeat(least, lengths))  # more than ``most`` where counts are equal
    owner, numbers, counts = owner[kept], numbers[kept], counts[kept]
    order = np.lexsort((dictionary.order[numbers], -counts, owner))
    numbers, counts = numbers[order], counts[order]
    found: list[Ranked] = [[] for _ in range(size)]
    keys = dictionary.order[numbers]
    alike = np.zeros(len(owner), np.bool_)  # a member has the sort key of the one before
    alike[1:] = (owner[1:] == owner[:-1]) & (counts[1:] == counts[:-1]) & (keys[1:] == keys[:-1])
    for here in slices_of(owner):
        ranked = list(zip(numbers[here].tolist(), counts[here].tolist(), strict=True))
        if alike[here].any():
            ranked.sort(key=lambda one: (-one[1], dictionary.text(one[0])))
        found[int(owner[here.start])] = ranked[:most]
    return found
