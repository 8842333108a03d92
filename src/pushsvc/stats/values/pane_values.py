"""Values of any type in windows of panes.

Values take the same ways as the events they belong to (see pane_windows.py): into the head grain, as late values into
panes that are still in a window, or as early values into a list until their pane comes.
"""

from collections.abc import Sequence

import numpy as np

from pushsvc.stats.arrays import Counts, Flags, Index, Ints, runs_of
from pushsvc.stats.parts import Batch, bytes_of, chosen, joined
from pushsvc.stats.values.dictionary import SKETCHED, UNTRACKED
from pushsvc.stats.values.distinct import SHIFT, DistinctCounts
from pushsvc.stats.values.first_last import FirstValues, LastValues
from pushsvc.stats.values.frequent import FrequentValues
from pushsvc.stats.values.value_statistics import ValueStatistics, ValueSummary
from pushsvc.stats.window import Window

ValueBatch = Batch[np.int64]  # times (ms), rows, and numbers of values [n]


class PaneValues:
    """The values of rows in several windows, as far as ``statistics`` need them; ``grain`` is in ms."""

    STATE = (
        "_top", "_dictionary", "_windows", "_grain", "_distinct", "_frequent", "_firsts", "_lasts", "_pending",
        "_early",
    )  # fmt: skip

    def __init__(self, windows: Sequence[Window], grain: int, statistics: ValueStatistics) -> None:
        self._top = statistics.top
        self._dictionary = statistics.dictionary
        self._windows = tuple(windows)
        self._grain = grain
        self._distinct = DistinctCounts(len(windows)) if statistics.distinct else None
        self._frequent = FrequentValues(len(windows)) if statistics.top else None
        self._firsts = FirstValues(windows) if "first" in statistics.names else None
        self._lasts = LastValues(len(windows)) if "last" in statistics.names else None
        self._pending: list[ValueBatch] = []
        self._early: list[list[ValueBatch]] = [[] for _ in windows]

    @property
    def bytes(self) -> int:
        """Size of the arrays, without the dictionary."""
        return bytes_of(self._distinct, self._frequent, self._firsts, self._lasts, self._pending, self._early)

    def reserve(self, rows: int) -> None:
        for ends in (self._firsts, self._lasts):
            if ends is not None:
                ends.reserve(rows)

    def put(self, times: Ints, rows: Index, numbers: Ints) -> None:
        self._pending.append((times, rows.astype(np.int64), numbers))

    def settle(self, head: int, panes: Sequence[int], total: Index) -> None:
        """Add pending values, also to the ``total`` [R] of each row; ``panes`` [W] are those of the ``head`` grain."""
        if not self._pending:
            return
        pending, self._pending = self._pending, []
        batch = joined(pending)
        now = batch[0] // self._grain == head
        if now.all():
            self._add(panes, batch, total)
            return
        if now.any():
            self._add(panes, chosen(batch, now), total)
        apart = _with_totals(chosen(batch, ~now), total)
        for window in range(len(self._windows)):
            self._add_apart(window, panes[window], apart)

    def _add(self, panes: Sequence[int], batch: ValueBatch, total: Index) -> None:
        """Add values of the head grain."""
        if self._distinct is not None:
            self._distinct.add(self._codes_of(batch, total), np.array(panes))
        if all(part is None for part in (self._frequent, self._firsts, self._lasts)):
            return
        times, rows, numbers = _with_totals(batch, total)
        if self._frequent is not None:
            self._frequent.add(rows, self._tracked(numbers))
        numbers = self._shown(numbers)
        if self._firsts is not None:
            self._firsts.add(rows, times, numbers)
        if self._lasts is not None:
            self._lasts.add(range(len(self._windows)), rows, times, numbers)

    def _codes_of(self, batch: ValueBatch, total: Index) -> Ints:
        """Return the distinct codes, ascending; those of totals are made from distinct codes, which are fewer."""
        _, rows, numbers = batch
        codes = _unique((rows << SHIFT) | self._dictionary.mark[numbers])
        rows = codes >> SHIFT
        totals = total[rows].astype(np.int64)
        keyed = totals != rows
        return _unique(np.concatenate([codes, codes[keyed] + ((totals[keyed] - rows[keyed]) << SHIFT)]))

    def _add_apart(self, window: int, head: int, batch: ValueBatch) -> None:
        """Add late values to those panes of a window that are still in it; keep early ones until their pane comes."""
        panes = batch[0] // self._windows[window].pane
        early = panes > head
        if early.any():
            self._early[window].append(chosen(batch, early))
        there = (panes > head - self._windows[window].panes) & ~early
        if not there.any():
            return
        panes = panes[there]
        times, rows, numbers = chosen(batch, there)
        if self._distinct is not None:
            self._distinct.add_late(window, (rows << SHIFT) | self._dictionary.mark[numbers], panes)
        if self._frequent is not None:
            self._frequent.add_late(window, panes, rows, self._tracked(numbers))
        numbers = self._shown(numbers)
        if self._firsts is not None:
            self._firsts.add_late(window, rows, times, numbers)
        if self._lasts is not None:
            self._lasts.add([window], rows, times, numbers)

    def _tracked(self, numbers: Ints) -> Ints:
        return np.where(self._dictionary.mark[numbers] < SKETCHED, numbers, UNTRACKED)

    def _shown(self, numbers: Ints) -> Ints:
        """Return the numbers that first and last values keep. Without room for more values, untracked ones are unknown:
        each row would keep two of them for every pane, of up to 200 characters."""
        return self._tracked(numbers) if self._dictionary.full else numbers

    def close(self, panes: list[int]) -> None:
        """Close the head grain, which was in ``panes`` [W]. No value is pending."""
        if self._frequent is not None:
            self._frequent.close(panes)
        if self._firsts is not None:
            self._firsts.close(panes)

    def advance(self, window: int, closed: int, head: int, left: Index, count: Counts) -> None:
        """Close pane ``closed`` and make ``head`` the newest pane of a window. Events of the rows ``left`` have left
        the window; ``count`` [R] is the number of those that remain."""
        oldest = head - self._windows[window].panes + 1
        if self._distinct is not None:
            self._distinct.advance(window, oldest)
        if self._frequent is not None:
            self._frequent.advance(window, closed, oldest)
        if self._firsts is not None:
            self._firsts.advance(window, oldest, count)
        if self._lasts is not None:
            self._lasts.forget(window, left[count[left] == 0])
        waiting, self._early[window] = self._early[window], []
        for batch in waiting:
            self._add_apart(window, head, batch)

    def mark_in_use(self, used: Flags) -> None:
        """Mark the numbers of values that are in any window or will enter one. No value is pending."""
        for part in (self._distinct, self._frequent, self._firsts, self._lasts):
            if part is not None:
                part.mark_in_use(used)
        for _, _, numbers in [batch for batches in self._early for batch in batches]:
            used[numbers] = True

    def read(self, window: int, rows: Ints) -> ValueSummary:
        """Summarize the values of rows in a window."""
        found = ValueSummary(np.zeros(len(rows), np.bool_))
        if self._distinct is not None:
            found.distinct, found.approximate = self._distinct.read(window, rows, self._dictionary.cell)
        if self._frequent is not None:
            found.ranked, missing = self._frequent.read(window, rows, self._top, self._dictionary)
            found.approximate |= missing
        if self._firsts is not None:
            found.firsts = self._firsts.read(window, rows)
        if self._lasts is not None:
            found.lasts = self._lasts.read(window, rows)
        return found

    def drop(self, rows: Ints) -> None:
        """Drop rows. No value is pending."""

        def kept(held: Ints) -> Flags:
            return ~np.isin(held, rows)

        for part in (self._distinct, self._frequent, self._firsts):
            if part is not None:
                part.keep(kept)
        if self._lasts is not None:
            self._lasts.forget(slice(None), rows)
        for window, batches in enumerate(self._early):
            left = [chosen(batch, kept(batch[1])) for batch in batches]
            self._early[window] = [batch for batch in left if len(batch[0])]


def _with_totals(batch: ValueBatch, total: Index) -> ValueBatch:
    """Return values in the rows of their keys and in the totals of these, each in the order of the log."""
    times, rows, numbers = batch
    totals = total[rows].astype(np.int64)
    keyed = totals != rows
    return joined([chosen(batch, keyed), (times, totals, numbers)])


def _unique(codes: Ints) -> Ints:
    ordered = np.sort(codes)
    return ordered[runs_of(ordered)]
