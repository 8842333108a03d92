"""Windows made of panes: counts and statistics of each row in each window, and which rows changed."""

from collections.abc import Sequence
from math import gcd

import numpy as np

from pushsvc.pause import no_pause
from pushsvc.stats.arrays import Counts, Flags, Floats, Index, Ints, slices_of
from pushsvc.stats.pane_counts import PaneCounts
from pushsvc.stats.panes.batches import RowBatch, chosen, group, joined, merged, without
from pushsvc.stats.panes.column_statistics import ColumnStatistics
from pushsvc.stats.panes.partials import RowPartial
from pushsvc.stats.panes.two_stack import BLOCK
from pushsvc.stats.parts import bytes_of
from pushsvc.stats.rows import ALL_KEYS, Rows, TopicRows
from pushsvc.stats.values.pane_values import PaneValues
from pushsvc.stats.values.value_statistics import ValueStatistics, ValueSummary
from pushsvc.stats.window import TimeRange, Window

_MOST_PENDING = 16_384
_FIRST_CAPACITY = 16


class PaneWindows:
    """Windows [W] over rows [R]. ``time`` is where the clock starts, ``percents`` are those of the quantiles.

    Time advances in grains; a grain is the greatest number of ms that divides the panes of all windows. Events of the
    head grain, the newest one, are added once. When the head moves on, their partials are added to the panes of every
    window. Events stay pending until the head moves, until a read, or until they are ``_MOST_PENDING``: an array
    operation costs the same for one value as for a hundred.
    """

    STATE = (
        "windows", "percents", "grain", "_rows", "_head", "_pane_counts", "_statistics", "_values", "_changed",
        "_stale", "_counts", "_head_counts", "_pending", "_pending_rows", "_early",
    )  # fmt: skip
    DERIVED = ("pause",)

    def __init__(
        self, windows: Sequence[Window], time: int, rows: Rows, percents: Sequence[int],
        value_statistics: ValueStatistics | None,
    ) -> None:  # fmt: skip
        self.windows = tuple(windows)
        self.percents = tuple(percents)
        self.pause = no_pause
        self.grain = gcd(*(window.pane for window in windows))
        self._rows = rows
        self._head = time // self.grain
        self._pane_counts = [PaneCounts() for _ in windows]
        self._statistics = ColumnStatistics(windows, percents)
        self._values = None if value_statistics is None else PaneValues(windows, self.grain, value_statistics)
        self._changed: Flags = np.zeros((len(windows), _FIRST_CAPACITY), np.bool_)
        self._stale: Flags = np.zeros((len(windows), _FIRST_CAPACITY), np.bool_)
        self._counts: Ints = np.zeros((len(windows), _FIRST_CAPACITY), np.int64)
        self._head_counts: Counts = np.zeros(_FIRST_CAPACITY, np.int32)
        self._pending: list[RowBatch] = []
        self._pending_rows = 0
        self._early: list[list[RowBatch]] = [[] for _ in windows]

    @property
    def bytes(self) -> int:
        fixed = (self._changed, self._stale, self._counts, self._head_counts)
        return bytes_of(*fixed, self._pane_counts, self._statistics, self._values, self._pending, self._early)

    # -- the head

    @property
    def time(self) -> int:
        """The last ms of the head grain."""
        return (self._head + 1) * self.grain - 1

    @property
    def step(self) -> int:
        return self._head_pane(0)

    def _head_pane(self, window: int) -> int:
        """Return the newest pane of a window."""
        return self._head * self.grain // self.windows[window].pane

    def _head_panes(self) -> list[int]:
        return [self._head_pane(number) for number in range(len(self.windows))]

    def _interval(self, window: int) -> tuple[int, int]:
        """Return the first ms of a window and the first ms after it."""
        end = (self._head_pane(window) + 1) * self.windows[window].pane
        return end - self.windows[window].length, end

    def time_ranges(self, window: int, topics: Sequence[TopicRows]) -> list[TimeRange]:
        """Return what a window covers, the same for every topic."""
        return [TimeRange(*self._interval(window))] * len(topics)

    def start(self, time: int) -> None:
        self._head = time // self.grain
        self._statistics.stacks.start(self._head_panes())

    def advance(self, time: int) -> bool:
        """Move the head to the grain of ``time`` unless it is older; return whether it moved."""
        head = time // self.grain
        if head <= self._head:
            return False
        self.settle()
        before = self._head_panes()
        self._close_grain(before)
        self._statistics.quantiles.close(before, head)
        if self._values is not None:
            self._values.close(before)
        self._head = head
        for number, old in enumerate(before):
            if self._head_pane(number) > old:
                self._advance_window(number, old)
                self.pause()
        return True

    def next_changes(self, _ready: object = None) -> list[int | None]:
        """Return for each window the next ms at which events leave or enter it, for any topic."""
        self.settle()
        return [self._next_change(number) for number in range(len(self.windows))]

    def _next_change(self, number: int) -> int | None:
        window, oldest = self.windows[number], self._pane_counts[number].oldest()
        if oldest is None and self._head_counts.any():
            oldest = self._head_pane(number)
        panes = [] if oldest is None else [oldest + window.panes]
        panes += [int(grains.min()) * self.grain // window.pane for grains, _, _ in self._early[number]]
        return min(panes) * window.pane if panes else None

    def _close_grain(self, panes: Sequence[int]) -> None:
        """Add the head grain to every window."""
        rows = np.flatnonzero(self._head_counts).astype(np.int32)
        if not len(rows):
            return
        counts = self._head_counts[rows]
        self._head_counts[rows] = 0
        for pane_counts, pane in zip(self._pane_counts, panes, strict=True):
            pane_counts.add(pane, rows, counts)
        columns, order = self._rows.columns_of(rows)
        self._statistics.close_grain(columns, counts[order])

    def _advance_window(self, number: int, old: int) -> None:
        """Expire the panes of a window whose head pane was ``old``, and add the events that were early."""
        head, pane_counts = self._head_pane(number), self._pane_counts[number]
        oldest = head - self.windows[number].panes + 1
        pane_counts.close(old)
        expired = pane_counts.expire(oldest)
        for rows, counts in expired:
            self._counts[number, rows] -= counts
            self._mark(number, rows)
        self._statistics.advance(number, old, head, oldest)
        if self._values is not None:
            left = np.concatenate([np.zeros(0, np.int32), *(rows for rows, _ in expired)])
            self._values.advance(number, old, head, left, self._counts[number])
        early, self._early[number] = self._early[number], []
        for batch in merged(early):
            self._add_apart(number, batch)

    # -- events in

    def begin_entry(self, _topic: TopicRows, _offset: int, times: Ints, _in_range: Flags | None) -> Ints:
        """Return the grains of events, which are their ids."""
        return times // self.grain

    def put(self, grains: Ints, rows: Index, values: Floats | None) -> None:
        """Add values to rows and their totals; None for rows that only count. Events too old for all are ignored."""
        self._pending.append((grains, rows, values))
        self._pending_rows += len(rows)
        if self._pending_rows >= _MOST_PENDING:
            self.settle()

    def put_values(self, grains: Ints, times: Ints, rows: Index, numbers: Ints) -> None:
        """Add values of any type, by their numbers in the dictionary, to rows of VALUES."""
        if self._values is not None:
            self._values.put(times, rows, numbers)
            self.put(grains, rows, None)

    def settle(self) -> None:
        """Add pending events."""
        if not self._pending:
            return
        pending, self._pending, self._pending_rows = self._pending, [], 0
        self._reserve()
        for batch in merged(pending):
            self._add_batch(batch)
        if self._values is not None:
            self._values.settle(self._head, self._head_panes(), self._rows.total)

    def _add_batch(self, batch: RowBatch) -> None:
        """Add events to the head grain; late and early ones to each window on its own."""
        now = batch[0] == self._head
        if now.all():
            self._add(batch)
            return
        if now.any():
            self._add(chosen(batch, now))
        grains, rows, values = apart = chosen(batch, np.flatnonzero(~now))
        if self.percents and values is not None:
            self._statistics.quantiles.keep(*self._rows.column_pairs(rows), values, grains, self._head)
        for number in range(len(self.windows)):
            self._add_apart(number, apart)

    def _add(self, batch: RowBatch) -> None:
        """Add events to the head grain."""
        _, rows, values = batch
        for own, moments in group(rows, values, self._rows.total):
            self._counts[:, own] += moments.count
            self._mark(slice(None), own)
            count = self._head_counts[own]
            self._head_counts[own] = count + moments.count
            if values is not None:
                self._statistics.add(self._rows.column[own], count, moments)
        if self.percents and values is not None:
            self._statistics.add_values(self._rows.column_pairs(rows), values, self._head)

    def _add_apart(self, number: int, batch: RowBatch) -> None:
        """Add late events to those panes of a window that are still in it; keep early ones until their pane comes."""
        head, window = self._head_pane(number), self.windows[number]
        panes = batch[0] * self.grain // window.pane
        early = panes > head
        if early.any():
            self._early[number].append(chosen(batch, early))
        there = np.flatnonzero((panes > head - window.panes) & ~early)
        if len(there):
            _, rows, values = chosen(batch, there)
            self._add_to_panes(number, panes[there], rows, values)

    def _add_to_panes(self, number: int, panes: Ints, rows: Index, values: Floats | None) -> None:
        first, width = int(panes.min()), self._rows.size
        codes, moments = joined(group((panes - first) * width + rows, values, self._rows.total, width))
        own, pane = (codes % width).astype(np.int64), (codes // width + first).astype(np.int64)
        np.add.at(self._counts[number], own, moments.count)
        self._mark(number, own)
        for here in slices_of(pane):
            self._pane_counts[number].add(int(pane[here.start]), own[here].astype(np.int32), moments.count[here])
        if values is None:
            return
        self._statistics.stacks.add_late(number, pane, self._rows.column[own].astype(np.int64), moments)
        if self.percents:
            self._statistics.quantiles.add_late(number, panes, *self._rows.column_pairs(rows), values)

    def _mark(self, window: int | slice, rows: Index) -> None:
        self._changed[window, rows] = True
        self._stale[window, rows] = True

    def _reserve(self) -> None:
        size = len(self._head_counts)
        if self._rows.size > size:
            more = max(self._rows.size, 2 * size if size < BLOCK else size + size // 4) - size
            self._head_counts = np.pad(self._head_counts, (0, more))
            self._counts = np.pad(self._counts, ((0, 0), (0, more)))
            self._changed = np.pad(self._changed, ((0, 0), (0, more)))
            self._stale = np.pad(self._stale, ((0, 0), (0, more)))
        if self._values is not None:
            self._values.reserve(len(self._head_counts))
        self._statistics.reserve(self._rows.columns, self._head_panes())

    # -- rows out

    def touch(self, rows: Index) -> None:
        self._reserve()
        self._mark(slice(None), rows)

    def changed(self, window: int) -> Flags:
        self.settle()
        self._reserve()
        return self._changed[window, : self._rows.size]

    def set_changed(self, window: int, rows: Ints, *, changed: bool) -> None:
        self.settle()
        self._reserve()
        self._changed[window, rows] = changed

    def counts(self, window: int) -> Counts:
        """Return the number of events in each row [R]."""
        self.settle()
        self._reserve()
        return self._counts[window, : self._rows.size]

    def read(self, window: int, rows: Ints) -> Floats:
        """Return the moments and quantiles [5 + percents, n] of rows, not finite where undefined."""
        # The statistics of a row are kept until events enter or leave it: that saves the merges.
        self.settle()
        self._reserve()
        stale = rows[self._stale[window, rows]]
        columns, order = self._rows.columns_of(stale)
        if len(columns):
            counts = self._head_counts[stale[order]]
            self._statistics.refresh(window, columns, counts, *self._grains(window))
        self._stale[window, rows] = False
        return self._statistics.read(window, self._rows.column[rows])

    def summarize_values(self, window: int, rows: Ints) -> ValueSummary:
        """Summarize the values in rows [n] of VALUES."""
        self.settle()
        return ValueSummary(np.zeros(len(rows), np.bool_)) if self._values is None else self._values.read(window, rows)

    def partials(self, window: int, rows: Ints) -> list[RowPartial]:
        """Return the states of rows, to be merged with those of other engines."""
        counts, (columns, order) = self.counts(window)[rows], self._rows.columns_of(rows)
        head_counts = self._head_counts[rows[order]]
        numeric = self._statistics.partials(window, columns, head_counts, *self._grains(window))
        found = dict(zip(order.tolist(), numeric, strict=True))
        return [found.get(place) or RowPartial(count) for place, count in enumerate(counts.tolist())]

    def _grains(self, window: int) -> tuple[int, int]:
        """Return the first and the last grain of a window."""
        first, end = self._interval(window)
        return first // self.grain, end // self.grain - 1

    # -- rows that go

    def mark_values_in_use(self, used: Flags) -> None:
        """Mark the numbers of values that are in any window or will enter one."""
        self.settle()
        if self._values is not None:
            self._values.mark_in_use(used)

    def unused_rows(self) -> Ints:
        self.settle()
        self._reserve()
        size = self._rows.size
        keyed = self._rows.key[:size] > ALL_KEYS
        keyed &= ~self._counts[:, :size].any(axis=0)
        for _, rows, _ in [batch for batches in self._early for batch in batches]:
            keyed[rows] = False
        return np.flatnonzero(keyed)

    def forget(self, rows: Ints) -> None:
        self._changed[:, rows] = False
        columns, _ = self._rows.columns_of(rows)
        self._statistics.forget(columns)

    def drop_topic(self, _topic: TopicRows, rows: Ints) -> None:
        self.settle()
        self._reserve()
        columns, _ = self._rows.columns_of(rows)
        self._counts[:, rows] = 0
        self._changed[:, rows] = False
        self._head_counts[rows] = 0
        for pane_counts in self._pane_counts:
            pane_counts.keep(lambda counted: ~np.isin(counted, rows))
        self._statistics.drop(columns)
        if self._values is not None:
            self._values.drop(rows)
        self._early = [without(batches, rows) for batches in self._early]
