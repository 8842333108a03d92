"""A statistic over time: feeds an engine with the events of a log and asks it at the ends of panes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import gcd

import numpy as np

from pushsvc.aggregate.aggregate import EARLY_ALLOWANCE, Aggregate
from pushsvc.event.columns import NO_TIME, Columns, NumberColumn, ValueColumn
from pushsvc.pause import Pause, no_pause
from pushsvc.settings import STATISTICS, TopicSettings
from pushsvc.stats.arrays import Floats, Ints
from pushsvc.stats.window import Window

_TOPIC = ""  # an engine has topics by name; this one has a single topic


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


class Series:
    """The values of a query at ``times`` (ms, multiples of their step, which is one of panes).

    A value is that of the events that arrived before its time, as an engine has it in the last ms before. With a clock
    of events an event arrives when the greatest event time so far comes, and times that the clock does not pass have no
    value. The engine has one row, whatever the number of keys. Its panes are as long as the times allow: an event that
    such a pane refuses as late is in no window that ends at a later time.
    """

    def __init__(self, settings: TopicSettings, query: SeriesQuery, times: range, pause: Pause = no_pause) -> None:
        self._query = query
        self._times = times
        self._pause = pause
        self._by_event = settings.clock == "event"
        self._clock = NO_TIME
        self._events = 0
        self._values: list[Floats] = []
        valued = query.field in settings.values
        kept = {name for name in query.names if name not in STATISTICS} | set(
            settings.value_statistics if valued else ()
        )
        window = query.window
        self._window = window if settings.exact else replace(window, pane=gcd(times.step, window.length))
        own = replace(
            settings, windows=(self._window,), key=("key",), clock="wall", parts=1,
            statistics=tuple(name for name in settings.statistics if name in kept),
            values=(query.field,) if valued and query.field is not None else (),
        )  # fmt: skip
        self._engine = Aggregate(own, (times[0] if times else 0) - 2 * query.window.length, pause=pause)
        self._engine.open(_TOPIC, 0)

    @property
    def done(self) -> bool:
        """Return whether no further event matters."""
        return len(self._values) == len(self._times)

    def add(self, events: Columns, arrivals: Ints) -> None:
        """Take the next events of the log, which arrived at ``arrivals`` [n] (ms)."""
        if not len(events):
            return
        times = arrivals if events.times is None else np.where(events.times == NO_TIME, arrivals, events.times)
        clocks = np.maximum(np.maximum.accumulate(times if self._by_event else arrivals), self._clock)
        self._clock = int(clocks[-1])
        chosen = _Chosen(events, self._query, times, clocks)
        while not self.done and self._times[len(self._values)] <= self._clock:
            time = self._times[len(self._values)]
            self._apply(chosen.before(time))
            self._ask(time)
        self._apply(chosen.before(self._clock + 1))

    def finish(self, now: int) -> tuple[Sequence[int], Floats]:
        """Return the times [n] with a value, and the statistics [names, n], NaN where there is none. All events that
        arrived before ``now`` (ms) were added."""
        while not self.done and not self._by_event and self._times[len(self._values)] <= now:
            self._ask(self._times[len(self._values)])
        count = len(self._values)
        return self._times[:count], np.array(self._values).reshape(count, len(self._query.names)).T

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
        self._values.append(reading.several(query.names, query.field, self._window.name, (None,), 0)[:, 0])
        self._pause()


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
