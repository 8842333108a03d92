"""The first and the last value of rows in windows: those of the least and the greatest event time.

Among equal times the order of the log decides, which is the order in which values are added.
"""

from collections.abc import Callable, Sequence

import numpy as np

from pushsvc.stats.arrays import Counts, Flags, Index, Ints, runs_of, slices_of
from pushsvc.stats.parts import Batch, append_merged, bytes_of, chosen, joined
from pushsvc.stats.values.dictionary import NONE
from pushsvc.stats.window import Window

_NEVER, _ALWAYS = int(np.iinfo(np.int64).max), int(np.iinfo(np.int64).min)

FirstOfRows = Batch[np.int64]  # ascending, distinct rows, times, and numbers of values


class LastValues:
    """The greatest time of each row in every window [W, R], and the number of its value. The last value of a window is
    the last one to leave it, so that one place for each row is enough."""

    STATE = ("_time", "_number")

    def __init__(self, windows: int) -> None:
        self._time: Ints = np.full((windows, 0), _ALWAYS)
        self._number: Ints = np.full((windows, 0), NONE)

    @property
    def bytes(self) -> int:
        return bytes_of(self._time, self._number)

    def reserve(self, rows: int) -> None:
        self._time, self._number = _wide(self._time, rows, _ALWAYS), _wide(self._number, rows, NONE)

    def add(self, windows: Sequence[int], rows: Ints, times: Ints, numbers: Ints) -> None:
        """Add values to windows, in the order of the log."""
        order = np.lexsort((times, rows))
        last = order[np.append(runs_of(rows[order])[1:], len(rows)) - 1]
        rows, times, numbers = chosen((rows, times, numbers), last)
        for window in windows:
            newer = times >= self._time[window, rows]
            self._time[window, rows[newer]] = times[newer]
            self._number[window, rows[newer]] = numbers[newer]

    def forget(self, window: int | slice, rows: Index) -> None:
        """Forget the values of rows that have no event in the window."""
        self._time[window, rows], self._number[window, rows] = _ALWAYS, NONE

    def mark_in_use(self, used: Flags) -> None:
        """Mark the numbers of values that are the last of a row."""
        used[self._number[self._number != NONE]] = True

    def read(self, window: int, rows: Ints) -> Ints:
        """Return the numbers of the last values of rows."""
        return np.asarray(self._number[window, rows])


class FirstValues:
    """The least time of each row in every window [W, R], and the number of its value. Every pane keeps the first value
    of each of its rows. When the pane with a row's first value expires, the next pane that has the row provides it."""

    STATE = ("_windows", "_time", "_number", "_panes", "_head")

    def __init__(self, windows: Sequence[Window]) -> None:
        self._windows = tuple(windows)
        self._time: Ints = np.full((len(windows), 0), _NEVER)
        self._number: Ints = np.full((len(windows), 0), NONE)
        self._panes: list[dict[int, list[FirstOfRows]]] = [{} for _ in windows]
        self._head: list[FirstOfRows] = []

    @property
    def bytes(self) -> int:
        return bytes_of(self._time, self._number, self._head) + sum(map(bytes_of, self._panes))

    def reserve(self, rows: int) -> None:
        self._time, self._number = _wide(self._time, rows, _NEVER), _wide(self._number, rows, NONE)

    def add(self, rows: Ints, times: Ints, numbers: Ints) -> None:
        """Add values of the head grain, in the order of the log."""
        part = _first_of(rows, times, numbers)
        append_merged(self._head, part, _joined)
        for window in range(len(self._windows)):
            self._lower(window, part)

    def add_late(self, window: int, rows: Ints, times: Ints, numbers: Ints) -> None:
        """Add late values to panes of a window, in the order of the log."""
        panes = times // self._windows[window].pane
        order = np.argsort(panes, kind="stable")
        for here in slices_of(panes[order]):
            part = _first_of(*chosen((rows, times, numbers), order[here]))
            append_merged(self._panes[window].setdefault(int(panes[order[here.start]]), []), part, _joined)
            self._lower(window, part)

    def close(self, panes: Sequence[int]) -> None:
        """Close the head grain, which was in ``panes`` [W]."""
        if self._head:
            part, self._head = _joined(self._head), []
            for window, pane in enumerate(panes):
                append_merged(self._panes[window].setdefault(pane, []), part, _joined)

    def advance(self, window: int, oldest: int, count: Counts) -> None:
        """Expire the panes before ``oldest``. Rows whose first value expires get the next one unless ``count`` is 0."""
        panes, begin = self._panes[window], oldest * self._windows[window].pane
        for pane in [pane for pane in panes if pane < oldest]:
            rows, _, _ = _joined(panes.pop(pane))
            rows = rows[self._time[window, rows] < begin]
            self._time[window, rows], self._number[window, rows] = _NEVER, NONE
            rows = rows[count[rows] > 0]
            for later in sorted(later for later in panes if later >= oldest):
                if not len(rows):
                    break
                rows = rows[~self._take(window, later, rows)]

    def _take(self, window: int, pane: int, rows: Ints) -> Flags:
        """Set the first values of those ascending rows that a pane has; return which these are."""
        parts = self._panes[window][pane]
        parts[:] = [_joined(parts)]
        own, times, numbers = parts[0]
        place = np.minimum(np.searchsorted(own, rows), len(own) - 1)
        there = np.asarray(own[place] == rows)
        self._time[window, rows[there]] = times[place[there]]
        self._number[window, rows[there]] = numbers[place[there]]
        return there

    def _lower(self, window: int, part: FirstOfRows) -> None:
        rows, times, numbers = part
        older = times < self._time[window, rows]
        self._time[window, rows[older]] = times[older]
        self._number[window, rows[older]] = numbers[older]

    def keep(self, kept: Callable[[Ints], Flags]) -> None:
        """Drop the rows for which ``kept`` returns False."""
        rows = np.flatnonzero(~kept(np.arange(self._time.shape[1])))
        self._time[:, rows], self._number[:, rows] = _NEVER, NONE
        self._head = _kept(self._head, kept)
        for window, panes in enumerate(self._panes):
            left = {pane: _kept(parts, kept) for pane, parts in panes.items()}
            self._panes[window] = {pane: parts for pane, parts in left.items() if parts}

    def mark_in_use(self, used: Flags) -> None:
        """Mark the numbers of values that are, or may become, the first of a row."""
        for parts in [self._head, *(parts for panes in self._panes for parts in panes.values())]:
            for _, _, numbers in parts:
                used[numbers] = True

    def read(self, window: int, rows: Ints) -> Ints:
        """Return the numbers of the first values of rows."""
        return np.asarray(self._number[window, rows])


def _first_of(rows: Ints, times: Ints, numbers: Ints) -> FirstOfRows:
    """Return the value with the least time of each row, among equal times the first."""
    order = np.lexsort((times, rows))
    return chosen((rows, times, numbers), order[runs_of(rows[order])])


def _joined(parts: list[FirstOfRows]) -> FirstOfRows:
    return parts[0] if len(parts) == 1 else _first_of(*joined(parts))


def _kept(parts: list[FirstOfRows], kept: Callable[[Ints], Flags]) -> list[FirstOfRows]:
    left = [chosen(part, kept(part[0])) for part in parts]
    return [part for part in left if len(part[0])]


def _wide(array: Ints, rows: int, fill: int) -> Ints:
    """Return an array [W, …] with room for at least so many rows."""
    more = rows - array.shape[1]
    if more <= 0:
        return array
    more = max(more, array.shape[1] // 4)
    return np.concatenate([array, np.full((len(array), more), fill)], axis=1)
