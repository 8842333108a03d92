"""The engine of an aggregate: all its windows over the rows of its topics, on one clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pushsvc.pause import Pause, no_pause
from pushsvc.stats.arrays import Counts, Flags, Floats, Index, Ints
from pushsvc.stats.cells import CellAccount
from pushsvc.stats.lifetime import LifetimeWindow
from pushsvc.stats.moments import MOMENTS
from pushsvc.stats.panes.pane_windows import PaneWindows
from pushsvc.stats.panes.partials import RowPartial
from pushsvc.stats.parts import bytes_of
from pushsvc.stats.recent.recent_windows import ReadyTimes, RecentWindows
from pushsvc.stats.rows import CLOSED, HIDDEN, Rows, TopicRows
from pushsvc.stats.values.dictionary import ValueDictionary
from pushsvc.stats.values.value_statistics import ValueStatistics
from pushsvc.stats.window import TimeRange, Window


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What an engine computes, and how many events and values it keeps."""

    windows: Sequence[Window]
    percents: Sequence[int] = ()  # of the quantiles
    exact: bool = False  # windows of time keep their events, as count windows do
    max_events: int = 100_000  # that windows of time keep of a topic
    value_statistics: Sequence[str] = ()  # statistics of values of any type
    max_values: int = 10_000  # of a field that are counted one by one


