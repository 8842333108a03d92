"""Statistics of the values of fields, of any type: distinct values, most frequent values, first and last value.

Windows of panes compute a ValueSummary from structures of their own (pane_values.py), windows that keep their events
compute it here. Both become the same columns.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pushsvc.stats.arrays import Flags, Index, Ints, lengths_of, runs_of
from pushsvc.stats.pane_counts import count_ids
from pushsvc.stats.rows import VALUES
from pushsvc.stats.statistic_names import is_exact, length_of
from pushsvc.stats.values.dictionary import NONE, SKETCHED, ValueDictionary
from pushsvc.stats.values.distinct import SHIFT, count_marks
from pushsvc.stats.values.frequent import Ranked, rank

_MARK = (1 << SHIFT) - 1


@dataclass(slots=True)
class ValueSummary:
    """Statistics of the values of rows [n]; None for those that are not chosen. ``firsts`` and ``lasts`` are numbers of
    values. ``approximate`` tells which rows are not exact."""

    approximate: Flags
    distinct: Ints | None = None
    ranked: list[Ranked] | None = None
    firsts: Ints | None = None
    lasts: Ints | None = None


class ValueStatistics:
    """The chosen statistics by their ``names``, and the dictionary of values, which tracks ``most`` of a field. ``top``
    is the greatest number of most frequent values that a statistic shows, 0 if there is none."""

    STATE = ("dictionary", "names", "distinct", "top", "first_or_last")

    def __init__(self, statistics: Sequence[str], most: int) -> None:
        self.dictionary = ValueDictionary(most)
        self.names = tuple(statistics)
        self.distinct = "distinct" in statistics
        self.top = max((length for length in map(length_of, statistics) if length), default=0)
        self.first_or_last = "first" in statistics or "last" in statistics

    @property
    def _empty(self) -> list[Any]:
        """The columns of a row without values: None for each statistic, and False if there is a flag column."""
        flag = [] if all(map(is_exact, self.names)) else [False]
        return [*[None] * len(self.names), *flag]

    def columns(self, kinds: Index, summarize: Callable[[Ints], ValueSummary]) -> list[list[Any]]:
        """Return a column [n] for each statistic, and a column of flags for approximate rows if there may be any.
        ``kinds`` [n] are those of the rows. ``summarize`` gets the places of the rows of VALUES, ascending."""
        columns: list[list[Any]] = [[empty] * len(kinds) for empty in self._empty]
        places = np.flatnonzero(kinds == VALUES)
        if len(places):
            for column, filled in zip(columns, self._columns_of(summarize(places)), strict=True):
                for place, one in zip(places.tolist(), filled, strict=True):
                    column[place] = one
        return columns

    def _columns_of(self, found: ValueSummary) -> list[list[Any]]:
        value = self.dictionary.value
        by_name: dict[str, list[Any]] = {}
        for name, numbers in (("distinct", found.distinct), ("first", found.firsts), ("last", found.lasts)):
            if numbers is not None:
                by_name[name] = numbers.tolist() if name == "distinct" else list(map(value, numbers.tolist()))
        ranked = [[[value(number), count] for number, count in one] for one in found.ranked or ()]
        lengths = zip(self.names, map(length_of, self.names), strict=True)
        columns = [[one[:length] for one in ranked] if length else by_name[name] for name, length in lengths]
        return [*columns, found.approximate.tolist()][: len(self._empty)]

    def kept(self, numbers: Ints) -> Ints:
        """Return what an event keeps of its value: its number, or its mark if neither first nor last is chosen. A mark
        does not keep an untracked value in use."""
        return numbers if self.first_or_last else self.dictionary.mark[numbers]

    @staticmethod
    def mark_numbers(kept: Ints, used: Flags) -> None:
        """Mark the numbers among what events keep as used."""
        used[kept[kept < SKETCHED]] = True

    def summarize(self, owners: Ints, times: Ints, kept: Ints, size: int) -> ValueSummary:
        """Summarize the values of owners [size]; events are ordered by owner, then as in the log."""
        found = ValueSummary(np.zeros(size, np.bool_))
        if self.distinct or self.top:
            self._count(found, owners, self.dictionary.mark[kept] if self.first_or_last else kept, size)
        if self.first_or_last:
            found.firsts, found.lasts = _first_and_last(owners, times, kept, size)
        return found

    def _count(self, found: ValueSummary, owners: Ints, marks: Ints, size: int) -> None:
        codes, counts = count_ids((owners << SHIFT) | marks)
        owners, marks = codes >> SHIFT, codes & _MARK
        tracked = marks < SKETCHED
        found.approximate[owners[~tracked]] = True
        if self.distinct:
            found.distinct, _ = count_marks(owners, marks, size, self.dictionary.cell)
        if self.top:
            members = owners[tracked], marks[tracked], counts[tracked].astype(np.int64)
            found.ranked = rank(*members, size, self.top, self.dictionary)


def _first_and_last(owners: Ints, times: Ints, numbers: Ints, size: int) -> tuple[Ints, Ints]:
    """Return for each owner [size] the number of the first value and that of the last; NONE for owners without values.
    Among equal times the order of the log decides."""
    firsts, lasts = np.full(size, NONE), np.full(size, NONE)
    if len(owners):
        starts = runs_of(owners)
        lengths = lengths_of(starts, len(owners))
        least = np.flatnonzero(times == np.repeat(np.minimum.reduceat(times, starts), lengths))
        greatest = np.flatnonzero(times == np.repeat(np.maximum.reduceat(times, starts), lengths))
        least = least[runs_of(owners[least])]
        greatest = greatest[np.append(runs_of(owners[greatest])[1:], len(greatest)) - 1]
        firsts[owners[least]], lasts[owners[greatest]] = numbers[least], numbers[greatest]
    return firsts, lasts
