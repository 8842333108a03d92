"""The engine: several windows over shared rows, what is in them and which rows changed."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd
from typing import Any

import numpy as np

from pushsvc.stats.arrays import Counts, Flags, Floats, Index, Ints
from pushsvc.stats.moments import MOMENTS
from pushsvc.stats.pane_counts import PaneCounts
from pushsvc.stats.panes.batches import Chunk, by_pane, group, joined, merged, size_of, without
from pushsvc.stats.panes.column_statistics import ColumnStatistics
from pushsvc.stats.panes.partials import RowPartial
from pushsvc.stats.panes.two_stack import BLOCK
from pushsvc.stats.pause import Pause, no_pause
from pushsvc.stats.rows import ALL_KEYS, CLOSED, HIDDEN, Rows, TopicRows
from pushsvc.stats.values.dictionary import ValueDictionary
from pushsvc.stats.values.pane_values import PaneValues
from pushsvc.stats.values.value_statistics import ValueStatistics
from pushsvc.stats.window import TimeRange, Window

_ENOUGH = 16_384
_FIRST_CAPACITY = 16


class PaneWindows:
    """Windows [W] over rows [R]. ``time`` is where the head begins, ``percents`` are those of the quantiles wanted,
    ``wanted`` what is of values of any kind.

    Time goes in grains, the greatest that divide the panes of all windows. What falls into the grain at the head is
    written once; when the head moves on, its partials are handed to every window. Events are put aside first and
    added in one go when the head moves, somebody reads, or there are ``_ENOUGH``: an array operation costs the same for
    one value as for a hundred.
    """

    STATE = (
        "windows", "percents", "rows", "grain", "_head", "_tallies", "_figures", "_values", "_changed", "_stale",
        "_held", "_count", "_aside", "_waiting", "_future",
    )  # fmt: skip
    DERIVED = ("pause",)

    def __init__(
        self,
        windows: Sequence[Window],
        time: int,
        percents: Sequence[int] = (),
        pause: Pause = no_pause,
        wanted: ValueStatistics | None = None,
    ) -> None:
        self.windows = tuple(windows)
        self.percents = tuple(percents)
        self.pause = pause
        self.rows = Rows()
        self.grain = gcd(*(window.pane for window in windows))
        self._head = time // self.grain
        self._tallies = [PaneCounts() for _ in windows]
        self._figures = ColumnStatistics(windows, percents)
        self._values = None if wanted is None else PaneValues(windows, self.grain, wanted)
        self._changed: Flags = np.zeros((len(windows), _FIRST_CAPACITY), np.bool_)
        self._stale: Flags = np.zeros((len(windows), _FIRST_CAPACITY), np.bool_)
        self._held: Ints = np.zeros((len(windows), _FIRST_CAPACITY), np.int64)
        self._count: Counts = np.zeros(_FIRST_CAPACITY, np.int32)
        self._aside: list[Chunk] = []
        self._waiting = 0
        self._future: list[list[Chunk]] = [[] for _ in windows]

    @property
    def bytes(self) -> int:
        """Size of the arrays, nearly; all that is shared counts here."""
        fixed = [self._changed, self._stale, self._held, self._count]
        held = sum(tally.bytes for tally in self._tallies) + self._figures.bytes + self.rows.bytes
        held += 0 if self._values is None else self._values.bytes + self._values.wanted.vocabulary.bytes
        waiting = sum(map(size_of, [self._aside, *self._future]))
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

    def extents(self, window: int, topics: Sequence[TopicRows]) -> list[TimeRange]:
        """Return what a window covers, the same of every topic."""
        return [TimeRange(*self.interval(window))] * len(topics)

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
        self._figures.begin(self._heads())

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
        self._figures.close(before, head)
        if self._values is not None:
            self._values.close(before)
        self._head = head
        for number, old in enumerate(before):
            if self.head(number) > old:
                self._advance(number, old)
                self.pause()
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
        columns, order = self.rows.columns_of(rows)
        self._figures.hand_over(columns, counts[order])

    def _advance(self, number: int, old: int) -> None:
        head, tally = self.head(number), self._tallies[number]
        oldest = head - self.windows[number].panes + 1
        tally.close(old)
        expired = tally.expire(oldest)
        for rows, counts in expired:
            self._held[number, rows] -= counts
            self._mark(number, rows)
        self._figures.advance(number, old, head, oldest)
        if self._values is not None:
            left = np.concatenate([np.zeros(0, np.int32), *(rows for rows, _ in expired)])
            self._values.advance(number, old, head, left, self._held[number])
        waiting, self._future[number] = self._future[number], []
        for chunk in merged(waiting):
            self._add_apart(number, *chunk)

    # -- events

    def mark(self, _topic: TopicRows, _offset: int, times: Ints, _fit: Flags | None) -> Ints:
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
    def vocabulary(self) -> ValueDictionary | None:
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
        for chunk in merged(aside):
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
        if self.percents and values is not None:
            self._figures.keep_apart(self.rows.places(rows[apart]), values[apart], grains[apart], self._head)
        for number in range(len(self.windows)):
            self._add_apart(number, grains[apart], rows[apart], None if values is None else values[apart])

    def _add(self, rows: Index, values: Floats | None) -> None:
        for own, moments in group(rows, values, self.rows.total):
            self._held[:, own] += moments.count
            self._mark(slice(None), own)
            count = self._count[own]
            self._count[own] = count + moments.count
            if values is not None:
                self._figures.add(self.rows.column[own], count, moments)
        if self.percents and values is not None:
            self._figures.add_values(self.rows.places(rows), values, self._head)

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
        codes, moments = joined(group((panes - first) * width + rows, values, self.rows.total, width))
        own, pane = (codes % width).astype(np.int64), (codes // width + first).astype(np.int64)
        np.add.at(self._held[number], own, moments.count)
        self._mark(number, own)
        for at, part in by_pane(pane):
            self._tallies[number].add(at, own[part].astype(np.int32), moments.count[part])
        if values is None:
            return
        self._figures.add_late(number, pane, self.rows.column[own].astype(np.int64), moments)
        if self.percents:
            self._figures.add_values_late(number, panes, self.rows.places(rows), values)

    def _mark(self, window: int | slice, rows: Index) -> None:
        self._changed[window, rows] = True
        self._stale[window, rows] = True

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
        self._figures.reserve(self.rows.columns, self._heads())

    # -- reading

    def touch(self, rows: Index) -> None:
        """Mark rows as changed in every window."""
        self._reserve()
        self._mark(slice(None), rows)

    def changed(self, window: int) -> Flags:
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
        """Return the columns of ValueStatistics for rows."""
        self.settle()
        values = self._values
        if values is None:
            return []
        return values.wanted.columns(self.rows.kind[rows], lambda at: values.read(window, rows[at]))

    def tidy(self) -> None:
        """Forget values that nobody holds where places are short or they have become many."""
        if self.vocabulary is not None and self.vocabulary.due(self._head):
            self.vocabulary.sweep(self.hold(self.vocabulary.nobody()), self._head)

    def hold(self, held: Flags) -> Flags:
        """Mark the numbers of values that are in any window, or to come, as held; return the marks."""
        self.settle()
        if self._values is not None:
            self._values.hold(held)
        return held

    def _figures_of(self, window: int, rows: Ints) -> Floats:
        self._refresh(window, rows[self._stale[window, rows]])
        self._stale[window, rows] = False
        return self._figures.read(window, self.rows.column[rows])

    def _refresh(self, window: int, rows: Ints) -> None:
        columns, order = self.rows.columns_of(rows)
        if len(columns):
            self._figures.refresh(window, columns, self._count[rows[order]], *self._grains(window))

    def _grains(self, window: int) -> tuple[int, int]:
        """Return the first and the last grain of a window."""
        first, end = self.interval(window)
        return first // self.grain, end // self.grain - 1

    def partials(self, window: int, rows: Ints) -> list[RowPartial]:
        """Return what is known of rows, to be merged with what others know of the same."""
        held, (columns, order) = self.held(window, rows), self.rows.columns_of(rows)
        numbers = self._figures.partials(window, columns, self._count[rows[order]], *self._grains(window))
        found = dict(zip(order.tolist(), numbers, strict=True))
        return [found.get(place) or RowPartial(count) for place, count in enumerate(held.tolist())]

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
        self._figures.forget(self.rows.column[rows][self.rows.column[rows] != CLOSED])
        self.rows.close(rows)

    def discard(self, topic: TopicRows) -> Ints:
        """Forget a topic, whatever is in its rows; return these."""
        self.settle()
        self._reserve()
        rows = self.rows.of_topic(topic)
        columns, _ = self.rows.columns_of(rows)
        self._held[:, rows] = 0
        self._changed[:, rows] = False
        self._count[rows] = 0
        for tally in self._tallies:
            tally.keep(lambda held: ~np.isin(held, rows))
        self._figures.discard(columns)
        if self._values is not None:
            self._values.discard(rows)
            self._values.wanted.vocabulary.forget(rows)
        self._future = [without(chunks, rows) for chunks in self._future]
        self.rows.drop_topic(topic)
        return rows
