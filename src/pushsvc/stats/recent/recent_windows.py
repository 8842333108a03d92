"""Windows that keep their events: the last N events of a topic, and (T - W, T] exact to the millisecond.

Every event leaves such a window alone, so that panes cannot represent it. The events of a topic are kept, and a row is
computed from those that its window holds, in the order of their values. So its statistics depend on the set of events
only, to the last bit: not on the order of arrival, nor on the division into entries. One exception: which values of a
field are tracked, when there are too many, depends on that order (see dictionary.py).
"""

from collections.abc import Callable, Sequence

import numpy as np

from pushsvc.pause import no_pause
from pushsvc.stats.arrays import Counts, Flags, Floats, Index, Ints, runs_of
from pushsvc.stats.moments import MOMENTS, Moments, describe, empty, reduce
from pushsvc.stats.parts import bytes_of
from pushsvc.stats.recent.event_buffer import NO_LIMIT, NO_OBSERVATIONS, EventBuffer, Observations, PendingEntry
from pushsvc.stats.rows import ALL_KEYS, CLOSED, NEVER, VALUES, Rows, TopicRows
from pushsvc.stats.values.value_statistics import ValueStatistics, ValueSummary
from pushsvc.stats.window import TimeRange, Window

ReadyTimes = Callable[[int, Ints], Ints]  # returns for a window and topics the ms from which updates may be sent

_MOST_PENDING = 65_536
_NO_CHANGE = int(np.iinfo(np.int64).max)  # the time of the next change of a topic that will have none
_OBSERVATION_BYTES = 28
_MINIMUM_LIMIT = 1_000  # events that a topic may keep however short the memory is
_SHORT = 1 << 15
_STEP_TIME, _STEP_EVENTS = 1_000, 1_000


