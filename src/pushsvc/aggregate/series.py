"""A statistic over time, computed from the events of a log: at the ends of panes, as the engine would have it there.

Moments are merged for all times at once. For other statistics an engine gets the events and is asked at each time.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import gcd

import numpy as np

from pushsvc.aggregate.aggregate import EARLY_ALLOWANCE, Aggregate
from pushsvc.event.columns import NO_TIME, Columns, NumberColumn, ValueColumn
from pushsvc.pause import Pause, no_pause
from pushsvc.settings import STATISTICS, TopicSettings
from pushsvc.stats import moments
from pushsvc.stats.arrays import Floats, Index, Ints, runs_of
from pushsvc.stats.moments import Moments
from pushsvc.stats.window import Window

_TOPIC = ""  # an engine has topics by name; this one has a single topic
_MOMENTS = ("sum", "mean", "min", "max", "std")  # in the order of ``moments.describe``
_BY_MOMENTS = {"count", "rate", *_MOMENTS}
_MERGED = 20_000  # partials that are merged between two pauses


@dataclass(frozen=True, slots=True)
class SeriesQuery:
    """The statistics ``names`` of one row in a ``window``: of a ``field`` (None: of the events) and a ``key`` of a
    grouping (None: of all events)."""

    window: Window
    names: tuple[str, ...]
    field: str | None = None
    key: str | None = None
    grouping: int = 0

    def first_arrival(self, time: int) -> int:
        """Return the ms before which no event arrived that the window has at ``time`` (ms) or later."""
        return time - self.window.length - self.window.pane - EARLY_ALLOWANCE


class Series(ABC):
    """The values of a query at ``times`` (ms, multiples of their step, which is one of panes).

    A value is that of the events that arrived before its time, as an engine has it in the last ms before. With a clock
    of events an event arrives when the greatest event time so far comes, and times that the clock does not pass have no
    value. Panes are as long as the times allow: an event that such a pane refuses as late is in no window that ends at
    a later time.
    """

    def __init__(self, settings: TopicSettings, query: SeriesQuery, times: range, pause: Pause) -> None:
        self._query = query
        self._times = times
        self._pause = pause
        self._by_event = settings.clock == "event"
        self._clock = NO_TIME
        self._pane = gcd(times.step, query.window.length)

    @property
    def done(self) -> bool:
        """Return whether no further event matters."""
        return not self._times or self._clock >= self._times[-1]

    def add(self, events: Columns, arrivals: Ints) -> None:
        """Take the next events of the log, which arrived at ``arrivals`` [n] (ms)."""
        if not len(events):
            return
        times = arrivals if events.times is None else np.where(events.times == NO_TIME, arrivals, events.times)
        clocks = np.maximum(np.maximum.accumulate(times if self._by_event else arrivals), self._clock)
        self._clock = int(clocks[-1])
        self._take(_Chosen(events, self._query, times, clocks))

    def finish(self, now: int) -> tuple[Sequence[int], Floats]:
        """Return the times [n] with a value, and the statistics [names, n], NaN where there is none. All events that
        arrived before ``now`` (ms) were added."""
        passed = self._clock if self._by_event else now
        count = len(range(self._times.start, min(self._times.stop, passed + 1), self._times.step))
        return self._times[:count], self._values(count)

    @abstractmethod
    def _take(self, chosen: "_Chosen") -> None:
        """Count events of the query; the clock is that of the last event."""

    @abstractmethod
    def _values(self, count: int) -> Floats:
        """Return the statistics [names, count] at the first times."""


def series_of(settings: TopicSettings, query: SeriesQuery, times: range, pause: Pause = no_pause) -> Series:
    """Return an empty series."""
    merges = not settings.exact and query.field not in settings.values and _BY_MOMENTS.issuperset(query.names)
    return (_SeriesOfMoments if merges else _SeriesOfEngine)(settings, query, times, pause)


class _SeriesOfMoments(Series):
    """Has a partial for the events of each pane, and merges those of a window at all times.

    The first time of an event is the first after both its own and its arrival. Only late events have one that differs
    from that of their pane, so these have partials of their own.
    """

    def __init__(self, settings: TopicSettings, query: SeriesQuery, times: range, pause: Pause) -> None:
        super().__init__(settings, query, times, pause)
        self._partials: list[tuple[Index, Index, Moments]] = []
        self._size = 0

    def _take(self, chosen: "_Chosen") -> None:
        times, clocks, values = chosen.all()
        begin, step, length = self._times.start, self._times.step, self._query.window.length
        panes = times // self._pane
        first = np.maximum((np.maximum(times, clocks) - begin) // step + 1, 0)
        last = (panes * self._pane + length - begin) // step
        kept = (first <= last) & (first < len(self._times)) & (times <= clocks + EARLY_ALLOWANCE)
        if not kept.any():
            return
        panes, first, values = panes[kept], first[kept], values[kept]
        order = np.lexsort((first, panes))
        panes, first = panes[order], first[order]
        starts = _runs_of_pairs(panes, first)
        self._add(panes[starts], first[starts], moments.reduce(values[order], starts))
        self._pause()

    def _add(self, panes: Ints, first: Ints, partials: Moments) -> None:
        self._partials.append((panes, first, partials))
        self._size += len(panes)
        if self._size > _MERGED and len(self._partials) > 1:
            self._partials = [self._merged()]
            self._size = len(self._partials[0][0])
            self._pause()

    def _merged(self) -> tuple[Index, Index, Moments]:
        """Return one partial for each pane and first time."""
        panes = np.concatenate([panes for panes, _, _ in self._partials])
        first = np.concatenate([first for _, first, _ in self._partials])
        counts = np.concatenate([partials.count for _, _, partials in self._partials])
        partials = Moments(counts, np.concatenate([partials.parts for _, _, partials in self._partials], axis=1))
        order = np.lexsort((first, panes))
        panes, first = panes[order], first[order]
        starts = _runs_of_pairs(panes, first)
        return panes[starts], first[starts], moments.merge_runs(partials.take(order), starts)

    def _values(self, count: int) -> Floats:
        found = np.full((len(self._query.names), count), np.nan)
        if not self._partials:
            return found
        panes, first, partials = self._merged()
        end = (panes * self._pane + self._query.window.length - self._times.start) // self._times.step + 1
        at = 0
        while at < count:
            # The partials of one window are the fewest that can be merged together.
            inside = int(np.count_nonzero((first <= at) & (end > at)))
            until = min(count, at + max(1, _MERGED // max(1, inside)))
            self._merge(found, at, until, first, end, partials)
            at = until
            self._pause()
        return np.where(np.isfinite(found), found, np.nan)

    def _merge(self, found: Floats, begin: int, until: int, first: Index, end: Index, partials: Moments) -> None:
        """Set the values at the times from ``begin`` on and before ``until``."""
        there = np.flatnonzero((first < until) & (end > begin))
        if not len(there):
            return
        low = np.maximum(first[there], begin)
        lengths = np.minimum(end[there], until) - low
        places = np.repeat(low - np.cumsum(lengths) + lengths, lengths) + np.arange(lengths.sum())
        order = np.argsort(places, kind="stable")
        starts = runs_of(places[order])
        merged = moments.merge_runs(partials.take(np.repeat(there, lengths)[order]), starts)
        times = places[order][starts]
        described = dict(zip(_MOMENTS, moments.describe(merged), strict=True))
        described["count"] = merged.count.astype(np.float64)
        described["rate"] = described["count"] / (self._query.window.length / 1_000)
        for row, name in enumerate(self._query.names):
            found[row, times] = described[name]


class _SeriesOfEngine(Series):
    """Has an engine of one row, whatever the number of keys."""

    def __init__(self, settings: TopicSettings, query: SeriesQuery, times: range, pause: Pause) -> None:
        super().__init__(settings, query, times, pause)
        self._events = 0
        self._found: list[Floats] = []
        valued = query.field in settings.values
        kept = {name for name in query.names if name not in STATISTICS} | set(
            settings.value_statistics if valued else ()
        )
        window = query.window
        self._window = window if settings.exact else replace(window, pane=self._pane)
        own = replace(
            settings, windows=(self._window,), key=("key",), clock="wall", parts=1,
            statistics=tuple(name for name in settings.statistics if name in kept),
            values=(query.field,) if valued and query.field is not None else (),
        )  # fmt: skip
        self._engine = Aggregate(own, (times[0] if times else 0) - 2 * query.window.length, pause=pause)
        self._engine.open(_TOPIC, 0)

    def _take(self, chosen: "_Chosen") -> None:
        while len(self._found) < len(self._times) and self._times[len(self._found)] <= self._clock:
            time = self._times[len(self._found)]
            self._apply(chosen.before(time))
            self._ask(time)
        self._apply(chosen.before(self._clock + 1))

    def _values(self, count: int) -> Floats:
        for time in self._times[len(self._found) : count]:
            self._ask(time)
        return np.array(self._found).reshape(count, len(self._query.names)).T

    def _apply(self, part: tuple[Columns, Ints] | None) -> None:
        if part is not None:
            events, clocks = part
            self._events += len(events)
            self._engine.apply(_TOPIC, self._events, clocks, events)
            self._pause()

    def _ask(self, time: int) -> None:
        query = self._query
        self._engine.advance(time - 1)
        reading = self._engine.reading(_TOPIC)
        self._found.append(reading.several(query.names, query.field, self._window.name, (None,), 0)[:, 0])
        self._pause()


def _runs_of_pairs(one: Index, other: Index) -> Ints:
    """Return where runs of equal pairs begin, the first with 0."""
    return np.flatnonzero(np.concatenate([[True], (one[1:] != one[:-1]) | (other[1:] != other[:-1])]))


class _Chosen:
    """The events of a query among some events, given out by their clock."""

    def __init__(self, events: Columns, query: SeriesQuery, times: Ints, clocks: Ints) -> None:
        names = events.keys[query.grouping]
        if query.key is None:
            kept = np.arange(len(events))
        else:
            kept = np.array([place for place, name in enumerate(names) if name == query.key], np.int64)
        self._times, self._clocks = times[kept], clocks[kept]
        self._field = query.field
        self._places, self._numbers = np.zeros(0, np.int64), np.zeros(0)
        self._texts: list[object] | None = None
        self._mixed = False
        self._at = 0
        column = None if query.field is None else events.fields.get(query.field)
        if column is not None:
            positions = np.arange(len(events)) if column.positions is None else column.positions
            places = np.searchsorted(kept, positions)
            there = places < len(kept)
            there[there] = kept[places[there]] == positions[there]
            self._places, self._numbers = places[there], column.values[there]
        valued = None if query.field is None else events.values.get(query.field)
        if valued is not None:
            self._texts, self._mixed = [valued.values[place] for place in kept.tolist()], valued.mixed

    def all(self) -> tuple[Ints, Ints, Floats]:
        """Return times, clocks and numbers [n] of the events that have the field; zeros without a field."""
        if self._field is None:
            return self._times, self._clocks, np.zeros(len(self._times))
        return self._times[self._places], self._clocks[self._places], self._numbers

    def before(self, time: int) -> tuple[Columns, Ints] | None:
        """Return the next events whose clock is before ``time`` (ms) and their clocks; None without any."""
        begin, end = self._at, int(np.searchsorted(self._clocks, time))
        if begin == end:
            return None
        self._at = end
        fields, values = {}, {}
        if self._field is not None:
            first, last = np.searchsorted(self._places, (begin, end))
            if first < last:
                fields[self._field] = NumberColumn(self._places[first:last] - begin, self._numbers[first:last])
            if self._texts is not None:
                values[self._field] = ValueColumn(self._texts[begin:end], self._mixed)
        clocks = self._clocks[begin:end]
        return Columns([[None] * (end - begin)], self._times[begin:end], fields, values), clocks
