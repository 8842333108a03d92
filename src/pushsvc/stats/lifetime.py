"""The window of everything: counts and statistics of each row since its topic began. Nothing ever leaves it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pushsvc.pause import no_pause
from pushsvc.stats.arrays import Counts, Flags, Floats, Index, Ints, runs_of
from pushsvc.stats.moments import (
    EMPTY,
    FINE,
    HIGH,
    LOW,
    MOMENTS,
    SPREAD,
    Moments,
    describe,
    merge,
    merge_equal,
    without,
)
from pushsvc.stats.panes.batches import RowBatch, group, merged
from pushsvc.stats.panes.partials import RowPartial, parts_of
from pushsvc.stats.panes.quantiles import BITS, Histograms, NewestValues, buckets_of
from pushsvc.stats.panes.two_stack import BLOCK, by_block
from pushsvc.stats.parts import bytes_of
from pushsvc.stats.rows import ALL_KEYS, CLOSED, Rows, TopicRows
from pushsvc.stats.values.value_statistics import ValueStatistics, ValueSummary
from pushsvc.stats.window import TimeRange, Window

MOST_BUCKETS = 2_048  # of a row: 16 powers of two at full resolution
_MOST_PENDING = 16_384
_FIRST_CAPACITY = 16
_END_OF_TIME = 1 << 62
_STEP = 64  # entries
_POSITIVE = 1 << (BITS - 1)  # set in the buckets of numbers that are not negative


class LifetimeWindow:
    """One window over rows [R], with the methods of ``PaneWindows``. It has no clock: events count whatever their time.

    While ``subtracting``, events are taken out of their rows. Counts, sums and buckets are then exact. The standard
    deviation may lose digits, and an extreme value may stay the minimum or the maximum. ``uneven``: a row would have
    got fewer events than none, because events were counted in another row.

    With ``shares`` the rows of all keys together and of ``__other__`` are to be merged with those of other engines,
    which may have counted an event that is taken out here. So they may have fewer events than none.
    """

    def __init__(
        self, windows: Sequence[Window], time: int, rows: Rows, percents: Sequence[int],
        value_statistics: ValueStatistics | None,
    ) -> None:  # fmt: skip
        self.windows = tuple(windows)
        self.percents = tuple(percents)
        self.pause = no_pause
        self.subtracting = self.uneven = self.shares = False
        self._rows = rows
        self._sketches = Sketches()
        self._counts: Ints = np.zeros(_FIRST_CAPACITY, np.int64)
        self._changed: Flags = np.zeros(_FIRST_CAPACITY, np.bool_)
        self._parts: Floats = np.repeat(EMPTY[:, None], _FIRST_CAPACITY, axis=1)
        self._pending: list[RowBatch] = []
        self._pending_rows = 0
        self._entries = 0
        self._ranges: dict[int, tuple[int, int]] = {}  # by topic: its least and greatest event time (ms)

    @property
    def bytes(self) -> int:
        return bytes_of(self._counts, self._changed, self._parts, self._sketches, self._pending)

    # -- the clock

    @property
    def time(self) -> int:
        """All times are alike."""
        return _END_OF_TIME

    @property
    def step(self) -> int:
        return self._entries // _STEP

    def start(self, time: int) -> None:
        """There is no clock."""

    def advance(self, _time: int) -> bool:
        return False

    def next_changes(self, _ready: object = None) -> list[int | None]:
        return [None]

    def time_ranges(self, _window: int, topics: Sequence[TopicRows]) -> list[TimeRange]:
        """Return from the least to the greatest time of the events of topics [n]."""
        found = [self._ranges.get(topic.number) for topic in topics]
        return [TimeRange(None, None) if one is None else TimeRange(one[0], one[1] + 1) for one in found]

    # -- events in

    def begin_entry(self, topic: TopicRows, _offset: int, times: Ints, _in_range: Flags | None) -> Ints:
        """Return the ids of events, which mean nothing here."""
        self._entries += 1
        if not self.subtracting and len(times):
            self.widen(topic, int(times.min()), int(times.max()))
        return times

    def widen(self, topic: TopicRows, least: int, greatest: int) -> None:
        """Note that a topic has events of these times (ms)."""
        low, high = self._ranges.get(topic.number, (least, greatest))
        self._ranges[topic.number] = min(low, least), max(high, greatest)

    def put(self, times: Ints, rows: Index, values: Floats | None) -> None:
        """Add values to rows and their totals, or take them out; None for rows that only count."""
        if self.subtracting:
            self.settle()
            self._reserve()
            self._subtract(rows, values)
            return
        self._pending.append((times, rows, values))
        self._pending_rows += len(rows)
        if self._pending_rows >= _MOST_PENDING:
            self.settle()

    def put_values(self, times: Ints, _times: Ints, rows: Index, _numbers: Ints) -> None:
        """Values of any type are not kept, only counted."""
        self.put(times, rows, None)

    def settle(self) -> None:
        if not self._pending:
            return
        pending, self._pending, self._pending_rows = self._pending, [], 0
        self._reserve()
        for _, rows, values in merged(pending):
            for own, moments in group(rows, values, self._rows.total):
                self._merge(own, moments, valued=values is not None)
            if self.percents and values is not None:
                self._sketches.add(*self._rows.column_pairs(rows), values)

    def _merge(self, rows: Index, moments: Moments, *, valued: bool) -> None:
        if valued:
            columns = self._rows.column[rows]
            self._parts[:, columns] = merge(Moments(self._counts[rows], self._parts[:, columns]), moments).parts
        self._counts[rows] += moments.count
        self._changed[rows] = True

    def _subtract(self, rows: Index, values: Floats | None) -> None:
        totals = self._rows.total[rows]
        keyed = np.flatnonzero(totals != rows)
        for own, taken in ((rows, slice(None)), (totals[keyed], keyed)):
            for row, value in zip(own.tolist(), [None] * len(own) if values is None else values[taken], strict=True):
                self._take_out(row, value)
        if self.percents and values is not None:
            self._sketches.add(*self._rows.column_pairs(rows), values, -1)

    def _take_out(self, row: int, value: float | None) -> None:
        """Take one value out of a row, by the inverse of a merge."""
        shared = self.shares and self._rows.owner(row).is_shared(row)
        if not (self._counts[row] or shared):
            self.uneven = True
            return
        self._counts[row] -= 1
        self._changed[row] = True
        if value is None:
            return
        column, left = self._rows.column[row], int(self._counts[row])
        if not (left or shared):
            self._parts[:, column] = EMPTY
            return
        rest = without(Moments(np.array([left + 1]), self._parts[:, [column]]), np.array([value])).parts[:, 0]
        if left <= 0:  # the sum of what other engines hold
            rest[[SPREAD, FINE]] = self._parts[[SPREAD, FINE], column]
        self._parts[:, column] = rest

    def _reserve(self) -> None:
        more = self._rows.size - len(self._counts)
        if more > 0:
            more = max(more, len(self._counts) // 2)
            self._counts = np.pad(self._counts, (0, more))
            self._changed = np.pad(self._changed, (0, more))
        more = self._rows.columns - self._parts.shape[1]
        if more > 0:
            added = np.repeat(EMPTY[:, None], max(more, self._parts.shape[1] // 2), axis=1)
            self._parts = np.concatenate([self._parts, added], axis=1)
        if self.percents:
            self._sketches.reserve(self._rows.columns)

    # -- rows out

    def touch(self, rows: Index) -> None:
        self._reserve()
        self._changed[rows] = True

    def changed(self, _window: int) -> Flags:
        self.settle()
        self._reserve()
        return self._changed[: self._rows.size]

    def set_changed(self, _window: int, rows: Ints, *, changed: bool) -> None:
        self.settle()
        self._reserve()
        self._changed[rows] = changed

    def counts(self, _window: int) -> Counts:
        """Return the number of events in each row [R]."""
        self.settle()
        self._reserve()
        return self._counts[: self._rows.size]

    def read(self, _window: int, rows: Ints) -> Floats:
        """Return the moments and quantiles [5 + percents, n] of rows, not finite where undefined."""
        columns, order, moments = self._moments(rows)
        found = np.full((MOMENTS + len(self.percents), len(rows)), np.nan)
        found[:MOMENTS, order] = describe(moments)
        if self.percents:
            found[MOMENTS:, order] = self._sketches.quantiles(columns, moments, self.percents)
        return found

    def _moments(self, rows: Ints) -> tuple[Ints, Ints, Moments]:
        """Return the columns of rows that bear numbers, ascending, the places of these rows, and their moments."""
        self.settle()
        self._reserve()
        columns, order = self._rows.columns_of(rows)
        return columns, order, Moments(self._counts[rows[order]], self._parts[:, columns])

    def summarize_values(self, _window: int, rows: Ints) -> ValueSummary:
        return ValueSummary(np.zeros(len(rows), np.bool_))

    def partials(self, _window: int, rows: Ints) -> list[RowPartial]:
        """Return the states of rows, to be merged with those of other engines or to be loaded again."""
        columns, order, moments = self._moments(rows)
        found = [RowPartial(count) for count in self._counts[rows].tolist()]
        newest = self._sketches.newest(columns, moments.count) if self.percents else [None] * len(columns)
        pairs = zip(order.tolist(), columns.tolist(), moments.parts.T.tolist(), newest, strict=True)
        for place, column, parts, values in pairs:
            buckets, counts = self._sketches.buckets_in(column) if self.percents else (_NOTHING, _NOTHING)
            level = self._sketches.level_of(column) if self.percents else 0
            found[place] = RowPartial(found[place].count, parts, buckets.tobytes(), counts.tobytes(), values, level)
        return found

    def load(self, rows: Ints, partials: Sequence[RowPartial]) -> None:
        """Merge states into rows [n], not into their totals. Several may be of the same row."""
        self._reserve()
        counts = np.array([one.count for one in partials], np.int64)
        columns = self._rows.column[rows].astype(np.int64)
        for valued in (False, True):
            chosen = np.flatnonzero((columns != CLOSED) == valued)
            if len(chosen):
                parts = parts_of([partials[place] for place in chosen.tolist()])
                own, moments = _merge_equal(rows[chosen], Moments(counts[chosen], parts))
                self._merge(own, moments, valued=valued)
        if self.percents:
            valued_rows = np.flatnonzero(columns != CLOSED).tolist()
            self._sketches.load([(int(columns[place]), partials[place]) for place in valued_rows])

    # -- rows that go

    def mark_values_in_use(self, used: Flags) -> None:
        """No values are kept."""

    def unused_rows(self) -> Ints:
        """Return the rows of keys of which all events were taken out."""
        self.settle()
        self._reserve()
        size = self._rows.size
        unused = np.flatnonzero((self._rows.key[:size] > ALL_KEYS) & (self._counts[:size] == 0))
        if self.shares:  # a shared row may still have a sum
            unused = np.array([row for row in unused.tolist() if not self._rows.owner(row).is_shared(row)], np.int64)
        return unused

    def forget(self, rows: Ints) -> None:
        self._reserve()
        self._changed[rows] = False
        columns, _ = self._rows.columns_of(rows)
        self._parts[:, columns] = EMPTY[:, None]
        if self.percents:
            self._sketches.drop(columns)

    def drop_topic(self, topic: TopicRows, rows: Ints) -> None:
        self.settle()
        self.forget(rows)
        self._counts[rows] = 0
        self._ranges.pop(topic.number, None)


class Sketches:
    """Quantiles of columns: from all values while these are few, else from at most MOST_BUCKETS buckets each.

    A column with more has its buckets joined in pairs, as in UDDSketch (I. Epicoco et al. 2020). So the relative error
    is below 1/128 at first, and doubles each time. The bucket that remains is the end nearer to zero.
    """

    def __init__(self) -> None:
        self._histograms: list[Histograms] = []
        self._newest = NewestValues()
        self._levels: Ints = np.zeros(0, np.int64)  # how often the buckets of a column were joined

    @property
    def bytes(self) -> int:
        return bytes_of([one.counted for one in self._histograms], self._newest, self._levels)

    def reserve(self, columns: int) -> None:
        self._newest.reserve(columns)
        while len(self._histograms) * BLOCK < columns:
            self._histograms.append(Histograms(1))
            self._levels = np.pad(self._levels, (0, BLOCK))

    def add(self, columns: Index, totals: Index, values: Floats, weight: int = 1) -> None:
        """Add values to their columns and those of their totals (negative for none); with a weight of -1 take them
        out."""
        keyed = np.flatnonzero(totals >= 0)
        codes = []
        for owners, mine in ((columns, slice(None)), (totals[keyed], keyed)):
            own = owners.astype(np.int64)
            codes.append((own << BITS) | _joined(buckets_of(values[mine]), self._levels[own]))
            if weight < 0:
                self._newest.forget(own)
            elif len(own):
                order = np.argsort(own, kind="stable")
                ordered = own[order]
                starts = runs_of(ordered)
                self._newest.add(ordered[starts], starts, np.zeros(len(own), np.int64), values[mine][order])
        every = np.concatenate(codes)
        self._count(*_sum_by_code(every, np.full(len(every), weight)))

    def load(self, states: Sequence[tuple[int, RowPartial]]) -> None:
        """Add the states of columns."""
        for column, state in states:
            if state.level > self._levels[column]:
                self._join(column // BLOCK, column % BLOCK, state.level)
        codes, counts = [_NOTHING], [_NOTHING]
        for column, state in states:
            buckets = np.frombuffer(state.buckets, np.int64)
            codes.append((column << BITS) | _joined(buckets, np.full(len(buckets), self._levels[column])))
            counts.append(np.frombuffer(state.counts, np.int64))
            if state.newest:
                one, values = np.array([column]), np.array(state.newest)
                self._newest.add(one, np.zeros(1, np.int64), np.zeros(len(values), np.int64), values)
        self._count(*_sum_by_code(np.concatenate(codes), np.concatenate(counts)))

    def _count(self, codes: Ints, counts: Ints) -> None:
        """Add counts of ascending, distinct codes (column, bucket); join the buckets of columns that have too many."""
        for number, here in by_block(codes >> BITS):
            counted = self._histograms[number].counted
            before = len(counted.codes)
            counted.add(0, (codes[here] - number * (BLOCK << BITS)).astype(np.int32), counts[here])
            if len(counted.codes) > before:
                sizes = np.bincount(counted.codes >> BITS, minlength=BLOCK)
                for column in np.flatnonzero(sizes > MOST_BUCKETS).tolist():
                    self._join(number, column)

    def _join(self, number: int, column: int, least: int = 0) -> None:
        """Join the buckets of a block's column until they are few enough, and at least to a level."""
        counted = self._histograms[number].counted
        first, last = np.searchsorted(counted.codes, [column << BITS, (column + 1) << BITS]).tolist()
        codes, counts = counted.codes[first:last].astype(np.int64), counted.counts[0, first:last]
        level = int(self._levels[number * BLOCK + column])
        while len(codes) > MOST_BUCKETS or level < least:
            level = max(level + 1, least)
            joined = _joined(codes & _BUCKET, np.full(len(codes), level))
            codes, counts = _sum_by_code((column << BITS) | joined, counts)
        self._levels[number * BLOCK + column] = level
        before, after = slice(None, first), slice(last, None)
        own = codes.astype(np.int32)
        counted.codes = np.concatenate([counted.codes[before], own, counted.codes[after]])
        counted.counts = np.concatenate([counted.counts[:, before], counts[None], counted.counts[:, after]], axis=1)

    def quantiles(self, columns: Ints, moments: Moments, percents: Sequence[int]) -> Floats:
        """Return quantiles [percents, n] of ascending columns; NaN where the sketch lacks values."""
        count = moments.count
        found = self._newest.quantiles(columns, 0, 0, count, percents)
        many = np.flatnonzero(np.isnan(found[0]) & (count > 0))
        for number, here in by_block(columns[many]):
            chosen = many[here]
            histograms, local = self._histograms[number], columns[chosen] - number * BLOCK
            chosen = chosen[histograms.totals(local) == count[chosen]]
            local = columns[chosen] - number * BLOCK
            approximate = histograms.quantiles(0, local, count[chosen], percents)
            found[:, chosen] = np.clip(approximate, moments.parts[LOW, chosen], moments.parts[HIGH, chosen])
        return found

    def newest(self, columns: Ints, counts: Counts) -> list[list[float] | None]:
        """Return all values of each column, ascending; None where they are too many."""
        return self._newest.values(columns, 0, 0, counts)

    def buckets_in(self, column: int) -> tuple[Ints, Ints]:
        """Return the buckets of a column that are not empty, ascending, and their counts."""
        return self._histograms[column // BLOCK].buckets_in(0, column % BLOCK)

    def level_of(self, column: int) -> int:
        """Return how often the buckets of a column were joined."""
        return int(self._levels[column])

    def drop(self, columns: Ints) -> None:
        self._newest.forget(columns)
        self._levels[columns] = 0
        for number, here in by_block(columns):
            self._histograms[number].drop(columns[here] - number * BLOCK)


_NOTHING: Ints = np.zeros(0, np.int64)
_BUCKET = (1 << BITS) - 1


def _joined(buckets: Ints, levels: Ints) -> Ints:
    """Return the buckets that stand for buckets [n] joined ``levels`` [n] times: those nearest to zero."""
    low = (np.int64(1) << levels) - 1
    return np.asarray(np.where(buckets & _POSITIVE, buckets & ~low, buckets | low))


def _sum_by_code(codes: Ints, counts: Ints) -> tuple[Ints, Ints]:
    """Add up the counts of equal codes; return the codes ascending."""
    order = np.argsort(codes, kind="stable")
    codes = codes[order]
    starts = runs_of(codes)
    return codes[starts], np.add.reduceat(counts[order], starts) if len(starts) else counts


def _merge_equal(rows: Ints, moments: Moments) -> tuple[Ints, Moments]:
    """Merge the partials of equal rows, of any counts."""
    if len(np.unique(rows)) == len(rows):
        return rows, moments
    own, merged_ = merge_equal(rows, moments)
    starts = runs_of(np.sort(rows))
    order = np.argsort(rows, kind="stable")
    return own.astype(np.int64), Moments(np.add.reduceat(moments.count[order], starts), merged_.parts)