class RecentWindows:
    """Windows [W] over rows [R]; see ``EngineOptions``. ``time`` is where the clock starts. Events stay pending until a
    read, or until they are ``_MOST_PENDING``."""

    STATE = (
        "windows", "percents", "_rows", "_longest", "_last", "_value_statistics", "_time", "_max_events", "_buffers",
        "_changed", "_counts", "_kept", "_next", "_soonest", "_written", "_pending", "_begun", "_bytes",
    )  # fmt: skip
    DERIVED = ("pause",)

    def __init__(
        self, windows: Sequence[Window], time: int, rows: Rows, percents: Sequence[int],
        value_statistics: ValueStatistics | None, max_events: int,
    ) -> None:  # fmt: skip
        self.windows = tuple(windows)
        self.pause = no_pause
        self.percents = tuple(percents)
        self._rows = rows
        self._longest = max(window.length for window in windows)
        self._last = max(window.events for window in windows)
        self._value_statistics = value_statistics
        self._time = time
        self._max_events = max_events
        self._buffers: dict[int, EventBuffer] = {}
        self._changed: Flags = np.zeros((len(windows), 0), np.bool_)
        self._counts: Ints = np.zeros((len(windows), 0), np.int64)
        self._kept: Ints = np.zeros(0, np.int64)
        self._next: Ints = np.zeros((len(windows), 0), np.int64)
        self._soonest = _NO_CHANGE
        self._written: list[int] = []
        self._pending = 0
        self._begun = 0
        self._bytes = 0

    @property
    def bytes(self) -> int:
        """Size of the arrays, without pending events."""
        return bytes_of(self._changed, self._counts, self._kept, self._next) + self._bytes

    @property
    def kept_bytes(self) -> int:
        """Size with pending events, about."""
        return self.bytes + _OBSERVATION_BYTES * self._pending

    def settle_beyond(self, most_bytes: int) -> None:
        """Settle if the events may take more than ``most_bytes``: settling evicts, so that the excess may vanish."""
        self._reserve()
        if self.kept_bytes > most_bytes:
            self.settle()

    def limit_events(self, full: bool) -> None:
        """Limit every topic to the events that it has if the memory is ``full``, else to ``max_events``."""
        for buffer in self._buffers.values():
            most = max(_MINIMUM_LIMIT, len(buffer.times))
            buffer.limit = min(buffer.limit, most) if full else self._max_events
            buffer.last_limit = min(buffer.last_limit, most) if full else NO_LIMIT

    # -- the clock

    @property
    def time(self) -> int:
        return self._time

    @property
    def step(self) -> int:
        return self._time // _STEP_TIME + self._begun // _STEP_EVENTS

    def start(self, time: int) -> None:
        self._time = time

    def advance(self, time: int) -> bool:
        if time <= self._time:
            return False
        self._time = time
        return bool(self._written) or time >= self._soonest

    def next_changes(self, ready: ReadyTimes) -> list[int | None]:
        self.settle()
        found: list[int | None] = []
        for window, times in enumerate(self._next):
            topics = np.flatnonzero(times < _NO_CHANGE)
            found.append(int(np.maximum(times[topics], ready(window, topics)).min()) if len(topics) else None)
        return found

    # -- events in

    def begin_entry(self, topic: TopicRows, offset: int, times: Ints, in_range: Flags | None) -> Ints:
        """Begin an entry; return the offsets of its events, which are their ids."""
        if self._pending >= _MOST_PENDING:
            self.settle()
        buffer = self._buffers.get(topic.number)
        if buffer is None:
            buffer = self._buffers[topic.number] = EventBuffer(self._time, self._max_events)
        first = offset - len(times) + 1
        buffer.pending.append(PendingEntry(self._time, first, times, in_range))
        buffer.offset = offset
        self._written.append(topic.number)
        self._begun += len(times)
        self._pending += len(times)
        return np.arange(first, offset + 1)

    def put(self, events: Ints, rows: Index, values: Floats | None) -> None:
        """Add events of the newest entry to rows of its topic."""
        self._entry_of(rows).put(events, rows, values)
        self._pending += len(rows)

    def put_values(self, events: Ints, _times: Ints, rows: Index, numbers: Ints) -> None:
        """Add events to rows of VALUES. These rows bear no numbers, so that an observation can keep ``numbers``."""
        if self._value_statistics is not None:
            self.put(events, rows, self._value_statistics.kept(numbers).astype(np.float64))

    def times_of(self, events: Ints, rows: Index) -> Ints:
        """Return the times of events of the newest entry, which belongs to the topic of ``rows``."""
        entry = self._entry_of(rows)
        return entry.times[events - entry.first]

    def _entry_of(self, rows: Index) -> PendingEntry:
        return self._buffers[int(self._rows.topic[rows[0]])].pending[-1]

    def settle(self) -> None:
        """Make room for all rows, apply pending events, and evict those that no window needs."""
        self._reserve()
        if not self._written and self._time < self._soonest:
            return
        due = np.flatnonzero(self._next.min(axis=0) <= self._time).tolist()
        for topic in sorted({*self._written, *due}):
            self._update_topic(topic)
            self.pause()
        self._written, self._pending = [], 0
        self._soonest = int(self._next.min(initial=_NO_CHANGE))

    def _update_topic(self, topic: int) -> None:
        """Bring the rows of a topic up to its events and the clock."""
        buffer = self._buffers[topic]
        before, old, bytes_before = buffer.horizon, len(buffer.observations), buffer.bytes
        arrivals = buffer.append_pending()
        now, observed = buffer.follow(self._time, self._longest), buffer.observations
        np.add.at(self._kept, observed.rows[old:], 1)
        for number, window in enumerate(self.windows):
            was, held = (horizon.holds(window, observed.offsets, observed.times) for horizon in (before, now))
            was[old:] = False
            if window.events:
                passed = observed.offsets > before.offset
            else:
                since = np.concatenate([np.full(old, before.time), arrivals - window.length])
                passed = (observed.times > since) & (observed.times <= now.time)
            self._count_changes(number, observed.rows, was, held, passed)
            self._next[number, topic] = _NO_CHANGE if window.events else self._next_change(buffer, window)
        self._evict(buffer)
        self._bytes += buffer.bytes - bytes_before

    def _count_changes(self, window: int, rows: Index, was: Flags, held: Flags, passed: Flags) -> None:
        """Count the observations that entered or left a window. One that did both since the last call (``passed``)
        changes its row too. So the rows that count as changed do not depend on how often the engine is read."""
        moved = was != held
        changed = np.flatnonzero(moved | passed)
        own, difference = rows[changed], held[changed].astype(np.int64) - was[changed]
        totals = self._rows.total[own]
        keyed = totals != own
        for places, change in ((own, difference), (totals[keyed], difference[keyed])):
            np.add.at(self._counts[window], places, change)
            self._changed[window, places] = True

    def _next_change(self, buffer: EventBuffer, window: Window) -> int:
        """Return the next ms at which an event leaves or enters a window."""
        times = buffer.times[buffer.times > max(buffer.horizon.floor, buffer.horizon.time - window.length)]
        ahead = times > buffer.horizon.time
        leaving, entering = times[~ahead].min(initial=_NO_CHANGE), times[ahead].min(initial=_NO_CHANGE)
        return min(int(leaving) + window.length, int(entering)) if leaving < _NO_CHANGE else int(entering)

    def _evict(self, buffer: EventBuffer) -> None:
        """Drop the events that no window needs any more."""
        needed = buffer.needed(self._longest, self._last, buffer.offsets, buffer.times)
        if not needed.all():
            buffer.offsets, buffer.times = buffer.offsets[needed], buffer.times[needed]
        observed = buffer.observations
        needed = buffer.needed(self._longest, self._last, observed.offsets, observed.times)
        if not needed.all():
            np.add.at(self._kept, observed.rows[~needed], -1)
            buffer.observations = observed.take(needed)

    def _reserve(self) -> None:
        more = len(self._rows.topic) - len(self._kept)
        if more > 0:
            self._kept = np.pad(self._kept, (0, more))
            self._counts = np.pad(self._counts, ((0, 0), (0, more)))
            self._changed = np.pad(self._changed, ((0, 0), (0, more)))
        more = len(self._rows.topics) - self._next.shape[1]
        if more > 0:
            self._next = np.pad(self._next, ((0, 0), (0, more + len(self._rows.topics))), constant_values=_NO_CHANGE)

    # -- rows out

    def touch(self, rows: Index) -> None:
        self._reserve()
        self._changed[:, rows] = True

    def changed(self, window: int) -> Flags:
        self.settle()
        return self._changed[window, : self._rows.size]

    def set_changed(self, window: int, rows: Ints, *, changed: bool) -> None:
        self.settle()
        self._reserve()
        self._changed[window, rows] = changed

    def counts(self, window: int) -> Counts:
        """Return the number of events in each row [R]."""
        self.settle()
        return self._counts[window, : self._rows.size]

    def time_ranges(self, window: int, topics: Sequence[TopicRows]) -> list[TimeRange]:
        """Return (T - W, T] above the floor of each topic, or the least and the greatest time of its last events."""
        self.settle()
        return [self._time_range(window, topic) for topic in topics]

    def _time_range(self, window: int, topic: TopicRows) -> TimeRange:
        buffer, chosen = self._buffers.get(topic.number), self.windows[window]
        if not chosen.events:
            begin = self._time - chosen.length
            floor = NEVER if buffer is None else buffer.horizon.floor
            return TimeRange(max(begin, min(floor, self._time)) + 1, self._time + 1, truncated=floor > begin)
        if buffer is None:
            return TimeRange(None, None)
        times = buffer.times[buffer.horizon.holds(chosen, buffer.offsets, buffer.times)]
        if not len(times):
            return TimeRange(None, None)
        truncated = buffer.horizon.first > max(1, buffer.horizon.offset - chosen.events + 1)
        return TimeRange(int(times.min()), int(times.max()) + 1, truncated=truncated)

    def read(self, window: int, rows: Ints) -> Floats:
        """Return the moments and quantiles [5 + percents, n] of rows, NaN where undefined; all are exact."""
        self.settle()
        statistics = np.full((MOMENTS + len(self.percents), len(rows)), np.nan)
        numeric = np.flatnonzero(self._rows.column[rows] != CLOSED)
        statistics[:MOMENTS, numeric] = describe(Moments(np.zeros(len(numeric), np.int64), empty(len(numeric))))
        owners, values = self._numbers_of(window, rows[numeric])
        starts = runs_of(owners)
        moments, places = reduce(values, starts), numeric[owners[starts]]
        statistics[:MOMENTS, places] = describe(moments)
        count = moments.count.astype(np.int64)
        for number, percent in enumerate(self.percents):
            statistics[MOMENTS + number, places] = values[starts + (percent * count + 99) // 100 - 1]
        return statistics

    def summarize_values(self, window: int, rows: Ints) -> ValueSummary:
        """Summarize the values in rows [n] of VALUES."""
        self.settle()
        if self._value_statistics is None:
            return ValueSummary(np.zeros(len(rows), np.bool_))
        observed, own, total = self._observed_in(window, rows)
        owners, members = _by_owner(own, total)
        kept = observed.values[members].astype(np.int64)
        return self._value_statistics.summarize(owners.astype(np.int64), observed.times[members], kept, len(rows))

    def _numbers_of(self, window: int, rows: Ints) -> tuple[Index, Floats]:
        """Return the values of rows in a window and the place of each value's row; ordered by place, then by value."""
        observed, own, total = self._observed_in(window, rows)
        chosen = np.flatnonzero((own != CLOSED) | (total != CLOSED))
        chosen = chosen[np.argsort(observed.values[chosen])]
        own, total, values = own[chosen], total[chosen], observed.values[chosen]
        owners, members = _by_owner(own, total)
        return owners, values[members]

    def _observed_in(self, window: int, rows: Ints) -> tuple[Observations, Index, Index]:
        """Return the observations [m] in a window of all topics of rows, in the order of each log. Beside them, for
        each observation, the place in ``rows`` of its own row, and that of its total: CLOSED for none."""
        # numpy sorts integers of 16 bits by radix, in one pass.
        place: Index = np.full(self._rows.size, CLOSED, np.int16 if len(rows) < _SHORT else np.int64)
        place[rows] = np.arange(len(rows))
        found = [self._held(window, topic) for topic in np.unique(self._rows.topic[rows]).tolist()]
        observed = Observations.joined([one for one in found if one is not None] or [NO_OBSERVATIONS])
        totals = self._rows.total[observed.rows]
        own, total = place[observed.rows], place[totals]
        own[totals == observed.rows] = CLOSED  # an event without a key counts in the total alone
        return observed, own, total

    def _held(self, window: int, topic: int) -> Observations | None:
        buffer = self._buffers.get(topic)
        if buffer is None:
            return None
        observed = buffer.observations
        held = buffer.horizon.holds(self.windows[window], observed.offsets, observed.times)
        return observed if held.all() else observed.take(held)

    # -- rows that go

    def mark_values_in_use(self, used: Flags) -> None:
        """Mark the numbers of the values of kept events."""
        self.settle()
        if self._value_statistics is not None:
            for buffer in self._buffers.values():
                observed = buffer.observations
                values = observed.values[self._rows.kind[observed.rows] == VALUES]
                self._value_statistics.mark_numbers(values.astype(np.int64), used)

    def unused_rows(self) -> Ints:
        """Return the open rows of keys of which no event is kept."""
        self.settle()
        return np.flatnonzero((self._rows.key[: self._rows.size] > ALL_KEYS) & (self._kept[: self._rows.size] == 0))

    def forget(self, rows: Ints) -> None:
        self._changed[:, rows] = False

    def drop_topic(self, topic: TopicRows, rows: Ints) -> None:
        """Drop the events of a topic, whose rows are ``rows``."""
        self.settle()
        if topic.number in self._buffers:
            self._bytes -= self._buffers.pop(topic.number).bytes
        self._next[:, topic.number] = _NO_CHANGE
        self._changed[:, rows] = False
        self._counts[:, rows] = self._kept[rows] = 0


def _by_owner(own: Index, total: Index) -> tuple[Index, Ints]:
    """Return the owners of observations [m], ascending, and the members that each has, in their order."""
    members = np.concatenate([np.flatnonzero(own != CLOSED), np.flatnonzero(total != CLOSED)])
    owners = np.concatenate([own[own != CLOSED], total[total != CLOSED]])
    order = np.argsort(owners, kind="stable")
    return owners[order], members[order]
