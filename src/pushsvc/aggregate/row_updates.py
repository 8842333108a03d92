"""Puts events into the rows of an engine: by key, field and value."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import NoneType

import numpy as np

from pushsvc.event.columns import Columns, NumberColumn
from pushsvc.stats.arrays import Flags, Ints
from pushsvc.stats.engine import Engine
from pushsvc.stats.rows import ALL_KEYS, COUNT, RowNumbers, TopicRows
from pushsvc.stats.values.dictionary import NONE


@dataclass(slots=True)
class TopicCounts:
    """The rows of one topic, and counts of its events. ``since`` and ``deleted`` together identify the topic."""

    name: str
    since: int  # ms of its creation
    table: TopicRows
    late_by_window: dict[str, int]  # events that were too old for each window at their turn
    begun: bool = False  # it has had events
    deleted: int = 0  # sequence of the deletion of an earlier topic by this name
    offset: int = 0  # of the last event applied
    late: int = 0  # events that were too old for every window
    reported_late: int = 0  # those of them that are in the topic's metadata
    ahead: int = 0  # events too far ahead of their arrival, which are not counted
    folded: int = 0  # events counted under __other__
    ignored: int = 0  # numbers and values in fields beyond the limit
    gaps: int = 0  # offsets without an event: windows of the last events do not count them


class RowUpdater:
    """Puts the events of topics into the rows of an engine. It keeps all values of the fields ``valued``."""

    def __init__(self, engine: Engine, valued: Sequence[str]) -> None:
        self._engine = engine
        self._sink = engine.sink
        self._dictionary = engine.dictionary
        self._valued = tuple(valued)

    def apply(
        self, topic: TopicCounts, events: Columns, times: Ints, in_range: Flags | None,
        own: Sequence[Flags] | None = None,
    ) -> None:  # fmt: skip
        """Count the events ``in_range``, and of these only ``own`` [n] of each grouping; None for all."""
        # The others open the totals of their fields all the same, so that these do not depend on when the log is read.
        ids = self._sink.begin_entry(topic.table, topic.offset - topic.gaps, times, in_range)
        fields = self._numbers_of(topic, events)
        values = self._values_of(topic, events, in_range)
        for grouping, names in enumerate(events.keys):
            taken = in_range if own is None else own[grouping] if in_range is None else own[grouping] & in_range
            keys = self._keys(topic, names, grouping, taken)
            if grouping:  # without a key an event counts for the totals, which the first grouping has
                taken = (keys != ALL_KEYS) if taken is None else taken & (keys != ALL_KEYS)
            self._put(topic, times, ids, keys, taken, fields, values)

    def _numbers_of(self, topic: TopicCounts, events: Columns) -> list[tuple[int, NumberColumn]]:
        """Return the fields that have numbers."""
        table, found = topic.table, []
        for name, column in events.fields.items():
            number = self._field(topic, name)
            if number is None:
                topic.ignored += len(column.values)
            else:
                found.append((table.hidden_field(number) if name in self._valued else number, column))
        return found

    def _values_of(self, topic: TopicCounts, events: Columns, in_range: Flags | None) -> list[tuple[int, Ints]]:
        """Return the fields whose values are kept, and the numbers of the values."""
        found: list[tuple[int, Ints]] = []
        for name, column in events.values.items():
            number = self._field(topic, name)
            if number is None:
                topic.ignored += sum(type(value) not in (int, float, NoneType) for value in column.values)
            elif self._dictionary is not None:
                kept = column.values
                if in_range is not None:
                    kept = [value if counts else None for value, counts in zip(kept, in_range.tolist(), strict=True)]
                total = int(topic.table.totals()[number])
                found.append((number, self._dictionary.numbers(total, kept, column.mixed)))
        return found

    def _put(
        self, topic: TopicCounts, times: Ints, ids: Ints, keys: Ints, taken: Flags | None,
        fields: list[tuple[int, NumberColumn]], values: list[tuple[int, Ints]],
    ) -> None:  # fmt: skip
        """Put the events that are ``taken``, None for all, into the rows of one grouping."""
        table, chosen = topic.table, slice(None) if taken is None else np.flatnonzero(taken)
        if not len(keys[chosen]):
            return
        newest = int(times[chosen].max())
        folded = times[chosen][(keys[chosen] > ALL_KEYS) & (keys[chosen] <= table.groupings)]
        if len(folded):
            topic.folded += len(folded)
            table.record_folded(int(folded.max()))
        self._sink.put(ids[chosen], table.rows(COUNT, keys[chosen]), None)
        for number, kept in values:
            there = np.flatnonzero((kept != NONE) if taken is None else (kept != NONE) & taken)
            if len(there):
                rows = self._rows_of(table, number, keys[there], newest)
                self._sink.put_values(ids[there], times[there], rows, kept[there])
        for number, column in fields:
            where, numbers = column.positions, column.values
            if taken is not None:
                places = np.arange(len(taken)) if where is None else where
                where, numbers = places[taken[places]], numbers[taken[places]]
            if len(numbers):
                at = slice(None) if where is None else where
                self._sink.put(ids[at], self._rows_of(table, number, keys[at], newest), numbers)
        table.record_refused(newest)

    def _rows_of(self, table: TopicRows, field: int, keys: Ints, newest: int) -> RowNumbers:
        """Return the rows of a field for keys of events up to the time ``newest`` (ms)."""
        rows = table.rows(field, keys)
        if table.refused and bool((self._engine.rows.key[rows] != keys).any()):
            table.record_rows_folded(newest)
        return rows

    def _field(self, topic: TopicCounts, name: str) -> int | None:
        """Return the number of a field, and open its totals if it is new; None beyond the limit."""
        known = len(topic.table.fields)
        number = topic.table.field(name)
        if len(topic.table.fields) > known:
            self._engine.touch(topic.table.table[number:, ALL_KEYS])
        return number

    def _keys(self, topic: TopicCounts, names: Sequence[str | None], grouping: int, taken: Flags | None) -> Ints:
        """Return the numbers of keys; new keys get one while there is room. ALL_KEYS for those not ``taken``."""
        if taken is not None:
            chosen = np.flatnonzero(taken)
            keys = np.full(len(names), ALL_KEYS)
            keys[chosen] = self._keys(topic, [names[at] for at in chosen.tolist()], grouping, None)
            return keys
        return topic.table.key_numbers(names, grouping)
