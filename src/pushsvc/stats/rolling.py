"""The engine: several windows over shared rows, what is in them and which rows changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pushsvc.stats.blocks import Blocks
from pushsvc.stats.buckets import Buckets
from pushsvc.stats.fold import BLOCK
from pushsvc.stats.moments import (
    EMPTY,
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
from pushsvc.stats.rows import ALL_KEYS, CLOSED, HIDDEN, Rows, TopicRows
from pushsvc.stats.tally import Tally
from pushsvc.stats.values import Values
from pushsvc.stats.vocabulary import Vocabulary
from pushsvc.stats.wanted import Wanted
from pushsvc.stats.window import Extent, Window

ROOM = 10_000
"""Milliseconds ahead of the head for which events are kept: the 5 s that producers may be ahead, and as much again for
clocks that differ between machines."""

MOMENTS = 5
"""Sum, mean, min, max and std."""

Chunk = tuple[Ints, Index, Floats | None]
"""Grains, rows, and values unless the rows only count."""

_ENOUGH = 16_384
_SLICE = BLOCK
_FIRST_CAPACITY = 16


def no_pause() -> None:
    """Go on at once."""


class Rolling:
    """Windows [W] over rows [R]. ``time`` is where the head begins, ``percents`` are those of the quantiles wanted,
    ``wanted`` what is of values of any kind.

    Time goes in grains, the greatest that divide the panes of all windows. What falls into the grain at the head is
    written once; when the head moves on, its partials are handed to every window. Events are put aside first and
    added in one go when the head moves, somebody reads, or there are ``_ENOUGH``: an array operation costs the same for
    one value as for a hundred.
    """

    def __init__(
        self,
        windows: Sequence[Window],
        time: int,
        percents: Sequence[int] = (),
        pause: Callable[[], None] = no_pause,
        wanted: Wanted | None = None,
    ) -> None:
        self.windows = tuple(windows)
        self.percents = tuple(percents)
        self.pause = pause
        self.rows = Rows()
        self.grain = gcd(*(window.pane for window in windows))
        self._head = time // self.grain
        self._tallies = [Tally() for _ in windows]
        self._blocks = Blocks(windows)
        self._buckets = Buckets(len(windows), percents)
        self._values = None if wanted is None else Values(windows, self.grain, wanted)
        self._changed: NDArray[np.bool_] = np.zeros((len(windows), _FIRST_CAPACITY), np.bool_)
        self._stale: NDArray[np.bool_] = np.zeros((len(windows), _FIRST_CAPACITY), np.bool_)
        self._figures: Floats = np.zeros((len(windows), MOMENTS + len(percents), _FIRST_CAPACITY))
        self._held: Ints = np.zeros((len(windows), _FIRST_CAPACITY), np.int64)
        self._count: Counts = np.zeros(_FIRST_CAPACITY, np.int32)
        self._parts: Floats = empty(_FIRST_CAPACITY)
        self._aside: list[Chunk] = []
        self._waiting = 0
        self._reserved = False
        self._future: list[list[Chunk]] = [[] for _ in windows]

    @property
    def bytes(self) -> int:
        """Size of the arrays, nearly; all that is shared counts here."""
        fixed = [self._changed, self._stale, self._figures, self._held, self._count, self._parts]
        held = sum(tally.bytes for tally in self._tallies) + self._blocks.bytes + self._buckets.bytes + self.rows.bytes
        held += 0 if self._values is None else self._values.bytes + self._values.wanted.vocabulary.bytes
        waiting = sum(map(_chunk_bytes, [*self._aside, *(chunk for chunks in self._future for chunk in chunks)]))
        return held + waiting + sum(array.nbytes for array in fixed)

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

    @property
    def step(self) -> int:
        return self.head(0)

    def extent(self, window: int, _topic: TopicRows) -> Extent:
        """Return what a window covers, of every topic."""
        return Extent(*self.interval(window))

    def measure(self, most_bytes: int) -> None:
        """Look at the memory taken: beyond so many bytes no key gets rows and no new value is followed."""
        self.rows.full = self.bytes > most_bytes
        if self.vocabulary is not None:
            self.vocabulary.full = self.rows.full

    def _heads(self) -> list[int]:
        return [self.head(number) for number in range(len(self.windows))]

    def begin(self, time: int) -> None:
        """Set the head to ``time``, back too, while there is nothing in the windows."""
        self._head = time // self.grain
        self._blocks.begin(self._heads())

    def move(self, time: int) -> bool:
        """Let the head follow to the grain of ``time``; never back. Rows that lose or gain events are changed.

        Tells whether it moved.
        """
        head = time // self.grain
        if head <= self._head:
            return False
        self.settle()
        before = self._heads()
        self._close_grain(before)
        self._buckets.close(before, head)
        if self._values is not None:
            self._values.close(before)
        self._head = head
        for number, old in enumerate(before):
            if self.head(number) > old:
                self._advance(number, old)
        return True

    def next_changes(self, _ready: object = None) -> list[int | None]:
        """Return for each window the next ms at which events leave or enter it, whoever may be told."""
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
        self._blocks.add(columns, moments)

    def _advance(self, number: int, old: int) -> None:
        head, tally = self.head(number), self._tallies[number]
        oldest = head - self.windows[number].panes + 1
        tally.close(old)
        expired = tally.expire(oldest)
        for rows, counts in expired:
            self._held[number, rows] -= counts
            self._mark(number, rows)
        self._blocks.advance(number, head)
        self._buckets.advance(number, old, oldest)
        if self._values is not None:
            left = np.concatenate([np.zeros(0, np.int32), *(rows for rows, _ in expired)])
            self._values.advance(number, old, head, left, self._held[number])
        waiting, self._future[number] = self._future[number], []
        for chunk in _merged(waiting):
            self._add_apart(number, *chunk)

    # -- events

    def mark(self, _topic: TopicRows, _offset: int, times: Ints, _fit: NDArray[np.bool_] | None) -> Ints:
        """Return the grains of events: all that ``put`` needs to know of them."""
        return times // self.grain

    def put(self, grains: Ints, rows: Index, values: Floats | None) -> None:
        """Count values in their rows and in the totals of those; None for rows that only count.

        ``grains`` are times // grain; what is too old for every window is left out.
        """
        self._aside.append((grains, rows, values))
        self._waiting += len(rows)
        if self._waiting >= _ENOUGH:
            self.settle()

    @property
    def vocabulary(self) -> Vocabulary | None:
        return None if self._values is None else self._values.wanted.vocabulary

    def put_values(self, grains: Ints, times: Ints, rows: Index, numbers: Ints) -> None:
        """Count values of any kind, by their numbers, in rows of VALUES."""
        if self._values is not None:
            self._values.put(times, rows, numbers)
            self.put(grains, rows, None)

    def settle(self) -> None:
        """Add what was put aside."""
        if not self._aside:
            return
        aside, self._aside, self._waiting = self._aside, [], 0
        self._reserve()
        for chunk in _merged(aside):
            self._sort_in(*chunk)
        if self._values is not None:
            self._values.settle(self._head, self._heads(), self.rows.total)

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
            self._buckets.keep(*self._places(rows[apart]), values[apart], grains[apart], self._head)
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
            places = self._places(rows)
            self._buckets.keep(*places, values, np.full(len(rows), self._head), self._head)
            self._buckets.add(*places, values)

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
        self._blocks.add_late(number, pane, self.rows.column[own].astype(np.int64), moments)
        if self.percents:
            self._buckets.add_late(number, panes, *self._places(rows), values)

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

    # -- columns

    def _places(self, rows: Index) -> tuple[Index, Index]:
        """Return the columns of rows and those of their totals, CLOSED where a row has none."""
        totals = self.rows.total[rows]
        return self.rows.column[rows], np.where(totals == rows, CLOSED, self.rows.column[totals])

    def _columns_of(self, rows: Index) -> tuple[Ints, Ints]:
        """Return the columns of the rows that bear values, in order, and which of the rows those are."""
        columns = self.rows.column[rows]
        order = np.argsort(columns)
        order = order[np.searchsorted(columns[order], 0) :]
        return columns[order].astype(np.int64), order

    def _reserve(self) -> None:
        size = len(self._count)
        if self.rows.size > size:
            more = max(self.rows.size, 2 * size if size < BLOCK else size + size // 4) - size
            self._count = np.pad(self._count, (0, more))
            self._held = np.pad(self._held, ((0, 0), (0, more)))
            self._changed = np.pad(self._changed, ((0, 0), (0, more)))
            self._stale = np.pad(self._stale, ((0, 0), (0, more)))
        if self._values is not None:
            self._values.reserve(len(self._count))
        size = self._parts.shape[1]
        if self.rows.columns > size or not self._reserved:
            self._reserved = True
            more = max(self.rows.columns, 2 * size if size < BLOCK else size + BLOCK) - size
            self._parts = np.concatenate([self._parts, empty(more)], axis=1)
            self._figures = np.pad(self._figures, ((0, 0), (0, 0), (0, more)))
            self._blocks.reserve(self._parts.shape[1], self._heads())
            if self.percents:
                self._buckets.reserve(self._parts.shape[1])

    # -- reading

    def touch(self, rows: Index) -> None:
        """Mark rows as changed in every window."""
        self._reserve()
        self._mark(slice(None), rows)

    def changed(self, window: int) -> NDArray[np.bool_]:
        """Return for each row [R] that readers see whether it may have changed since its changes were taken."""
        self.settle()
        self._reserve()
        changed = self._changed[window, : self.rows.size]
        return changed if self._values is None else changed & (self.rows.kind[: self.rows.size] != HIDDEN)

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
        if self._values is None:
            return self._figures_of(window, rows)
        bearers = self.rows.bearers(rows, self._held[window])
        there = bearers != CLOSED
        found = np.full((MOMENTS + len(self.percents), len(rows)), np.nan)
        found[:, there] = self._figures_of(window, bearers[there])
        return found

    def read_values(self, window: int, rows: Ints) -> list[list[Any]]:
        """Return the columns of Wanted for rows."""
        self.settle()
        values = self._values
        if values is None:
            return []
        return values.wanted.columns(self.rows.kind[rows], lambda at: values.read(window, rows[at]), self.pause)

    def tidy(self) -> None:
        """Forget values that nobody holds where places are short or they have become many."""
        if self.vocabulary is not None and self.vocabulary.due(self._head):
            self.vocabulary.sweep(self.hold(self.vocabulary.nobody()), self._head)

    def hold(self, held: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Mark the numbers of values that are in any window, or to come, as held; return the marks."""
        self.settle()
        if self._values is not None:
            self._values.hold(held)
        return held

    def _figures_of(self, window: int, rows: Ints) -> Floats:
        stale = rows[self._stale[window, rows]]
        for start in range(0, len(stale), _SLICE):
            self._refresh(window, stale[start : start + _SLICE])
            self.pause()
        self._stale[window, rows] = False
        column = self.rows.column[rows]
        figures = np.empty((self._figures.shape[1], len(rows)))
        for start in range(0, len(rows), 4 * _SLICE):
            part = slice(start, start + 4 * _SLICE)
            figures[:, part] = self._figures[window][:, column[part]]
            self.pause()
        figures[:, column == CLOSED] = np.nan
        return figures

    def _refresh(self, window: int, rows: Ints) -> None:
        columns, order = self._columns_of(rows)
        moments = self._blocks.read(window, columns)
        counts = self._count[rows[order]]
        if counts.any():
            moments = merge(moments, Moments(counts, self._parts[:, columns]))
        self._figures[window, :MOMENTS, columns] = describe(moments).T
        if self.percents:
            pane, panes = self.windows[window].pane, self.windows[window].panes
            last = (self.head(window) + 1) * pane // self.grain - 1
            first = last + 1 - panes * pane // self.grain
            self._figures[window, MOMENTS:, columns] = self._buckets.read(window, columns, moments, first, last).T

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
            self._buckets.forget(self.rows.column[rows][self.rows.column[rows] != CLOSED])
        self.rows.close(rows)

    def discard(self, topic: TopicRows) -> Ints:
        """Forget a topic, whatever is in its rows; return these."""
        self.settle()
        self._reserve()
        rows = self.rows.of_topic(topic)
        columns, _ = self._columns_of(rows)
        self._held[:, rows] = 0
        self._changed[:, rows] = False
        self._count[rows] = 0
        self._parts[:, columns] = EMPTY[:, None]
        for tally in self._tallies:
            tally.keep(lambda held: ~np.isin(held, rows))
        self._blocks.discard(columns)
        self._buckets.discard(columns)
        if self._values is not None:
            self._values.discard(rows)
            self._values.wanted.vocabulary.forget(rows)
        for number, chunks in enumerate(self._future):
            self._future[number] = [chunk for chunk in (_kept(chunk, rows) for chunk in chunks) if len(chunk[0])]
        self.rows.drop_topic(topic)
        return rows


def _merged(chunks: Sequence[Chunk]) -> Iterator[Chunk]:
    """Yield what only counts as one chunk, and what bears values as another."""
    for valued in (False, True):
        chosen = [chunk for chunk in chunks if (chunk[2] is not None) == valued]
        if chosen:
            grains = np.concatenate([grains for grains, _, _ in chosen])
            rows = np.concatenate([rows for _, rows, _ in chosen])
            values = [values for _, _, values in chosen if values is not None]
            yield grains, rows, np.concatenate(values) if valued else None


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


def _kept(chunk: Chunk, rows: Ints) -> Chunk:
    kept = ~np.isin(chunk[1], rows)
    return chunk[0][kept], chunk[1][kept], None if chunk[2] is None else chunk[2][kept]


def _chunk_bytes(chunk: Chunk) -> int:
    return sum(array.nbytes for array in chunk if array is not None)
