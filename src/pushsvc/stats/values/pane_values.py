"""Values of fields, text and all, in windows of panes.

Values come with the rows whose events are counted (see rolling.py) and take the same ways: into the head grain, into
panes of the windows that still have them, or aside until their pane comes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pushsvc.stats.arrays import Counts, Flags, Index, Ints, runs_of
from pushsvc.stats.values.dictionary import SKETCHED, UNTRACKED
from pushsvc.stats.values.distinct import SHIFT, DistinctCounts
from pushsvc.stats.values.first_last import FirstValues, LastValues
from pushsvc.stats.values.frequent import FrequentValues
from pushsvc.stats.values.value_statistics import ValueStatistics, ValueSummary
from pushsvc.stats.window import Window

Chunk = tuple[Ints, Ints, Ints]
"""Times (ms), rows and numbers of values."""


class PaneValues:
    """The values of rows in several windows, for what is ``wanted`` of them; ``grain`` is in ms."""

    STATE = (
        "wanted", "_windows", "_grain", "_distinct", "_frequent", "_firsts", "_lasts", "_aside", "_future",
    )  # fmt: skip

    def __init__(self, windows: Sequence[Window], grain: int, wanted: ValueStatistics) -> None:
        self.wanted = wanted
        self._windows = tuple(windows)
        self._grain = grain
        self._distinct = DistinctCounts(len(windows)) if wanted.distinct else None
        self._frequent = FrequentValues(len(windows)) if wanted.top else None
        self._firsts = FirstValues(windows) if "first" in wanted.statistics else None
        self._lasts = LastValues(len(windows)) if "last" in wanted.statistics else None
        self._aside: list[Chunk] = []
        self._future: list[list[Chunk]] = [[] for _ in windows]

    @property
    def bytes(self) -> int:
        """Size of what is held, without the vocabulary."""
        parts = (self._distinct, self._frequent, self._firsts, self._lasts)
        chunks = [*self._aside, *(chunk for chunks in self._future for chunk in chunks)]
        waiting = sum(array.nbytes for chunk in chunks for array in chunk)
        return waiting + sum(part.bytes for part in parts if part is not None)

    def reserve(self, rows: int) -> None:
        """Make room for so many rows."""
        for ends in (self._firsts, self._lasts):
            if ends is not None:
                ends.reserve(rows)

    # -- in

    def put(self, times: Ints, rows: Index, numbers: Ints) -> None:
        """Put values aside until they are settled, with the events of their rows."""
        self._aside.append((times, rows.astype(np.int64), numbers))

    def settle(self, head: int, panes: Sequence[int], total: Index) -> None:
        """Take in what was put aside: ``head`` is the grain at the head and ``panes`` those of the windows; a value
        counts in its own row and in that row's ``total`` [R]."""
        if not self._aside:
            return
        aside, self._aside = self._aside, []
        chunk = _concatenated(aside)
        now = chunk[0] // self._grain == head
        if now.all():
            self._add(panes, chunk, total)
            return
        if now.any():
            self._add(panes, _chosen(chunk, now), total)
        apart = _with_totals(_chosen(chunk, ~now), total)
        for window in range(len(self._windows)):
            self._add_apart(window, panes[window], apart)

    def _add(self, panes: Sequence[int], chunk: Chunk, total: Index) -> None:
        """Add values of the head grain."""
        if self._distinct is not None:
            self._distinct.add(self._codes_of(chunk, total), np.array(panes))
        if all(part is None for part in (self._frequent, self._firsts, self._lasts)):
            return
        times, rows, numbers = _with_totals(chunk, total)
        if self._frequent is not None:
            self._frequent.add(rows, self._tracked(numbers))
        if self._firsts is not None:
            self._firsts.add(rows, times, numbers)
        if self._lasts is not None:
            self._lasts.add(range(len(self._windows)), rows, times, numbers)

    def _codes_of(self, chunk: Chunk, total: Index) -> Ints:
        """Return codes in order, each once: those of totals are derived from what is left of the others."""
        _, rows, numbers = chunk
        codes = _unique((rows << SHIFT) | self.wanted.vocabulary.mark[numbers])
        rows = codes >> SHIFT
        totals = total[rows].astype(np.int64)
        keyed = totals != rows
        return _unique(np.concatenate([codes, codes[keyed] + ((totals[keyed] - rows[keyed]) << SHIFT)]))

    def _add_apart(self, window: int, head: int, chunk: Chunk) -> None:
        """Add values that are late, or early, to the panes of a window that have them; keep what is still to enter."""
        panes = chunk[0] // self._windows[window].pane
        early = panes > head
        if early.any():
            self._future[window].append(_chosen(chunk, early))
        there = (panes > head - self._windows[window].panes) & ~early
        if not there.any():
            return
        panes = panes[there]
        times, rows, numbers = _chosen(chunk, there)
        if self._distinct is not None:
            self._distinct.add_late(window, (rows << SHIFT) | self.wanted.vocabulary.mark[numbers], panes)
        if self._frequent is not None:
            self._frequent.add_late(window, panes, rows, self._tracked(numbers))
        if self._firsts is not None:
            self._firsts.add_late(window, rows, times, numbers)
        if self._lasts is not None:
            self._lasts.add([window], rows, times, numbers)

    def _tracked(self, numbers: Ints) -> Ints:
        return np.where(self.wanted.vocabulary.mark[numbers] < SKETCHED, numbers, UNTRACKED)

    # -- the head

    def close(self, panes: list[int]) -> None:
        """Close the head grain, which was in these panes of the windows. All is settled."""
        if self._frequent is not None:
            self._frequent.close(panes)
        if self._firsts is not None:
            self._firsts.close(panes)

    def advance(self, window: int, closed: int, head: int, left: Index, count: Counts) -> None:
        """Let a window end with pane ``head`` after ``closed``. Something of rows ``left`` it, ``count`` [R] is what
        rows still have."""
        oldest = head - self._windows[window].panes + 1
        if self._distinct is not None:
            self._distinct.advance(window, oldest)
        if self._frequent is not None:
            self._frequent.advance(window, closed, oldest)
        if self._firsts is not None:
            self._firsts.advance(window, oldest, count)
        if self._lasts is not None:
            self._lasts.forget(window, left[count[left] == 0])
        waiting, self._future[window] = self._future[window], []
        for chunk in waiting:
            self._add_apart(window, head, chunk)

    def hold(self, held: Flags) -> None:
        """Mark the numbers of the values that are in any window, or to come, as held. All is settled."""
        for part in (self._distinct, self._frequent, self._firsts, self._lasts):
            if part is not None:
                part.hold(held)
        for _, _, numbers in [chunk for chunks in self._future for chunk in chunks]:
            held[numbers] = True

    # -- out

    def read(self, window: int, rows: Ints) -> ValueSummary:
        """Return what rows have in a window."""
        found = ValueSummary(np.zeros(len(rows), np.bool_))
        if self._distinct is not None:
            found.distinct, found.near = self._distinct.read(window, rows, self.wanted.vocabulary.cell)
        if self._frequent is not None:
            found.ranked, missing = self._frequent.read(window, rows, self.wanted.top, self.wanted.vocabulary)
            found.near |= missing
        if self._firsts is not None:
            found.firsts = self._firsts.read(window, rows)
        if self._lasts is not None:
            found.lasts = self._lasts.read(window, rows)
        return found

    def discard(self, rows: Ints) -> None:
        """Forget rows. All is settled."""

        def kept(held: Ints) -> Flags:
            return ~np.isin(held, rows)

        for part in (self._distinct, self._frequent, self._firsts):
            if part is not None:
                part.keep(kept)
        if self._lasts is not None:
            self._lasts.forget(slice(None), rows)
        for window, chunks in enumerate(self._future):
            chosen = [_chosen(chunk, kept(chunk[1])) for chunk in chunks]
            self._future[window] = [chunk for chunk in chosen if len(chunk[0])]


def _with_totals(chunk: Chunk, total: Index) -> Chunk:
    """Return values in the rows of their keys and in the totals of these, all in the order of the log."""
    times, rows, numbers = chunk
    totals = total[rows].astype(np.int64)
    keyed = totals != rows
    return _concatenated([(times[keyed], rows[keyed], numbers[keyed]), (times, totals, numbers)])


def _unique(codes: Ints) -> Ints:
    ordered = np.sort(codes)
    return ordered[runs_of(ordered)]


def _concatenated(chunks: Sequence[Chunk]) -> Chunk:
    times, rows, numbers = (np.concatenate(arrays) for arrays in zip(*chunks, strict=True))
    return times, rows, numbers


def _chosen(chunk: Chunk, mask: Flags) -> Chunk:
    times, rows, numbers = chunk
    return times[mask], rows[mask], numbers[mask]