class Engine:
    """Windows [W] over rows [R]. A row counts as changed from its first change until ``set_changed``.

    Windows made of panes and windows that keep their events are two sets, ``PaneWindows`` and ``RecentWindows``, over
    the same rows; an engine has one set or both. An engine of the window ``all`` has no other window. ``time`` (ms) is
    where the clock starts. ``pause`` is called every few milliseconds of work, between topics or parts of them.
    """

    STATE = ("rows", "_value_statistics", "_panes", "_recent", "_sets", "_places")
    DERIVED = ("pause",)

    def __init__(
        self, options: EngineOptions, time: int, pause: Pause = no_pause, cells: CellAccount | None = None
    ) -> None:
        self.rows = Rows(cells)
        values = options.value_statistics
        self._value_statistics = ValueStatistics(values, options.max_values) if values else None
        shared = (time, self.rows, options.percents, self._value_statistics)
        kept = [window for window in options.windows if options.exact or window.events]
        divided = [window for window in options.windows if window not in kept]
        endless = any(window.is_lifetime for window in options.windows)
        if endless and len(options.windows) > 1:
            raise ValueError("the window of all events needs an engine of its own")
        kind = LifetimeWindow if endless else PaneWindows
        self._panes: PaneWindows | LifetimeWindow | None = kind(divided, *shared) if divided else None
        self._recent = RecentWindows(kept, *shared, options.max_events) if kept else None
        self._sets = [windows for windows in (self._panes, self._recent) if windows is not None]
        self._places = [
            (number, windows.windows.index(window))
            for window in options.windows
            for number, windows in enumerate(self._sets)
            if window in windows.windows
        ]
        self.use_pause(pause)

    def _of(self, window: int) -> tuple[PaneWindows | RecentWindows | LifetimeWindow, int]:
        """Return the set of a window, and the window's number in it."""
        number, place = self._places[window]
        return self._sets[number], place

    def use_pause(self, pause: Pause) -> None:
        self.pause = pause
        for windows in self._sets:
            windows.pause = pause

    @property
    def lifetime(self) -> LifetimeWindow:
        """The window ``all``, of an engine that has no other; else raise TypeError."""
        if not isinstance(self._panes, LifetimeWindow):
            raise TypeError("the engine has other windows")
        return self._panes

    @property
    def sink(self) -> Engine | PaneWindows | RecentWindows | LifetimeWindow:
        """The object that takes events: the only set of windows, or this engine if it has two."""
        return self._sets[0] if len(self._sets) == 1 else self

    @property
    def dictionary(self) -> ValueDictionary | None:
        """The numbers of values of any type, if any are kept."""
        return None if self._value_statistics is None else self._value_statistics.dictionary

    # -- the clock

    @property
    def time(self) -> int:
        """The ms of the clock, or the last of the ms that the windows do not tell apart."""
        return self._sets[0].time

    @property
    def step(self) -> int:
        """A number that changes now and then, for work that need not be done with every event."""
        first, last = self._sets[0], self._sets[-1]
        return first.step if first is last else first.step + last.step

    def start(self, time: int) -> None:
        """Set the clock of empty windows; it may go back."""
        for windows in self._sets:
            windows.start(time)

    def advance(self, time: int) -> bool:
        """Move the clock to ``time`` unless it is later; return whether events may have left or entered a window."""
        first, last = self._sets[0], self._sets[-1]
        moved = last.advance(time)
        return moved if first is last else first.advance(time)

    def next_changes(self, ready: ReadyTimes) -> list[int | None]:
        """Return for each window [W] the next ms at which the clock may change a row that may be sent."""
        found = [windows.next_changes(ready) for windows in self._sets]
        return [found[number][place] for number, place in self._places]

    # -- events in

    def begin_entry(self, topic: TopicRows, offset: int, times: Ints, in_range: Flags | None) -> Ints:
        """Return an id for each event [n] of the log entry that ends with ``offset``; ``put`` takes those in range."""
        return self._sets[-1].begin_entry(topic, offset, times, in_range)

    def put(self, events: Ints, rows: Index, values: Floats | None) -> None:
        """Add events of the newest entry to their rows and to the totals of those; None for rows that only count."""
        self._sets[-1].put(events, rows, values)
        if isinstance(self._panes, PaneWindows) and self._recent is not None:
            self._panes.put(self._recent.times_of(events, rows) // self._panes.grain, rows, values)

    def put_values(self, events: Ints, times: Ints, rows: Index, numbers: Ints) -> None:
        """Add events of the newest entry to rows of VALUES; ``numbers`` are those of their values."""
        self._sets[-1].put_values(events, times, rows, numbers)
        if isinstance(self._panes, PaneWindows) and self._recent is not None:
            self._panes.put_values(times // self._panes.grain, times, rows, numbers)

    def settle(self) -> None:
        """Apply pending events, so that the state depends on the events and the clock alone."""
        for windows in self._sets:
            windows.settle()

    # -- rows out

    def touch(self, rows: Index) -> None:
        """Mark rows as changed in every window."""
        for windows in self._sets:
            windows.touch(rows)

    def changed(self, window: int) -> Flags:
        """Return for each row [R] that readers see whether it may have changed."""
        windows, place = self._of(window)
        changed = windows.changed(place)
        return changed if self._value_statistics is None else changed & (self.rows.kind[: self.rows.size] != HIDDEN)

    def set_changed(self, window: int, rows: Ints, *, changed: bool) -> None:
        """Let rows count as changed in a window or not, whatever happened to them."""
        windows, place = self._of(window)
        windows.set_changed(place, rows, changed=changed)

    def counts(self, window: int, rows: Ints) -> Counts:
        """Return the numbers of events in rows [n]."""
        windows, place = self._of(window)
        return windows.counts(place)[rows]

    def read(self, window: int, rows: Ints) -> Floats:
        """Return the moments and quantiles [5 + percents, n] of rows; NaN or infinite where undefined."""
        windows, place = self._of(window)
        if self._value_statistics is None:
            return windows.read(place, rows)
        numeric = self.rows.numeric_rows(rows, windows.counts(place))
        there = np.flatnonzero(numeric != CLOSED)
        found = np.full((MOMENTS + len(windows.percents), len(rows)), np.nan)
        found[:, there] = windows.read(place, numeric[there])
        return found

    def read_values(self, window: int, rows: Ints) -> list[list[Any]]:
        """Return the columns [n] of ``ValueStatistics``; no columns if there are no statistics of values."""
        windows, place = self._of(window)
        if self._value_statistics is None:
            return []
        return self._value_statistics.columns(
            self.rows.kind[rows], lambda valued: windows.summarize_values(place, rows[valued])
        )

    def partials(self, window: int, rows: Ints) -> list[RowPartial]:
        """Return the mergeable states of rows; raise TypeError for a window that keeps its events."""
        windows, place = self._of(window)
        if isinstance(windows, RecentWindows):
            raise TypeError("windows that keep their events have no partials")
        return windows.partials(place, rows)

    def time_ranges(self, window: int, topics: Sequence[TopicRows]) -> list[TimeRange]:
        """Return what a window covers of the events of topics [n]."""
        windows, place = self._of(window)
        return windows.time_ranges(place, topics)

    # -- room

    @property
    def bytes(self) -> int:
        return bytes_of(self.rows, self.dictionary, self._sets)

    def check_memory(self, most_bytes: int) -> None:
        """Beyond ``most_bytes`` no key gets rows, no new value is tracked, and no topic keeps more events than now."""
        if self._recent is not None:
            self._recent.settle_beyond(most_bytes - self.bytes + self._recent.bytes)
        full = self.bytes > most_bytes
        if self._recent is not None and (full or self.rows.full):
            self._recent.limit_events(full or self.rows.cells.is_crowded)
        self.rows.full = full
        if self.dictionary is not None:
            self.dictionary.full = full or self.rows.cells.is_crowded

    @property
    def kept_bytes(self) -> int:
        """Size of the events and values that are kept beside rows."""
        return bytes_of(self.dictionary) + (0 if self._recent is None else self._recent.kept_bytes)

    def count_kept(self) -> None:
        """Count what is kept in the bound of the process. Beyond it no topic keeps more events and values than now."""
        if self._recent is None and self.dictionary is None:
            return
        was_crowded = self.rows.cells.is_crowded
        crowded = not self.rows.cells.keep(self.kept_bytes)
        if crowded and self._recent is not None:
            self._recent.settle()  # evicts: the excess may vanish
            crowded = not self.rows.cells.keep(self.kept_bytes)
        if crowded or was_crowded:
            if self._recent is not None:
                self._recent.limit_events(crowded or self.rows.full)
            if self.dictionary is not None:
                self.dictionary.full = crowded or self.rows.full

    def sweep_values(self) -> None:
        """Forget values in no window if places are short or these are many. Numbers not yet put become invalid."""
        if self._value_statistics is None:
            return
        dictionary = self._value_statistics.dictionary
        period = self.time if self._recent is None else self.step
        if dictionary.due(period):
            dictionary.sweep(self.values_in_use(), period)

    def values_in_use(self) -> Flags:
        """Return for each number of the dictionary whether its value is in a window or will enter one."""
        used = np.zeros(0 if self.dictionary is None else self.dictionary.size, np.bool_)
        for windows in self._sets:
            windows.mark_values_in_use(used)
        return used

    def unused_rows(self) -> Ints:
        """Return the open rows of keys that have no event in any window and will get none."""
        unused, *others = [windows.unused_rows() for windows in self._sets]
        for other in others:
            unused = np.intersect1d(unused, other, assume_unique=True)
        return unused

    def free_rows(self, rows: Ints) -> None:
        for windows in self._sets:
            windows.forget(rows)
        self.rows.close(rows)

    def drop_topic(self, topic: TopicRows) -> Ints:
        """Drop a topic with everything in its rows; return these."""
        rows = self.rows.of_topic(topic)
        for windows in self._sets:
            windows.drop_topic(topic, rows)
        if self.dictionary is not None:
            self.dictionary.forget(rows)
        self.rows.drop_topic(topic)
        return rows
