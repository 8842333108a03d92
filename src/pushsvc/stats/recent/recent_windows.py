"""Windows that keep their events: the last N of a topic, and the true (T - W, T] to the millisecond.

Panes cannot tell such windows, as each event leaves alone. So the events of a topic are kept as they came, and a row is
computed from those that its window holds, in order of their values. Hence its figures are those of the set, in every
bit: in which order the events came, how they were divided, and what else was computed with them leaves no trace. (Which
values of a field are followed, if they are too many, does depend on that; see vocabulary.py.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pushsvc.stats.arrays import Counts, Flags, Floats, Index, Ints, runs_of
from pushsvc.stats.moments import MOMENTS, Moments, describe, empty, reduce
from pushsvc.stats.pause import Pause, no_pause
from pushsvc.stats.recent.event_buffer import NEVER, NO_OBSERVATIONS, Entry, EventBuffer, Observations
from pushsvc.stats.rows import ALL_KEYS, CLOSED, HIDDEN, VALUES, Rows, TopicRows
from pushsvc.stats.values.dictionary import ValueDictionary
from pushsvc.stats.values.value_statistics import ValueStatistics, ValueSummary
from pushsvc.stats.window import TimeRange, Window

_ENOUGH = 65_536
_FAR = int(np.iinfo(np.int64).max)
_CELL = 28
"""Bytes of what an event says of a row."""

_FEW = 1_000
"""Events that a topic may keep however little memory there is."""

_SHORT = 1 << 15

_STEP_TIME, _STEP_EVENTS = 1_000, 1_000


class RecentWindows:
    """Windows [W] over rows [R]. ``time`` is where the clock begins, ``percents`` are those of the quantiles wanted,
    ``wanted`` what is of values of any kind.

    At most ``max_events`` events of a topic are kept for windows of time. What is put lies aside until somebody reads,
    or until it is ``_ENOUGH``.
    """

    STATE = (
        "windows", "percents", "rows", "_longest", "_last", "_wanted", "_time", "_max_events", "_tapes", "_changed",
        "_held", "_kept", "_next", "_soonest", "_written", "_waiting", "_marked", "_bytes",
    )  # fmt: skip
    DERIVED = ("pause",)

    def __init__(
        self,
        windows: Sequence[Window],
        time: int,
        percents: Sequence[int] = (),
        max_events: int = 100_000,
        rows: Rows | None = None,
        pause: Pause = no_pause,
        wanted: ValueStatistics | None = None,
    ) -> None:
        self.windows = tuple(windows)
        self.pause = pause
        self.percents = tuple(percents)
        self.rows = Rows() if rows is None else rows
        self._longest = max(window.length for window in windows)
        self._last = max(window.events for window in windows)
        self._wanted = wanted
        self._time = time
        self._max_events = max_events
        self._tapes: dict[int, EventBuffer] = {}
        self._changed: Flags = np.zeros((len(windows), 0), np.bool_)
        self._held: Ints = np.zeros((len(windows), 0), np.int64)
        self._kept: Ints = np.zeros(0, np.int64)
        self._next: Ints = np.zeros((len(windows), 0), np.int64)
        self._soonest = _FAR
        self._written: list[int] = []
        self._waiting = 0
        self._marked = 0
        self._bytes = 0

    @property
    def bytes(self) -> int:
        """Size of events and arrays, without those of ``rows`` and the vocabulary."""
        fixed = self._changed.nbytes + self._held.nbytes + self._kept.nbytes + self._next.nbytes
        return fixed + self._bytes

    def measure(self, most_bytes: int) -> None:
        """Look at the memory: beyond so many bytes no key gets rows, no new value is followed and no topic keeps more
        events than it has."""
        self._reserve()
        shared = self.rows.bytes + (0 if self.vocabulary is None else self.vocabulary.bytes)
        if self.bytes + _CELL * self._waiting + shared > most_bytes:
            self.settle()  # it drops what is not needed, so what may be too much need not be
        was, self.rows.full = self.rows.full, self.bytes + shared > most_bytes
        if self.vocabulary is not None:
            self.vocabulary.full = self.rows.full
        if was or self.rows.full:
            for tape in self._tapes.values():
                tape.limit = min(tape.limit, max(_FEW, len(tape.times))) if self.rows.full else self._max_events

    # -- the clock

    @property
    def time(self) -> int:
        return self._time

    @property
    def step(self) -> int:
        return self._time // _STEP_TIME + self._marked // _STEP_EVENTS

    def begin(self, time: int) -> None:
        self._time = time

    def move(self, time: int) -> bool:
        if time <= self._time:
            return False
        self._time = time
        return bool(self._written) or time >= self._soonest

    def next_changes(self, ready: Callable[[int, Ints], Ints]) -> list[int | None]:
        """Return for each window when something next changes and its topic may be told."""
        self.settle()
        found: list[int | None] = []
        for window, times in enumerate(self._next):
            topics = np.flatnonzero(times < _FAR)
            found.append(int(np.maximum(times[topics], ready(window, topics)).min()) if len(topics) else None)
        return found

    # -- events

    def mark(self, topic: TopicRows, offset: int, times: Ints, fit: Flags | None) -> Ints:
        """Begin an entry; its events are called by their offsets."""
        if self._waiting >= _ENOUGH:
            self.settle()
        tape = self._tapes.get(topic.number)
        if tape is None:
            tape = self._tapes[topic.number] = EventBuffer(self._time, self._max_events)
        first = offset - len(times) + 1
        tape.aside.append(Entry(self._time, first, times, fit))
        tape.offset = offset
        self._written.append(topic.number)
        self._marked += len(times)
        self._waiting += len(times)
        return np.arange(first, offset + 1)

    def put(self, marks: Ints, rows: Index, values: Floats | None) -> None:
        """Note what events of the entry marked last say of rows of its topic."""
        self._entry_of(rows).put(marks, rows, values)
        self._waiting += len(rows)

    @property
    def vocabulary(self) -> ValueDictionary | None:
        return None if self._wanted is None else self._wanted.vocabulary

    def put_values(self, marks: Ints, _times: Ints, rows: Index, numbers: Ints) -> None:
        """Note values of any kind: the numbers of cells of such rows, which have none of their own, stand for them."""
        if self._wanted is not None:
            self.put(marks, rows, self._wanted.kept(numbers).astype(np.float64))

    def times_of(self, marks: Ints, rows: Index) -> Ints:
        """Return the times of events of the entry marked last, which say something of ``rows``."""
        entry = self._entry_of(rows)
        return entry.times[marks - entry.first]

    def _entry_of(self, rows: Index) -> Entry:
        return self._tapes[int(self.rows.topic[rows[0]])].aside[-1]

    def settle(self) -> None:
        """Take in what lay aside, and let what has left its windows go."""
        if not self._written and self._time < self._soonest:
            return
        self._reserve()
        due = np.flatnonzero(self._next.min(axis=0) <= self._time).tolist()
        for topic in sorted({*self._written, *due}):
            self._bring_up(topic)
            self.pause()
        self._written, self._waiting = [], 0
        self._soonest = int(self._next.min(initial=_FAR))

    def _bring_up(self, topic: int) -> None:
        """Bring the rows of a topic up to its events and the clock."""
        tape = self._tapes[topic]
        before, old, bytes_before = tape.reach, len(tape.cells), tape.bytes
        came = tape.take_in()
        now, cells = tape.follow(self._time, self._longest), tape.cells
        np.add.at(self._kept, cells.rows[old:], 1)
        for number, window in enumerate(self.windows):
            was, held = (reach.holds(window, cells.offsets, cells.times) for reach in (before, now))
            was[old:] = False
            if window.events:
                passed = cells.offsets > before.offset
            else:
                since = np.concatenate([np.full(old, before.time), came - window.length])
                passed = (cells.times > since) & (cells.times <= now.time)
            self._note(number, cells.rows, was, held, passed)
            self._next[number, topic] = _FAR if window.events else self._next_change(tape, window)
        self._let_go(tape)
        self._bytes += tape.bytes - bytes_before

    def _note(self, window: int, rows: Index, was: Flags, held: Flags, passed: Flags) -> None:
        """Count which cells came and left. Those are changed too that did both since (``passed``): so it does not
        matter how often somebody looks."""
        moved = was != held
        changed = np.flatnonzero(moved | passed)
        own, difference = rows[changed], held[changed].astype(np.int64) - was[changed]
        totals = self.rows.total[own]
        keyed = totals != own
        for places, change in ((own, difference), (totals[keyed], difference[keyed])):
            np.add.at(self._held[window], places, change)
            self._changed[window, places] = True

    def _next_change(self, tape: EventBuffer, window: Window) -> int:
        """Return the ms at which an event of a window leaves or one ahead enters it."""
        times = tape.times[tape.times > max(tape.reach.floor, tape.reach.time - window.length)]
        ahead = times > tape.reach.time
        leaving, entering = times[~ahead].min(initial=_FAR), times[ahead].min(initial=_FAR)
        return min(int(leaving) + window.length, int(entering)) if leaving < _FAR else int(entering)

    def _let_go(self, tape: EventBuffer) -> None:
        """Drop what no window needs any more."""
        needed = tape.needed(self._longest, self._last, tape.offsets, tape.times)
        if not needed.all():
            tape.offsets, tape.times = tape.offsets[needed], tape.times[needed]
        needed = tape.needed(self._longest, self._last, tape.cells.offsets, tape.cells.times)
        if not needed.all():
            np.add.at(self._kept, tape.cells.rows[~needed], -1)
            tape.cells = tape.cells.take(needed)

    def _reserve(self) -> None:
        more = len(self.rows.topic) - len(self._kept)
        if more > 0:
            self._kept = np.pad(self._kept, (0, more))
            self._held = np.pad(self._held, ((0, 0), (0, more)))
            self._changed = np.pad(self._changed, ((0, 0), (0, more)))
        more = len(self.rows.topics) - self._next.shape[1]
        if more > 0:
            self._next = np.pad(self._next, ((0, 0), (0, more + len(self.rows.topics))), constant_values=_FAR)

    # -- reading

    def touch(self, rows: Index) -> None:
        self._reserve()
        self._changed[:, rows] = True

    def changed(self, window: int) -> Flags:
        self.settle()
        self._reserve()
        changed = self._changed[window, : self.rows.size]
        return changed if self._wanted is None else changed & (self.rows.kind[: self.rows.size] != HIDDEN)

    def take_changes(self, window: int, rows: Ints) -> None:
        self.settle()
        self._changed[window, rows] = False

    def held(self, window: int, rows: Index | slice = slice(None)) -> Counts:
        self.settle()
        self._reserve()
        held: Counts = self._held[window, : self.rows.size][rows]
        return held

    def extents(self, window: int, topics: Sequence[TopicRows]) -> list[TimeRange]:
        """Return from the least to the greatest time of the last events, or (T - W, T] without what was let go."""
        self.settle()
        return [self._extent(window, topic) for topic in topics]

    def _extent(self, window: int, topic: TopicRows) -> TimeRange:
        tape, chosen = self._tapes.get(topic.number), self.windows[window]
        if not chosen.events:
            begin = self._time - chosen.length
            floor = NEVER if tape is None else tape.reach.floor
            return TimeRange(max(begin, min(floor, self._time)) + 1, self._time + 1, truncated=floor > begin)
        if tape is None:
            return TimeRange(None, None)
        times = tape.times[tape.reach.holds(chosen, tape.offsets, tape.times)]
        return TimeRange(int(times.min()), int(times.max()) + 1) if len(times) else TimeRange(None, None)

    def read(self, window: int, rows: Ints) -> Floats:
        """Return the moments and quantiles [5 + percents, n] of rows, NaN where undefined; all are exact."""
        self.settle()
        self._reserve()
        figures = np.full((MOMENTS + len(self.percents), len(rows)), np.nan)
        bearers = rows if self._wanted is None else self.rows.bearers(rows, self._held[window])
        numeric = np.flatnonzero((bearers != CLOSED) & (self.rows.column[bearers] != CLOSED))
        figures[:MOMENTS, numeric] = describe(Moments(np.zeros(len(numeric), np.int64), empty(len(numeric))))
        owners, values = self._numbers_of(window, bearers[numeric])
        if not len(owners):
            return figures
        starts = runs_of(owners)
        moments, places = reduce(values, starts), numeric[owners[starts]]
        figures[:MOMENTS, places] = describe(moments)
        count = moments.count.astype(np.int64)
        for number, percent in enumerate(self.percents):
            figures[MOMENTS + number, places] = values[starts + (percent * count + 99) // 100 - 1]
        return figures

    def read_values(self, window: int, rows: Ints) -> list[list[Any]]:
        """Return the columns of ValueStatistics for rows."""
        wanted = self._wanted
        if wanted is None:
            return []
        self.settle()
        self._reserve()
        valued = np.flatnonzero(self.rows.kind[rows] == VALUES)
        cells, own, total = self._cells_of(window, rows[valued])
        members = np.concatenate([np.flatnonzero(own != CLOSED), np.flatnonzero(total != CLOSED)])
        owners = np.concatenate([own[own != CLOSED], total[total != CLOSED]])
        order = np.argsort(owners, kind="stable")
        owners, members = valued[owners[order]], members[order]
        times, kept = cells.times[members], cells.values[members].astype(np.int64)

        def find(places: Ints) -> ValueSummary:
            part = slice(*np.searchsorted(owners, [places[0], places[-1] + 1]).tolist())
            return wanted.find(np.searchsorted(places, owners[part]), times[part], kept[part], len(places))

        return wanted.columns(self.rows.kind[rows], find)

    def _numbers_of(self, window: int, rows: Ints) -> tuple[Index, Floats]:
        """Return which of the rows each value in a window is of, and the values; ordered by both."""
        cells, own, total = self._cells_of(window, rows)
        wanted = np.flatnonzero((own != CLOSED) | (total != CLOSED))
        wanted = wanted[np.argsort(cells.values[wanted])]
        own, total, values = own[wanted], total[wanted], cells.values[wanted]
        owners = np.concatenate([own[own != CLOSED], total[total != CLOSED]])
        values = np.concatenate([values[own != CLOSED], values[total != CLOSED]])
        order = np.argsort(owners, kind="stable")
        return owners[order], values[order]

    def _cells_of(self, window: int, rows: Ints) -> tuple[Observations, Index, Index]:
        """Return the cells in a window of all topics of some rows, in the order of each log, and of which of the rows
        each one tells: as its own, and as its total. CLOSED for none."""
        # numpy sorts small integers by their bits, in one pass.
        place: Index = np.full(self.rows.size, CLOSED, np.int16 if len(rows) < _SHORT else np.int64)
        place[rows] = np.arange(len(rows))
        found = [self._held_cells(window, topic) for topic in np.unique(self.rows.topic[rows]).tolist()]
        cells = Observations.joined([cells for cells in found if cells is not None] or [NO_OBSERVATIONS])
        totals = self.rows.total[cells.rows]
        own, total = place[cells.rows], place[totals]
        own[totals == cells.rows] = CLOSED  # an event without a key is said of the total alone
        return cells, own, total

    def _held_cells(self, window: int, topic: int) -> Observations | None:
        tape = self._tapes.get(topic)
        if tape is None:
            return None
        held = tape.reach.holds(self.windows[window], tape.cells.offsets, tape.cells.times)
        return tape.cells if held.all() else tape.cells.take(held)

    # -- rows that go

    def tidy(self) -> None:
        """Forget values that nobody holds where places are short or they have become many."""
        if self.vocabulary is not None and self.vocabulary.due(self.step):
            self.vocabulary.sweep(self.hold(self.vocabulary.nobody()), self.step)

    def hold(self, held: Flags) -> Flags:
        """Mark the numbers of the values of events that are kept as held; return the marks."""
        self.settle()
        if self._wanted is not None:
            for tape in self._tapes.values():
                values = tape.cells.values[self.rows.kind[tape.cells.rows] == VALUES]
                self._wanted.hold(values.astype(np.int64), held)
        return held

    def unused(self) -> Ints:
        self.settle()
        self._reserve()
        return np.flatnonzero((self.rows.key[: self.rows.size] > ALL_KEYS) & (self._kept[: self.rows.size] == 0))

    def forget(self, rows: Ints) -> None:
        """Take the marks off unused rows, for who frees them."""
        self._changed[:, rows] = False

    def close(self, rows: Ints) -> None:
        self.forget(rows)
        self.rows.close(rows)

    def forget_topic(self, topic: TopicRows) -> Ints:
        """Forget the events of a topic, for who frees its rows; return these."""
        self.settle()
        self._reserve()
        rows = self.rows.of_topic(topic)
        if topic.number in self._tapes:
            self._bytes -= self._tapes.pop(topic.number).bytes
        self._next[:, topic.number] = _FAR
        self._changed[:, rows] = False
        self._held[:, rows] = self._kept[rows] = 0
        return rows

    def discard(self, topic: TopicRows) -> Ints:
        rows = self.forget_topic(topic)
        if self.vocabulary is not None:
            self.vocabulary.forget(rows)
        self.rows.drop_topic(topic)
        return rows
