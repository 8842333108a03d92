"""The newest values of each column: a quantile of no more values than are kept is exact."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pushsvc.stats.arrays import Counts, Flags, Floats, Ints, lengths_of, runs_of

NEWEST = 16
"""Values up to which a quantile is exact."""

_MANY = 32
_LONG_AGO = np.iinfo(np.int64).min

EarlyValues = tuple[Ints, Ints, Floats]
"""Columns, grains and values [m]."""


class NewestValues:
    """At most NEWEST values of each column, those of the newest grains."""

    STATE = ("_values", "_grains", "_early")

    def __init__(self) -> None:
        self._values: Floats = np.zeros((0, NEWEST))
        self._grains: Ints = np.full((0, NEWEST), _LONG_AGO)
        self._early: list[EarlyValues] = []

    @property
    def bytes(self) -> int:
        """Size of the arrays."""
        early = sum(array.nbytes for early in self._early for array in early)
        return self._values.nbytes + self._grains.nbytes + early

    def reserve(self, columns: int) -> None:
        more = columns - len(self._values)
        if more > 0:
            self._values = np.concatenate([self._values, np.zeros((more, NEWEST))])
            self._grains = np.concatenate([self._grains, np.full((more, NEWEST), _LONG_AGO)])

    def add(self, columns: Ints, starts: Ints, grains: Ints, values: Floats) -> None:
        """Add a run of values [m] to each of the columns [n]; ``grains`` [m] ascend within a run.

        A value replaces the oldest one of its column unless it is older itself.
        """
        lengths = lengths_of(starts, len(values))
        for rank in range(min(NEWEST, int(lengths.max(initial=0)))):
            chosen = np.flatnonzero(lengths > rank)
            where, taken = columns[chosen], starts[chosen] + lengths[chosen] - 1 - rank
            slot = self._grains[where].argmin(axis=1)
            newer = self._grains[where, slot] <= grains[taken]
            where, slot, taken = where[newer], slot[newer], taken[newer]
            self._grains[where, slot] = grains[taken]
            self._values[where, slot] = values[taken]

    def add_early(self, columns: Ints, grains: Ints, values: Floats) -> None:
        """Keep values [m] of future grains separately, because windows do not contain them yet."""
        self._early.append(_newest_of_each(columns, grains, values))
        if len(self._early) >= _MANY:
            self._early = [_newest_of_each(*_joined(self._early))]

    def promote_early(self, head: int) -> None:
        """Add the early values of grains up to ``head``."""
        if not any(grains.min() <= head for _, grains, _ in self._early):
            return
        columns, grains, values = _newest_of_each(*_joined(self._early))
        due = grains <= head
        starts = runs_of(columns[due])
        self.add(columns[due][starts], starts, grains[due], values[due])
        self._early = [] if due.all() else [(columns[~due], grains[~due], values[~due])]

    def forget(self, columns: Ints) -> None:
        """Forget the values of columns."""
        self._grains[columns] = _LONG_AGO
        kept = [_chosen(early, ~np.isin(early[0], columns)) for early in self._early]
        self._early = [early for early in kept if len(early[0])]

    def quantiles(self, columns: Ints, first: int, last: int, count: Counts, percents: Sequence[int]) -> Floats:
        """Return [percents, n] over grains ``first`` … ``last``; NaN where not all ``count`` values are kept."""
        found = np.full((len(percents), len(columns)), np.nan)
        few = np.flatnonzero((count > 0) & (count <= NEWEST))
        if not len(few):
            return found
        ordered, inside = self._inside(columns[few], first, last)
        known = np.flatnonzero(inside == count[few])
        for number, percent in enumerate(percents):
            rank = (percent * count[few[known]].astype(np.int64) + 99) // 100
            found[number, few[known]] = ordered[known, rank - 1]
        return found

    def values(self, columns: Ints, first: int, last: int, count: Counts) -> list[list[float] | None]:
        """Return the values of each column, ascending; None where not all ``count`` values are kept."""
        ordered, inside = self._inside(columns, first, last)
        return [
            ordered[at, :own].tolist() if known == own else None
            for at, (known, own) in enumerate(zip(inside.tolist(), count.tolist(), strict=True))
        ]

    def _inside(self, columns: Ints, first: int, last: int) -> tuple[Floats, Ints]:
        """Return the kept values of columns [n] in grains ``first`` … ``last``, ascending, and their numbers [n]."""
        grains, values = self._grains[columns], self._values[columns]
        if self._early:
            early = self._early_of(columns)
            grains, values = np.hstack([grains, early[0]]), np.hstack([values, early[1]])
        inside = (grains >= first) & (grains <= last)
        return np.sort(np.where(inside, values, np.inf), axis=1), inside.sum(axis=1)

    def _early_of(self, columns: Ints) -> tuple[Ints, Floats]:
        """Return grains and values [n, NEWEST] of the earliest early values of ascending columns."""
        chosen = np.zeros(len(self._grains), np.bool_)
        chosen[columns] = True
        owners, ages, early = _sorted(*_joined([_chosen(one, chosen[one[0]]) for one in self._early]))
        grains = np.full((len(columns), NEWEST), _LONG_AGO)
        values = np.zeros((len(columns), NEWEST))
        first, last = (np.searchsorted(owners, columns, side=side) for side in ("left", "right"))
        for rank in range(min(NEWEST, int((last - first).max(initial=0)))):
            there = np.flatnonzero(last - first > rank)
            grains[there, rank] = ages[first[there] + rank]
            values[there, rank] = early[first[there] + rank]
        return grains, values


def _joined(batches: Sequence[EarlyValues]) -> EarlyValues:
    columns, grains, values = (np.concatenate(arrays) for arrays in zip(*batches, strict=True))
    return columns, grains, values


def _chosen(early: EarlyValues, mask: Flags) -> EarlyValues:
    return early[0][mask], early[1][mask], early[2][mask]


def _sorted(columns: Ints, grains: Ints, values: Floats) -> EarlyValues:
    """Order by column and grain, within a grain by arrival."""
    order = np.lexsort((grains, columns))
    return columns[order], grains[order], values[order]


def _newest_of_each(columns: Ints, grains: Ints, values: Floats) -> EarlyValues:
    """Return the last NEWEST values of each column and grain, ordered; no head can need others."""
    columns, grains, values = _sorted(columns, grains, values)
    same = np.flatnonzero((columns[NEWEST:] == columns[:-NEWEST]) & (grains[NEWEST:] == grains[:-NEWEST]))
    if not len(same):
        return columns, grains, values
    kept = np.ones(len(columns), np.bool_)
    kept[same] = False  # NEWEST newer values of the same grain follow
    return columns[kept], grains[kept], values[kept]
