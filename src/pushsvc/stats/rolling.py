"""The engine: several windows over shared rows, what is in them and which rows changed."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

import numpy as np
from numpy.typing import NDArray

from pushsvc.stats.fold import BLOCK, Fold, Part
from pushsvc.stats.moments import (
    EMPTY,
    HIGH,
    LOW,
    Counts,
    Floats,
    Index,
    Ints,
    Moments,
    describe,
    empty,
    lengths_of,
    merge,
    merge_equal,
    reduce,
    runs_of,
)
from pushsvc.stats.quantiles import BITS, Histograms, Newest, buckets_of
from pushsvc.stats.rows import ALL_KEYS, CLOSED, Rows, TopicRows
from pushsvc.stats.tally import Numbers, Tally, sum_equal
from pushsvc.stats.window import Window

ROOM = 10_000
"""Milliseconds ahead of the head for which events are kept: the 5 s that producers may be ahead, and as much again for
clocks that differ between machines."""

MOMENTS = 5
"""Sum, mean, min, max and std."""

Chunk = tuple[Ints, Index, Floats | None]
"""Grains, rows, and values unless the rows only count."""

_PANE_SHIFT = 56
_CODE = (1 << _PANE_SHIFT) - 1

_ENOUGH = 16_384
_FIRST_CAPACITY = 16


class Rolling:
    """Windows [W] over rows [R]. ``time`` is where the head begins, ``percents`` are those of the quantiles wanted.

    Time goes in grains, the greatest that divide the panes of all windows. What falls into the grain at the head is
    written once; when the head moves on, its partials are handed to every window. Events are put aside first and
    added in one go when the head moves, somebody reads, or there are ``_ENOUGH``: an array operation costs the same for
    one value as for a hundred.
    """

    def __init__(self, windows: Sequence[Window], time: int, percents: Sequence[int] = ()) -> None:
        self.windows = tuple(windows)
        self.percents = tuple(percents)
        self.rows = Rows()
        self.grain = gcd(*(window.pane for window in windows))
        self._head = time // self.grain
        self._tallies = [Tally() for _ in windows]
        self._blocks: list[list[Fold]] = []
        self._changed: NDArray[np.bool_] = np.zeros((len(windows), _FIRST_CAPACITY), np.bool_)
        self._stale: NDArray[np.bool_] = np.zeros((len(windows), _FIRST_CAPACITY), np.bool_)
        self._figures: Floats = np.zeros((len(windows), MOMENTS + len(percents), _FIRST_CAPACITY))
        self._held: Counts = np.zeros((len(windows), _FIRST_CAPACITY), np.int32)
        self._histograms: list[Histograms] = []
        self._newest = Newest()
        self._codes: list[Numbers] = []
        self._count: Counts = np.zeros(_FIRST_CAPACITY, np.int32)
        self._parts: Floats = empty(_FIRST_CAPACITY)
        self._aside: list[Chunk] = []
        self._waiting = 0
        self._future: list[list[Chunk]] = [[] for _ in windows]

    @property
    def bytes(self) -> int:
        """Size of the arrays, nearly."""
        fixed = [self._changed, self._stale, self._figures, self._held, self._count, self._parts]
        held = sum(tally.bytes for tally in self._tallies)
        held += sum(fold.bytes for block in self._blocks for fold in block)
        held += sum(histograms.bytes for histograms in self._histograms) + self._newest.bytes
        return held + sum(array.nbytes for array in fixed)

    # -- the head

    @property
    def time(self) -> int:
        """The last ms of the grain at the head."""
        return (self._head + 1) * self.grain - 1

    def head(self, window: int) -> int:
        """Return the pane at the head of a window."""
        return self._head * self.grain // self.windows[window].pane

    def interval(self, window: int) -> tuple[int, int]:
        """Return the first ms of a window and the first behind it."""
        end = (self.head(window) + 1) * self.windows[window].pane
        return end - self.windows[window].length, end

    def begin(self, time: int) -> None:
        """Set the head to ``time``, back too, while there is nothing in the windows."""
        self._head = time // self.grain
        self._blocks = [self._new_block(number) for number in range(len(self._blocks))]

    def move(self, time: int) -> bool:
        """Let the head follow to the grain of ``time``; never back. Rows that lose or gain events are changed.

        Tells whether it moved.
        """
        head = time // self.grain
        if head <= self._head:
            return False
        self.settle()
        before = [self.head(number) for number in range(len(self.windows))]
        self._close_grain(before)
        self._head = head
        for number, old in enumerate(before):
            if self.head(number) > old:
                self._advance(number, old)
        self._newest.ripen(head)
        return True

    def next_changes(self) -> list[int | None]:
        """Return for each window the next ms at which events leave or enter it."""
        self.settle()
        return [self._next_change(number) for number in range(len(self.windows))]

    def _next_change(self, number: int) -> int | None:
        window, oldest = self.windows[number], self._tallies[number].first()
        if oldest is None and self._count.any():
            oldest = self.head(number)
        times = [] if oldest is None else [(oldest + window.panes) * window.pane]
        entering = [int(grains.min()) * self.grain // window.pane for grains, _, _ in self._future[number]]
        times += [pane * window.pane for pane in entering]
        return min(times, default=None)

    def _close_grain(self, panes: Sequence[int]) -> None:
        """Hand what is in the head grain to every window."""
        rows = np.flatnonzero(self._count).astype(np.int32)
        if not len(rows):
            return
        counts = self._count[rows]
        self._count[rows] = 0
        for tally, pane in zip(self._tallies, panes, strict=True):
            tally.add(pane, rows, counts)
        columns, order = self._columns_of(rows)
        moments = Moments(counts[order], self._parts[:, columns])
        self._parts[:, columns] = EMPTY[:, None]
        for block, part in self._by_block(columns, moments):
            for fold in block:
                fold.add(part)
        if self._codes:
            codes, self._codes = sum_equal(self._codes), []
            for histograms, own, numbers in self._codes_by_block(codes):
                for number, pane in enumerate(panes):
                    histograms.remember(number, pane, own, numbers)

    def _advance(self, number: int, old: int) -> None:
        head, tally = self.head(number), self._tallies[number]
        tally.close(old)
        for rows, counts in tally.expire(head - self.windows[number].panes + 1):
            self._held[number, rows] -= counts
            self._mark(number, rows)
        for block in self._blocks:
            block[number].advance(head)
        for histograms in self._histograms:
            histograms.advance(number, old, head - self.windows[number].panes + 1)
        waiting, self._future[number] = self._future[number], []
        for grains, rows, values in waiting:
            self._add_apart(number, grains, rows, values)

    # -- events

    def put(self, grains: Ints, rows: Index, values: Floats | None) -> None:
        """Count values in their rows and in the totals of those; None for rows that only count.

        ``grains`` are times // grain; what is too old for every window is left out.
        """
        self._aside.append((grains, rows, values))
        self._waiting += len(rows)
        if self._waiting >= _ENOUGH:
            self.settle()

    @property
    def settled(self) -> bool:
        return not self._aside

    def settle(self) -> None:
        """Add what was put aside."""
        if not self._aside:
            return
        aside, self._aside, self._waiting = self._aside, [], 0
        self._reserve()
        for valued in (False, True):
            chosen = [chunk for chunk in aside if (chunk[2] is not None) == valued]
            if chosen:
                grains = np.concatenate([grains for grains, _, _ in chosen])
                rows = np.concatenate([rows for _, rows, _ in chosen])
                values = np.concatenate([values for _, _, values in chosen if values is not None]) if valued else None
                self._sort_in(grains, rows, values)

    def _sort_in(self, grains: Ints, rows: Index, values: Floats | None) -> None:
        """Add events to the head grain, or window by window where they are late or early."""
        if int(grains.min()) == int(grains.max()) == self._head:
            self._add(rows, values)
            return
        now = grains == self._head
        if now.any():
            self._add(rows[now], None if values is None else values[now])
        apart = np.flatnonzero(~now)
        if self.percents and values is not None and len(apart):
            self._remember(rows[apart], values[apart], grains[apart])
        for number in range(len(self.windows)):
            self._add_apart(number, grains[apart], rows[apart], None if values is None else values[apart])

    def _add(self, rows: Index, values: Floats | None) -> None:
        for own, moments in self._group(rows, values):
            self._held[:, own] += moments.count
            self._mark(slice(None), own)
            count = self._count[own]
            self._count[own] = count + moments.count
            if values is not None:
                columns = self.rows.column[own]
                if count.any():
                    moments = merge(Moments(count, self._parts[:, columns]), moments)
                self._parts[:, columns] = moments.parts
        if self.percents and values is not None:
            self._remember(rows, values, np.full(len(rows), self._head))
            codes = self._codes_of(rows, values)
            self._codes.append(codes)
            for histograms, own_codes, counts in self._codes_by_block(codes):
                histograms.add(slice(None), own_codes, counts)

    def _add_apart(self, number: int, grains: Ints, rows: Index, values: Floats | None) -> None:
        """Add events that are late, or early, to the panes of a window that have them; keep what is still to enter."""
        head, window = self.head(number), self.windows[number]
        panes = grains * self.grain // window.pane
        early = panes > head
        if early.any():
            kept = None if values is None else values[early]
            self._future[number].append((grains[early], rows[early], kept))
        there = np.flatnonzero((panes > head - window.panes) & ~early)
        if len(there):
            self._add_to_panes(number, panes[there], rows[there], None if values is None else values[there])

    def _add_to_panes(self, number: int, panes: Ints, rows: Index, values: Floats | None) -> None:
        first, width = int(panes.min()), self.rows.size
        codes, moments = _joined(self._group((panes - first) * width + rows, values, width))
        own, pane = (codes % width).astype(np.int64), (codes // width + first).astype(np.int64)
        np.add.at(self._held[number], own, moments.count)
        self._mark(number, own)
        for at, part in _by_pane(pane):
            self._tallies[number].add(at, own[part].astype(np.int32), moments.count[part])
        if values is None:
            return
        columns = self.rows.column[own].astype(np.int64)
        order = np.lexsort((columns, pane))
        self._add_parts(number, pane[order], columns[order], moments.take(order))
        if self.percents:
            self._add_buckets(number, panes, rows, values)

    def _add_parts(self, number: int, panes: Ints, columns: Ints, moments: Moments) -> None:
        blocks = columns // BLOCK
        for block in np.unique(blocks).tolist():
            here = np.flatnonzero(blocks == block)
            self._blocks[block][number].add_late(panes[here], columns[here] - block * BLOCK, moments.take(here))

    def _add_buckets(self, number: int, panes: Ints, rows: Index, values: Floats) -> None:
        first = panes.min()
        codes, counts = self._codes_of(rows, values, (panes - first) << _PANE_SHIFT)
        for pane, part in _by_pane(codes >> _PANE_SHIFT):
            for histograms, own, taken in self._codes_by_block((codes[part] & _CODE, counts[part])):
                histograms.remember(number, pane + int(first), own, taken)
        codes &= _CODE
        order = np.argsort(codes)
        starts = runs_of(codes[order])
        summed = np.add.reduceat(counts[order], starts, dtype=np.int32)
        for histograms, own, taken in self._codes_by_block((codes[order][starts], summed)):
            histograms.add(number, own, taken)

    def _mark(self, window: int | slice, rows: Index) -> None:
        self._changed[window, rows] = True
        self._stale[window, rows] = True

    def _group(self, rows: Index, values: Floats | None, width: int | None = None) -> list[tuple[Index, Moments]]:
        """Return partials by row, in order, each row once, and then those of the totals.

        With ``width`` the rows are codes of pane and row, and so are those returned.
        """
        order = np.argsort(rows)
        ordered = rows[order]
        starts = runs_of(ordered)
        own = ordered[starts]
        if values is None:
            moments = Moments(lengths_of(starts, len(rows)).astype(np.int32), empty(0))
        else:
            moments = reduce(values[order], starts)
        totals = self.rows.total[own] if width is None else own - own % width + self.rows.total[own % width]
        keyed = np.flatnonzero(totals != own)
        if not len(keyed):
            return [(own, moments)]
        if values is None:
            order = np.argsort(totals[keyed])
            starts = runs_of(totals[keyed][order])
            counts = np.add.reduceat(moments.count[keyed][order], starts, dtype=np.int32)
            return [(own, moments), (totals[keyed][order][starts], Moments(counts, empty(0)))]
        all_rows, together = merge_equal(totals[keyed], moments.take(keyed))
        return [(own, moments), (all_rows, together)]

    # -- values as they are, and in buckets

    def _remember(self, rows: Index, values: Floats, grains: Ints) -> None:
        """Keep the newest values of rows and of their totals."""
        for owners in (rows, self.rows.total[rows]):
            mine = slice(None) if owners is rows else owners != rows
            columns, ages, own = self.rows.column[owners[mine]].astype(np.int64), grains[mine], values[mine]
            early = ages > self._head
            if early.any():
                self._newest.add_early(columns[early], ages[early], own[early])
                columns, ages, own = columns[~early], ages[~early], own[~early]
            if not len(columns):
                continue
            order = np.argsort(columns) if ages[0] == ages[-1] == self._head else np.lexsort((ages, columns))
            columns = columns[order]
            starts = runs_of(columns)
            self._newest.add(columns[starts], starts, ages[order], own[order])

    def _codes_of(self, rows: Index, values: Floats, panes: Ints | None = None) -> Numbers:
        """Return column and bucket of values, and of the same values in the totals, in order, and their counts.

        ``panes`` are put in front of the codes.
        """
        buckets, totals = buckets_of(values), self.rows.total[rows]
        keyed = totals != rows
        own = (self.rows.column[rows].astype(np.int64) << BITS) | buckets
        all_keys = (self.rows.column[totals[keyed]].astype(np.int64) << BITS) | buckets[keyed]
        if panes is not None:
            own, all_keys = own | panes, all_keys | panes[keyed]
        codes = np.sort(np.concatenate([own, all_keys]))
        starts = runs_of(codes)
        return codes[starts], lengths_of(starts, len(codes)).astype(np.int32)

    def _codes_by_block(self, numbers: Numbers) -> list[tuple[Histograms, Counts, Counts]]:
        codes, counts = numbers
        width = BLOCK << BITS
        blocks = np.arange(codes[0] // width, codes[-1] // width + 1)
        edges = np.searchsorted(codes, np.append(blocks, blocks[-1] + 1) * width).tolist()
        return [
            (self._histograms[number], (codes[first:last] - number * width).astype(np.int32), counts[first:last])
            for number, first, last in zip(blocks.tolist(), edges, edges[1:], strict=False)
            if last > first
        ]

    # -- columns and blocks

    def _columns_of(self, rows: Index) -> tuple[Ints, Ints]:
        """Return the columns of the rows that bear values, in order, and which of the rows those are."""
        columns = self.rows.column[rows]
        order = np.argsort(columns)
        order = order[np.searchsorted(columns[order], 0) :]
        return columns[order].astype(np.int64), order

    def _by_block(self, columns: Ints, moments: Moments) -> list[tuple[list[Fold], Part]]:
        """Divide partials, in order of their columns, among the blocks."""
        if not len(columns):
            return []
        numbers = np.arange(columns[0] // BLOCK, columns[-1] // BLOCK + 1)
        edges = np.searchsorted(columns, np.append(numbers, numbers[-1] + 1) * BLOCK).tolist()
        parts = []
        for number, first, last in zip(numbers.tolist(), edges, edges[1:], strict=False):
            if last > first:
                local = (columns[first:last] - number * BLOCK).astype(np.uint16)
                part = Part(local, Moments(moments.count[first:last].copy(), moments.parts[:, first:last].copy()))
                parts.append((self._blocks[number], part))
        return parts

    def _new_block(self, number: int) -> list[Fold]:
        block = [Fold(window.panes, self.head(w), number * 7) for w, window in enumerate(self.windows)]
        for fold in block:
            fold.reserve(min(BLOCK, max(0, len(self._parts[0]) - number * BLOCK)))
        return block

    def _reserve(self) -> None:
        size = len(self._count)
        if self.rows.size > size:
            more = max(self.rows.size, 2 * size if size < BLOCK else size + size // 4) - size
            self._count = np.pad(self._count, (0, more))
            self._held = np.pad(self._held, ((0, 0), (0, more)))
            self._changed = np.pad(self._changed, ((0, 0), (0, more)))
            self._stale = np.pad(self._stale, ((0, 0), (0, more)))
        size = self._parts.shape[1]
        if self.rows.columns > size or not self._blocks:
            more = max(self.rows.columns, 2 * size if size < BLOCK else size + BLOCK) - size
            self._parts = np.concatenate([self._parts, empty(more)], axis=1)
            self._figures = np.pad(self._figures, ((0, 0), (0, 0), (0, more)))
            for number, block in enumerate(self._blocks[-1:], max(0, len(self._blocks) - 1)):
                for fold in block:
                    fold.reserve(min(BLOCK, self._parts.shape[1] - number * BLOCK))
            while len(self._blocks) * BLOCK < self._parts.shape[1]:
                self._blocks.append(self._new_block(len(self._blocks)))
                if self.percents:
                    self._histograms.append(Histograms(len(self.windows)))
            if self.percents:
                self._newest.reserve(self._parts.shape[1])

    # -- reading

    def touch(self, rows: Index) -> None:
        """Mark rows as changed in every window."""
        self._reserve()
        self._mark(slice(None), rows)

    def changed(self, window: int) -> NDArray[np.bool_]:
        """Return for each row [R] whether it may have changed since its changes were taken."""
        self.settle()
        self._reserve()
        return self._changed[window, : self.rows.size]

    def take_changes(self, window: int, rows: Ints) -> None:
        """Take the marks off rows."""
        self.settle()
        self._changed[window, rows] = False

    def held(self, window: int, rows: Index | slice = slice(None)) -> Counts:
        """Return how many events rows hold in a window."""
        self.settle()
        self._reserve()
        held: Counts = self._held[window, : self.rows.size][rows]
        return held

    def read(self, window: int, rows: Ints) -> Floats:
        """Return the MOMENTS and quantiles [5 + percents, n] of rows, not finite where undefined.

        The figures of a row stay, bit for bit, until events enter or leave it: how its panes happen to be merged at
        the moment shows in the last bit of std, and readers are told of a row only when it changed.
        """
        self.settle()
        self._reserve()
        self._refresh(window, rows[self._stale[window, rows]])
        self._stale[window, rows] = False
        column = self.rows.column[rows]
        figures: Floats = self._figures[window][:, column]
        figures[:, column == CLOSED] = np.nan
        return figures

    def _refresh(self, window: int, rows: Ints) -> None:
        columns, order = self._columns_of(rows)
        counts = self._count[rows[order]]
        start = 0
        while start < len(columns):
            number = int(columns[start]) // BLOCK
            end = int(np.searchsorted(columns, (number + 1) * BLOCK))
            here = columns[start:end]
            moments = self._blocks[number][window].read(here - number * BLOCK)
            if counts[start:end].any():
                moments = merge(moments, Moments(counts[start:end], self._parts[:, here]))
            self._figures[window, :MOMENTS, here] = describe(moments).T
            if self.percents:
                held = self._held[window, rows[order[start:end]]]
                self._figures[window, MOMENTS:, here] = self._quantiles(window, number, here, held, moments.parts).T
            start = end

    def _quantiles(self, window: int, block: int, columns: Ints, count: Counts, parts: Floats) -> Floats:
        """Return [percents, n] of columns of one block with so many values; exact for a few."""
        pane, panes = self.windows[window].pane, self.windows[window].panes
        last = (self.head(window) + 1) * pane // self.grain - 1
        first = last + 1 - panes * pane // self.grain
        exact = self._newest.quantiles(columns, first, last, count, self.percents)
        many = np.flatnonzero(np.isnan(exact[0]) & (count > 0))
        if len(many):
            local = columns[many] - block * BLOCK
            near = self._histograms[block].quantiles(window, local, count[many], self.percents)
            exact[:, many] = np.clip(near, parts[LOW, many], parts[HIGH, many])
        return exact

    def unused(self) -> Ints:
        """Return the open rows of keys that have no event in any window and none to come."""
        self.settle()
        self._reserve()
        size = self.rows.size
        keyed = self.rows.key[:size] > ALL_KEYS
        keyed &= ~self._held[:, :size].any(axis=0)
        for _, rows, _ in [chunk for chunks in self._future for chunk in chunks]:
            keyed[rows] = False
        return np.flatnonzero(keyed)

    def close(self, rows: Ints) -> None:
        """Free unused rows."""
        self._changed[:, rows] = False
        if self.percents:
            self._newest.forget(self.rows.column[rows][self.rows.column[rows] != CLOSED])
        self.rows.close(rows)

    def discard(self, topic: TopicRows) -> Ints:
        """Forget a topic, whatever is in its rows; return these."""
        self.settle()
        self._reserve()
        rows = self.rows.of_topic(topic)
        columns = self.rows.column[rows][self.rows.column[rows] != CLOSED].astype(np.int64)
        self._held[:, rows] = 0
        self._changed[:, rows] = False
        self._count[rows] = 0
        self._parts[:, columns] = EMPTY[:, None]
        for tally in self._tallies:
            tally.keep(lambda held: ~np.isin(held, rows))
        for number in np.unique(columns // BLOCK).tolist():
            local = columns[columns // BLOCK == number] - number * BLOCK
            for fold in self._blocks[number]:
                fold.discard(local)
            if self.percents:
                self._histograms[number].discard(local)
        self._codes = [codes for codes in (_without(codes, columns) for codes in self._codes) if len(codes[0])]
        for number, chunks in enumerate(self._future):
            self._future[number] = [chunk for chunk in (_kept(chunk, rows) for chunk in chunks) if len(chunk[0])]
        self._newest.forget(columns)
        self.rows.drop_topic(topic)
        return rows


def _joined(groups: list[tuple[Index, Moments]]) -> tuple[Index, Moments]:
    """Return the groups as one, ordered and each row once."""
    if len(groups) == 1:
        return groups[0]
    rows = np.concatenate([rows for rows, _ in groups])
    count = np.concatenate([moments.count for _, moments in groups])
    if groups[0][1].parts.size:
        return merge_equal(rows, Moments(count, np.concatenate([moments.parts for _, moments in groups], axis=1)))
    order = np.argsort(rows)
    starts = runs_of(rows[order])
    return rows[order][starts], Moments(np.add.reduceat(count[order], starts, dtype=np.int32), empty(0))


def _by_pane(panes: Ints) -> list[tuple[int, slice]]:
    """Return the runs of equal panes."""
    starts = runs_of(panes)
    edges = zip(starts.tolist(), np.append(starts[1:], len(panes)).tolist(), strict=True)
    return [(int(panes[start]), slice(start, end)) for start, end in edges]


def _without(numbers: Numbers, columns: Ints) -> Numbers:
    kept = ~np.isin(numbers[0] >> BITS, columns)
    return numbers[0][kept], numbers[1][kept]


def _kept(chunk: Chunk, rows: Ints) -> Chunk:
    kept = ~np.isin(chunk[1], rows)
    return chunk[0][kept], chunk[1][kept], None if chunk[2] is None else chunk[2][kept]
