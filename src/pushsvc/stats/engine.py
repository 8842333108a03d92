"""What drives windows need not know how they are kept: what every engine can do, and an engine made of two."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from pushsvc.stats.arrays import Counts, Flags, Floats, Index, Ints
from pushsvc.stats.panes.pane_windows import PaneWindows
from pushsvc.stats.pause import Pause, no_pause
from pushsvc.stats.recent.recent_windows import RecentWindows
from pushsvc.stats.rows import Rows, TopicRows
from pushsvc.stats.values.dictionary import ValueDictionary
from pushsvc.stats.values.value_statistics import ValueStatistics
from pushsvc.stats.window import TimeRange, Window

Ready = Callable[[int, Ints], Ints]
"""Says for a window and topics [n] the ms from which each may be told something."""


class Engine(Protocol):
    """Windows [W] over rows [R] on one clock. A row is changed until its changes are taken. ``pause`` is called
    every few milliseconds of work, between two topics or parts of them."""

    windows: tuple[Window, ...]
    rows: Rows
    pause: Pause

    @property
    def time(self) -> int:
        """Return the ms that the clock is at, or the last of those it cannot tell apart."""

    @property
    def step(self) -> int:
        """Return a number that becomes another one now and then, for what need not be done with every event."""

    def begin(self, time: int) -> None:
        """Set the clock, back too, while there is nothing in the windows."""

    def move(self, time: int) -> bool:
        """Let the clock go to ``time``, never back; tell whether events may leave or enter."""

    def next_changes(self, ready: Ready) -> list[int | None]:
        """Return for each window the next ms at which a move may change something of which may be told."""

    def mark(self, topic: TopicRows, offset: int, times: Ints, fit: Flags | None) -> Ints:
        """Take the times [n] of the events of an entry that ends with ``offset``; return what ``put`` calls them.

        Those that are not ``fit`` are never put.
        """

    def put(self, marks: Ints, rows: Index, values: Floats | None) -> None:
        """Count values of events just marked in their rows and the totals of those; None for rows that only count."""

    def settle(self) -> None:
        """Do what was put off, so that nothing but the events and the clock says what the state is."""

    def touch(self, rows: Index) -> None:
        """Mark rows as changed in every window."""

    def changed(self, window: int) -> Flags:
        """Return for each row [R] whether it may have changed."""

    def take_changes(self, window: int, rows: Ints) -> None:
        """Take the marks off rows."""

    def held(self, window: int, rows: Ints) -> Counts:
        """Return how many events rows hold."""

    def read(self, window: int, rows: Ints) -> Floats:
        """Return the moments and quantiles [5 + percents, n] of rows, not finite where undefined."""

    @property
    def vocabulary(self) -> ValueDictionary | None:
        """Return the numbers of values of any kind, if any are kept."""

    def put_values(self, marks: Ints, times: Ints, rows: Index, numbers: Ints) -> None:
        """Count values of any kind, by their numbers, in rows of VALUES, of events just marked and their times."""

    def read_values(self, window: int, rows: Ints) -> list[list[Any]]:
        """Return the columns [n] of statistics of values: None in rows of other kinds, and nothing of these is
        inexact; no columns where none are wanted."""

    def tidy(self) -> None:
        """Forget values that nobody holds where they have become many. Numbers of values not yet put are void."""

    def extents(self, window: int, topics: Sequence[TopicRows]) -> list[TimeRange]:
        """Return what a window covers of the events of topics [n]."""

    def unused(self) -> Ints:
        """Return the open rows of keys that have no event in any window and none to come."""

    def close(self, rows: Ints) -> None:
        """Free unused rows."""

    def discard(self, topic: TopicRows) -> Ints:
        """Forget a topic, whatever is in its rows; return these."""

    def measure(self, most_bytes: int) -> None:
        """Look at the memory taken: beyond so many bytes nothing gets new places until it is less."""


def engine_of(
    windows: Sequence[Window],
    time: int,
    percents: Sequence[int],
    exact: bool,
    max_events: int,
    pause: Pause = no_pause,
    statistics: Sequence[str] = (),
    most_values: int = 10_000,
) -> Engine:
    """Return an engine for windows: of panes, of raw events, or both as they need it.

    ``statistics`` are those of values of any kind, of which ``most_values`` of a field are followed one by one.
    """
    wanted = ValueStatistics(statistics, most_values) if statistics else None
    if exact or all(window.events for window in windows):
        return RecentWindows(windows, time, percents, max_events, pause=pause, wanted=wanted)
    if any(window.events for window in windows):
        return Both(windows, time, percents, pause, wanted)
    return PaneWindows(windows, time, percents, pause, wanted)


class Both:
    """Windows of time made of panes, and beside them windows that count events, over the same rows."""

    STATE = ("windows", "_rolling", "rows", "_recent", "_places")

    def __init__(
        self,
        windows: Sequence[Window],
        time: int,
        percents: Sequence[int] = (),
        pause: Pause = no_pause,
        wanted: ValueStatistics | None = None,
    ) -> None:
        self.windows = tuple(windows)
        self._rolling = PaneWindows([window for window in windows if not window.events], time, percents, pause, wanted)
        self.rows = self._rolling.rows
        counting = [window for window in windows if window.events]
        self._recent = RecentWindows(counting, time, percents, rows=self.rows, pause=pause, wanted=wanted)
        self._places = [(bool(one.events), (counting if one.events else self._rolling.windows).index(one))
                        for one in windows]  # fmt: skip

    @property
    def pause(self) -> Pause:
        return self._rolling.pause

    @pause.setter
    def pause(self, pause: Pause) -> None:
        self._rolling.pause = self._recent.pause = pause

    def _at(self, window: int) -> tuple[PaneWindows | RecentWindows, int]:
        """Return who keeps a window, and its number there."""
        counting, number = self._places[window]
        return self._recent if counting else self._rolling, number

    @property
    def time(self) -> int:
        return self._rolling.time

    @property
    def step(self) -> int:
        return self._rolling.step + self._recent.step

    def begin(self, time: int) -> None:
        self._rolling.begin(time)
        self._recent.begin(time)

    def move(self, time: int) -> bool:
        self._recent.move(time)
        return self._rolling.move(time)

    def next_changes(self, ready: Ready) -> list[int | None]:
        found = iter(self._rolling.next_changes(ready))
        return [None if counting else next(found) for counting, _ in self._places]

    def mark(self, topic: TopicRows, offset: int, times: Ints, fit: Flags | None) -> Ints:
        return self._recent.mark(topic, offset, times, fit)

    def put(self, marks: Ints, rows: Index, values: Floats | None) -> None:
        self._recent.put(marks, rows, values)
        self._rolling.put(self._recent.times_of(marks, rows) // self._rolling.grain, rows, values)

    @property
    def vocabulary(self) -> ValueDictionary | None:
        return self._rolling.vocabulary

    def put_values(self, marks: Ints, times: Ints, rows: Index, numbers: Ints) -> None:
        self._recent.put_values(marks, times, rows, numbers)
        self._rolling.put_values(times // self._rolling.grain, times, rows, numbers)

    def settle(self) -> None:
        self._rolling.settle()
        self._recent.settle()

    def touch(self, rows: Index) -> None:
        self._rolling.touch(rows)
        self._recent.touch(rows)

    def changed(self, window: int) -> Flags:
        keeper, number = self._at(window)
        return keeper.changed(number)

    def take_changes(self, window: int, rows: Ints) -> None:
        keeper, number = self._at(window)
        keeper.take_changes(number, rows)

    def held(self, window: int, rows: Ints) -> Counts:
        keeper, number = self._at(window)
        return keeper.held(number, rows)

    def read(self, window: int, rows: Ints) -> Floats:
        keeper, number = self._at(window)
        return keeper.read(number, rows)

    def extents(self, window: int, topics: Sequence[TopicRows]) -> list[TimeRange]:
        keeper, number = self._at(window)
        return keeper.extents(number, topics)

    def unused(self) -> Ints:
        return np.intersect1d(self._rolling.unused(), self._recent.unused(), assume_unique=True)

    def close(self, rows: Ints) -> None:
        self._recent.forget(rows)
        self._rolling.close(rows)

    def discard(self, topic: TopicRows) -> Ints:
        self._recent.forget_topic(topic)
        return self._rolling.discard(topic)

    def measure(self, most_bytes: int) -> None:
        self.rows.full = self._rolling.bytes + self._recent.bytes > most_bytes
        if self.vocabulary is not None:
            self.vocabulary.full = self.rows.full

    def read_values(self, window: int, rows: Ints) -> list[list[Any]]:
        keeper, number = self._at(window)
        return keeper.read_values(number, rows)

    def tidy(self) -> None:
        if self.vocabulary is not None and self.vocabulary.due(self.step):
            held = self._recent.hold(self._rolling.hold(self.vocabulary.nobody()))
            self.vocabulary.sweep(held, self.step)
