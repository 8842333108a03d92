"""Statistics of the values of fields, of any type: distinct values, most frequent values, first and last value.

Windows of panes compute a ValueSummary from structures of their own (pane_values.py), windows that keep their events
compute it here. Both become the same columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pushsvc.stats.arrays import Flags, Index, Ints, lengths_of, runs_of
from pushsvc.stats.rows import VALUES
from pushsvc.stats.statistic_names import is_exact, length_of
from pushsvc.stats.values.dictionary import NONE, SKETCHED, ValueDictionary
from pushsvc.stats.values.distinct import SHIFT, count_marks
from pushsvc.stats.values.frequent import Ranked, rank

_MARK = (1 << SHIFT) - 1


@dataclass(slots=True)
class ValueSummary:
    """What there is of rows [n]: ``firsts`` and ``lasts`` are numbers of values. ``near`` tells which rows are not
    exact. What is not wanted is None."""

    near: Flags
    distinct: Ints | None = None
    ranked: list[Ranked] | None = None
    firsts: Ints | None = None
    lasts: Ints | None = None


class ValueStatistics:
    """Statistics of values by name, and the vocabulary of the values, of which ``most`` of a field are followed.

    ``top`` is how many of the most frequent values are told, 0 for none; ``ends`` whether the first or the last is.
    """

    STATE = ("vocabulary", "statistics", "distinct", "top", "ends")

    def __init__(self, statistics: Sequence[str], most: int) -> None:
        self.vocabulary = ValueDictionary(most)
        self.statistics = tuple(statistics)
        self.distinct = "distinct" in statistics
        self.top = max((length for length in map(length_of, statistics) if length), default=0)
        self.ends = "first" in statistics or "last" in statistics

    @property
    def nothing(self) -> list[Any]:
        """What the columns say of rows without values: nothing, and that nothing is approximate."""
        near = [] if all(map(is_exact, self.statistics)) else [False]
        return [*[None] * len(self.statistics), *near]

    def columns(self, kinds: Index, find: Callable[[Ints], ValueSummary]) -> list[list[Any]]:
        """Return a column [n] for each of the statistics, and one that tells which rows are not exact if any may be.

        ``kinds`` are those of the rows; ``find`` is asked for the places of those that have values, in order.
        """
        columns: list[list[Any]] = [[nothing] * len(kinds) for nothing in self.nothing]
        places = np.flatnonzero(kinds == VALUES)
        if len(places):
            for column, told in zip(columns, self._told(find(places)), strict=True):
                for place, one in zip(places.tolist(), told, strict=True):
                    column[place] = one
        return columns

    def _told(self, found: ValueSummary) -> list[list[Any]]:
        value = self.vocabulary.value
        told: dict[str, list[Any]] = {}
        if found.distinct is not None:
            told["distinct"] = found.distinct.tolist()
        for name, numbers in (("first", found.firsts), ("last", found.lasts)):
            if numbers is not None:
                told[name] = list(map(value, numbers.tolist()))
        ranked = [[[value(number), count] for number, count in one] for one in found.ranked or ()]
        lengths = zip(self.statistics, map(length_of, self.statistics), strict=True)
        columns = [[one[:length] for one in ranked] if length else told[name] for name, length in lengths]
        return [*columns, found.near.tolist()][: len(self.nothing)]

    # -- values of events that are kept

    def kept(self, numbers: Ints) -> Ints:
        """Return what to keep of the values of events: their numbers; or, where nobody asks for first or last, what
        they count as, so that a value that is not followed need not be held."""
        return numbers if self.ends else self.vocabulary.mark[numbers]

    @staticmethod
    def hold(kept: Ints, held: Flags) -> None:
        """Mark the numbers among what was kept as held."""
        held[kept[kept < SKETCHED]] = True

    def find(self, owners: Ints, times: Ints, kept: Ints, size: int) -> ValueSummary:
        """Return what owners [size] have of values of events, which stand in order of owners and then of the log."""
        found = ValueSummary(np.zeros(size, np.bool_))
        if self.distinct or self.top:
            self._count(found, owners, self.vocabulary.mark[kept] if self.ends else kept, size)
        if self.ends:
            found.firsts, found.lasts = _ends(owners, times, kept, size)
        return found

    def _count(self, found: ValueSummary, owners: Ints, marks: Ints, size: int) -> None:
        codes = np.sort((owners << SHIFT) | marks)
        starts = runs_of(codes)
        counts, owners, marks = lengths_of(starts, len(codes)), codes[starts] >> SHIFT, codes[starts] & _MARK
        followed = marks < SKETCHED
        found.near[owners[~followed]] = True
        if self.distinct:
            found.distinct, _ = count_marks(owners, marks, size, self.vocabulary.cell)
        if self.top:
            members = owners[followed], marks[followed], counts[followed]
            found.ranked = rank(*members, size, self.top, self.vocabulary)


def _ends(owners: Ints, times: Ints, numbers: Ints, size: int) -> tuple[Ints, Ints]:
    """Return for each owner [size] the number with the least time, of equals the first, and that with the greatest, of
    equals the last; NONE for owners without any."""
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
