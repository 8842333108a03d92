"""Events to the rows of an engine: which keys, fields and values they count under."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import NoneType

import numpy as np

from pushsvc.event.columns import Columns, NumberColumn
from pushsvc.stats.arrays import Flags, Ints
from pushsvc.stats.engine import Engine
from pushsvc.stats.rows import ALL_KEYS, COUNT, TopicRows
from pushsvc.stats.values.dictionary import NONE


@dataclass(slots=True)
class Topic:
    """What is known of one topic. ``since`` is the ms at which it began, ``deleted`` the sequence at which the one of
    this name before it was deleted (0: none was): both together tell it from any other.

    ``offset`` is that of the last event applied. ``late`` counts events that were too old for every window when they
    came, ``told_late`` those of them that somebody was told of, ``late_by_window`` those that were for each; ``ahead``
    those too far ahead of their arrival to be kept for later; ``folded`` those counted under ``__other__``; ``ignored``
    the numbers and values in fields beyond the cap.
    """

    name: str
    since: int
    table: TopicRows
    late_by_window: dict[str, int]
    begun: bool = False
    deleted: int = 0
    offset: int = 0
    late: int = 0
    told_late: int = 0
    ahead: int = 0
    folded: int = 0
    ignored: int = 0


class Counting:
    """Puts the events of topics into the rows of an engine. Of the fields ``valued`` all values are kept."""

    def __init__(self, engine: Engine, valued: Sequence[str]) -> None:
        self._engine = engine
        self._valued = tuple(valued)

    def count(
        self, topic: Topic, events: Columns, times: Ints, fit: Flags | None, own: Sequence[Flags] | None = None
    ) -> None:
        """Put the events to their rows. One that is not ``fit`` opens the totals of its fields all the same, so that
        these do not depend on how late it was read. ``own`` are those of each grouping that are to be counted here,
        None for all: others count the rest."""
        marks = self._engine.mark(topic.table, topic.offset, times, fit)
        fields = self._numbers_of(topic, events)
        values = self._values_of(topic, events, fit)
        for grouping, names in enumerate(events.keys):
            taken = fit if own is None else own[grouping] if fit is None else own[grouping] & fit
            keys = self._keys(topic, names, grouping, taken)
            if grouping:  # what has no key in the first is in the totals, in the others nowhere
                taken = (keys != ALL_KEYS) if taken is None else taken & (keys != ALL_KEYS)
            self._put(topic, times, marks, keys, taken, fields, values)

    def _numbers_of(self, topic: Topic, events: Columns) -> list[tuple[int, NumberColumn]]:
        """Return the fields of events that bear numbers."""
        table, found = topic.table, []
        for name, column in events.fields.items():
            number = self._field(topic, name)
            if number is None:
                topic.ignored += len(column.values)
            else:
                found.append((table.numbers(number) if name in self._valued else number, column))
        return found

    def _values_of(self, topic: Topic, events: Columns, fit: Flags | None) -> list[tuple[int, Ints]]:
        """Return the fields whose values are kept, and the numbers of these."""
        found: list[tuple[int, Ints]] = []
        for name, column in events.values.items():
            number = self._field(topic, name)
            if number is None:
                topic.ignored += sum(type(value) not in (int, float, NoneType) for value in column.values)
            elif self._engine.vocabulary is not None:
                told = column.values
                if fit is not None:
                    told = [value if counts else None for value, counts in zip(told, fit.tolist(), strict=True)]
                total = int(topic.table.totals()[number])
                found.append((number, self._engine.vocabulary.numbers(total, told, column.mixed)))
        return found

    def _put(
        self,
        topic: Topic,
        times: Ints,
        marks: Ints,
        keys: Ints,
        taken: Flags | None,
        fields: list[tuple[int, NumberColumn]],
        values: list[tuple[int, Ints]],
    ) -> None:
        """Put the events that are ``taken``, None for all, to the rows of one grouping."""
        table, chosen = topic.table, slice(None) if taken is None else np.flatnonzero(taken)
        if not len(keys[chosen]):
            return
        folded = times[chosen][(keys[chosen] > ALL_KEYS) & (keys[chosen] <= table.groupings)]
        if len(folded):
            topic.folded += len(folded)
            table.fold(int(folded.max()))
        self._engine.put(marks[chosen], table.rows(COUNT, keys[chosen]), None)
        for number, told in values:
            there = np.flatnonzero((told != NONE) if taken is None else (told != NONE) & taken)
            if len(there):
                self._engine.put_values(marks[there], times[there], table.rows(number, keys[there]), told[there])
        for number, column in fields:
            where, numbers = column.positions, column.values
            if taken is not None:
                places = np.arange(len(taken)) if where is None else where
                where, numbers = places[taken[places]], numbers[taken[places]]
            if len(numbers):
                at = slice(None) if where is None else where
                self._engine.put(marks[at], table.rows(number, keys[at]), numbers)

    def _field(self, topic: Topic, name: str) -> int | None:
        """Return the number of a field, a new one with its totals; None beyond the cap."""
        known = len(topic.table.fields)
        number = topic.table.field(name)
        if len(topic.table.fields) > known:
            self._engine.touch(topic.table.table[number:, ALL_KEYS])
        return number

    def _keys(self, topic: Topic, names: Sequence[str | None], grouping: int, taken: Flags | None) -> Ints:
        """Return the numbers of keys; ALL_KEYS for those not ``taken``: what is not counted gets no place."""
        if taken is None:
            return self._numbers_of_keys(topic, names, grouping)
        chosen = np.flatnonzero(taken)
        keys = np.full(len(names), ALL_KEYS)
        keys[chosen] = self._numbers_of_keys(topic, [names[at] for at in chosen.tolist()], grouping)
        return keys

    @staticmethod
    def _numbers_of_keys(topic: Topic, names: Sequence[str | None], grouping: int) -> Ints:
        """Return the numbers of keys, made for new ones as far as there is room."""
        numbers = map(topic.table.indexes[grouping].__getitem__, names)
        try:
            return np.fromiter(numbers, np.int64, len(names))
        except KeyError:
            return np.array([topic.table.key(name, grouping) for name in names], np.int64)
