"""Row numbers: the place in the arrays of each (topic, key, field)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pushsvc.stats.arrays import Counts, Index, Ints
from pushsvc.stats.cells import CellAccount, CellLedger
from pushsvc.stats.parts import bytes_of

OTHER = "__other__"  # the key that counts events of keys without room of their own; producers may not use it
CLOSED = -1
ALL_KEYS = 0  # a topic's first key: all keys together; next come the ``__other__`` keys, one for each grouping
COUNT = 0  # number of a topic's first field: None, which counts events
EVENTS, NUMBERS, VALUES, HIDDEN = range(4)  # kinds of rows: of events, of numbers, of values, of numbers among values
NEVER = int(np.iinfo(np.int64).min)
_ALWAYS = int(np.iinfo(np.int64).max)

_FIRST_CAPACITY = 16
_GENERATIONS = 2**31
_NAME_BYTES = 200  # approximate size of a key: its text and its place in the index

_Scalar = TypeVar("_Scalar", bound=np.generic)
RowNumbers = NDArray[np.int32]

ColumnPair = tuple[Index, Index]  # columns of rows and of their totals, CLOSED where a row has none or is its own total


class Rows:
    """All rows of an engine. A row is a number from 0; numbers of closed rows are reused.

    ``total[row]`` is the row of all keys together for the same topic and field: the row itself for a total, CLOSED for
    a free number. ``column[row]`` numbers the rows that bear numbers; CLOSED for rows that only count.
    ``generation[row]`` changes when a number is reused. While ``full`` no key gets rows.

    A field whose values of any type are kept has rows of VALUES, which count them. The numbers among them have HIDDEN
    rows, which no reader sees. ``partner[row]`` leads from a row of either kind to the other, CLOSED for none.
    """

    STATE = (
        "topics", "size", "columns", "full", "topic", "key", "field", "total", "column", "generation", "_generations",
        "kind", "partner", "_free_rows", "_free_columns", "_free_topics",
    )  # fmt: skip
    DERIVED = ("cells",)

    def __init__(self, cells: CellAccount | None = None) -> None:
        self.cells = cells or CellAccount(CellLedger(), 1)
        self.topics: list[TopicRows | None] = []
        self.size = 0
        self.columns = 0
        self.full = False
        self.topic = self._new()
        self.key = self._new()
        self.field = self._new()
        self.total = self._new()
        self.column = self._new()
        self.generation = self._new()
        self._generations = 0
        self.kind = self._new()
        self.partner = self._new()
        self._free_rows: list[int] = []
        self._free_columns: list[int] = []
        self._free_topics: list[int] = []

    @staticmethod
    def _new() -> RowNumbers:
        return np.full(_FIRST_CAPACITY, CLOSED, np.int32)

    @property
    def bytes(self) -> int:
        arrays = (self.topic, self.key, self.field, self.total, self.column, self.generation, self.kind, self.partner)
        return bytes_of(arrays, self.topics)

    def add_topic(
        self, max_keys: int, max_fields: int, groupings: Sequence[str] = ("key",), values: Sequence[str] = ()
    ) -> TopicRows:
        """Add a topic of at most ``max_keys`` keys, beside ``__other__``, and fields; keep all values of ``values``."""
        number = self._free_topics.pop() if self._free_topics else len(self.topics)
        if number == len(self.topics):
            self.topics.append(None)
        self.topics[number] = topic = TopicRows(self, number, max_keys, max_fields, groupings, values)
        return topic

    def owner(self, row: int) -> TopicRows:
        """Return the topic of an open row."""
        owner: TopicRows | None = self.topics[self.topic[row]]
        if owner is None:
            raise LookupError(f"row {row} belongs to no topic")
        return owner

    def of_topic(self, topic: TopicRows) -> Ints:
        return np.flatnonzero(self.topic[: self.size] == topic.number)

    def drop_topic(self, topic: TopicRows) -> None:
        """Free all rows of a topic; they must be empty."""
        self.free(self.of_topic(topic))
        self.cells.pledge(-topic.pledged)
        self.topics[topic.number] = None
        self._free_topics.append(topic.number)

    def open(self, topic: int, keys: Ints, field: int, total: int, kind: int) -> RowNumbers:
        """Open rows of one field; with ``total`` CLOSED each row is its own total."""
        self.cells.draw(len(keys))
        rows = np.array([self._next_row() for _ in range(len(keys))], np.int32)
        self.topic[rows], self.key[rows], self.field[rows] = topic, keys, field
        self._generations = (self._generations + 1) % _GENERATIONS
        self.generation[rows] = self._generations
        self.total[rows] = rows if total == CLOSED else total
        self.kind[rows] = kind
        if kind in (NUMBERS, HIDDEN):
            self.column[rows] = [self._next_column() for _ in range(len(keys))]
        return rows

    def numeric_rows(self, rows: Ints, counts: Counts) -> Ints:
        """Return the rows that bear the numbers of rows [n]. For a row of VALUES that is its partner; CLOSED if the
        partner has no events by ``counts`` [R]."""
        valued = self.kind[rows] == VALUES
        numeric = np.where(valued, self.partner[rows], rows)
        numeric[valued & (counts[numeric] == 0)] = CLOSED
        return numeric.astype(np.int64)

    def column_pairs(self, rows: Index) -> ColumnPair:
        """Return the columns of rows and those of their totals."""
        totals = self.total[rows]
        return self.column[rows], np.where(totals == rows, CLOSED, self.column[totals])

    def columns_of(self, rows: Index) -> tuple[Ints, Ints]:
        """Return the columns, ascending, of those rows that bear numbers, and the places of these rows."""
        columns = self.column[rows]
        order = np.argsort(columns)
        order = order[np.searchsorted(columns[order], 0) :]
        return columns[order].astype(np.int64), order

    @property
    def open_count(self) -> int:
        """Number of open rows."""
        return self.size - len(self._free_rows)

    def free(self, rows: Ints) -> None:
        self.cells.give_back(len(rows))
        partners = self.partner[rows]
        self.partner[partners[partners != CLOSED]] = CLOSED
        columns = self.column[rows]
        self._free_columns += columns[columns != CLOSED].tolist()
        self._free_rows += rows.tolist()
        for array in (self.topic, self.key, self.field, self.total, self.column, self.kind, self.partner):
            array[rows] = CLOSED

    def close(self, rows: Ints) -> None:
        """Free rows of keys, and keys without rows. Totals are never closed."""
        for topic in np.unique(self.topic[rows]).tolist():
            owner = self.topics[topic]
            if owner is not None:
                owner.forget(rows[self.topic[rows] == topic])
        self.free(rows)

    def _next_row(self) -> int:
        if self._free_rows:
            return self._free_rows.pop()
        if self.size == len(self.topic):
            self.topic, self.key, self.field = _wide(self.topic), _wide(self.key), _wide(self.field)
            self.total, self.column, self.generation = _wide(self.total), _wide(self.column), _wide(self.generation)
            self.kind, self.partner = _wide(self.kind), _wide(self.partner)
        self.size += 1
        return self.size - 1

    def _next_column(self) -> int:
        if self._free_columns:
            return self._free_columns.pop()
        self.columns += 1
        return self.columns - 1


class TopicRows:
    """The rows of one topic: ``table[field, key]`` is a row or CLOSED. Keys and fields are numbers. Each grouping has
    its own keys. Only the first grouping adds to the totals, or events would count twice there."""

    STATE = (
        "number", "fields", "groupings", "keys", "indexes", "table", "_grouping", "_rows", "_max_keys", "_max_fields",
        "_free_keys", "_folded", "_since_fold", "_by", "_names", "_kinds", "_valued", "_numbers", "held", "_crowded",
        "_rows_folded", "refused",
    )  # fmt: skip

    def __init__(
        self, rows: Rows, number: int, max_keys: int, max_fields: int, groupings: Sequence[str], values: Sequence[str]
    ) -> None:
        self.number = number
        self.fields: dict[str | None, int] = {}
        self.groupings = len(groupings)
        self.keys: list[str | None] = [None, *[OTHER] * self.groupings]
        self.indexes: list[dict[str | None, int]] = [{None: ALL_KEYS} for _ in groupings]
        size = max(_FIRST_CAPACITY, 2 * len(self.keys))
        self.table: RowNumbers = np.full((0, size), CLOSED, np.int32)
        self._grouping: RowNumbers = np.zeros(size, np.int32)
        self._grouping[1 : len(self.keys)] = np.arange(self.groupings)
        self._rows = rows
        self._max_keys = max_keys
        self._max_fields = max_fields
        self._free_keys: list[int] = []
        self._folded = NEVER
        self._since_fold: Ints = np.full(size, NEVER)
        self._by = tuple(groupings)
        self._names: list[str | None] = []
        self._kinds: list[int] = []
        self._valued = tuple(values)
        self._numbers: dict[int, int] = {}
        self.held = 0  # open rows
        self._crowded = NEVER
        self._rows_folded = NEVER
        self.refused = False  # the bound of cells kept the present entry from opening rows
        self.field(None)

    @property
    def bytes(self) -> int:
        return bytes_of(self.table, self._since_fold, self._grouping) + _NAME_BYTES * len(self.keys)

    @property
    def pledged(self) -> int:
        """Number of rows that ``__other__`` may need: one of each field and grouping."""
        return self.groupings * len(self._names)

    def room(self) -> int:
        """Number of keys that still get rows of their own."""
        return min(self._keys_left(), self._rows.cells.room(self.held) // len(self._names))

    def _keys_left(self) -> int:
        return 0 if self._rows.full else self._max_keys - (sum(map(len, self.indexes)) - self.groupings)

    def key_numbers(self, names: Sequence[str | None], grouping: int = 0) -> Ints:
        """Return the numbers of the keys [n] of an entry's events. A new key gets a number if there is room, else it
        has that of ``__other__``. The rows of the numbers that were returned before must be open."""
        index, self.refused = self.indexes[grouping], False
        try:
            return np.fromiter(map(index.__getitem__, names), np.int64, len(names))
        except KeyError:
            left, refused = self.room(), 0
        numbers = []
        for name in names:
            number = index.get(name)
            if number is None:
                if left and name != OTHER:
                    number = self._add_key(name, grouping)
                    left -= 1
                else:
                    number = 1 + grouping
                    refused += name != OTHER
            numbers.append(number)
        if refused and self._keys_left() > 0:  # it is the cells that are short
            self._refuse(refused)
        return np.array(numbers, np.int64)

    def _add_key(self, name: str | None, grouping: int) -> int:
        if self._free_keys:
            number = self._free_keys.pop()
            self.keys[number] = name
        else:
            number = len(self.keys)
            self.keys.append(name)
            if number == self.table.shape[1]:
                self.table = _wide(self.table)
                self._grouping = np.concatenate([self._grouping, np.zeros(number, np.int32)])
                self._since_fold = np.concatenate([self._since_fold, np.full(number, NEVER)])
        self.indexes[grouping][name] = number
        self._grouping[number] = grouping
        self._since_fold[number] = self._folded
        return number

    def record_folded(self, time: int) -> None:
        """Record that an event of that time (ms) was counted under ``__other__``."""
        self._folded = max(self._folded, time)

    def mark_partial(self, keys: Ints) -> None:
        """Record of keys that any of their events may be under ``__other__``."""
        if len(keys):
            self._since_fold[keys] = self._folded = _ALWAYS

    def _refuse(self, count: int) -> None:
        self.refused = True
        self._rows.cells.refuse(count)

    def record_refused(self, time: int) -> None:
        """If there was no room for rows since ``key_numbers``, record that it was for events up to ``time`` (ms)."""
        if self.refused:
            self._crowded = max(self._crowded, time)

    def record_rows_folded(self, time: int) -> None:
        """Record that numbers of a key with rows, of an event of that time (ms), were counted under ``__other__``."""
        self._rows_folded = max(self._rows_folded, time)

    def is_crowded(self, first: int) -> bool:
        """Return whether events with times from ``first`` (ms) on may be under ``__other__`` because of that bound."""
        return self._crowded >= first

    def partial_keys(self, rows: Ints, first: int) -> list[str | None]:
        """Return the keys of ``rows`` that may lack events with times from ``first`` (ms) on. Such a key got its rows
        after some of those events had been counted under ``__other__``."""
        if max(self._folded, self._rows_folded) < first:
            return []
        keys = np.unique(self._rows.key[rows])
        return [self.keys[key] for key in keys[(self._since_fold[keys] >= first) & (keys > self.groupings)].tolist()]

    def field(self, name: str | None) -> int | None:
        """Return the number of a field: a new one, with its total, if there is room, else None."""
        number = self.fields.get(name)
        if number is None:
            if len(self.fields) > self._max_fields:
                return None
            if self.fields and not self._rows.cells.has_room_for_field():
                self._rows.cells.refuse()
                return None
            kind = VALUES if name in self._valued else NUMBERS if self.fields else EVENTS
            number = self.fields[name] = self._open(name, kind)
        return number

    def hidden_field(self, field: int) -> int:
        """Return the number of the hidden field of the numbers among a field's values."""
        number = self._numbers.get(field)
        if number is None:
            number = self._numbers[field] = self._open(self._names[field], HIDDEN)
            self._pair(field, number, np.array([ALL_KEYS]))
        return number

    def _open(self, name: str | None, kind: int) -> int:
        """Add a field with its total; return its number."""
        number = len(self._names)
        self._names.append(name)
        self._kinds.append(kind)
        self.table = np.vstack([self.table, np.full((1, self.table.shape[1]), CLOSED, np.int32)])
        self.table[number, ALL_KEYS] = self._rows.open(self.number, np.array([ALL_KEYS]), number, CLOSED, kind)[0]
        self.held += 1
        self._rows.cells.pledge(self.groupings)
        return number

    def _pair(self, values: int, numbers: int, keys: Ints) -> None:
        """Make the rows of a field's values and those of the numbers among them partners."""
        rows, hidden = self.table[values, keys], self.table[numbers, keys]
        self._rows.partner[rows], self._rows.partner[hidden] = hidden, rows

    def totals(self) -> RowNumbers:
        """Return the totals, one for each field."""
        return np.asarray(self.table[:, ALL_KEYS])

    def shared_rows(self) -> Ints:
        """Return the open rows of all keys together and of ``__other__``."""
        rows = self.table[:, : self.groupings + 1].T.astype(np.int64).ravel()
        return np.asarray(rows[rows != CLOSED])

    def is_shared(self, row: int) -> bool:
        """Return whether a row is one of all keys together or of ``__other__``."""
        return bool(self._rows.key[row] <= self.groupings)

    def rows(self, field: int, keys: Ints) -> RowNumbers:
        """Return the rows of a field for keys; open missing ones. Open rows of values before their numbers' rows.

        Where there is no room for another row, the row is that of ``__other__``.
        """
        rows: RowNumbers = self.table[field, keys]
        if rows.min(initial=0) == CLOSED:
            self._open_missing(field, np.unique(keys[rows == CLOSED]))
            rows = self.table[field, keys]
            if rows.min(initial=0) == CLOSED:
                places = rows == CLOSED
                others = 1 + self._grouping[keys[places]]
                self._open_missing(field, np.unique(others[self.table[field, others] == CLOSED]))
                rows[places] = self.table[field, others]
        return rows

    def _open_missing(self, field: int, missing: Ints) -> None:
        """Open the rows of a field for keys, as far as there is room."""
        missing = self._with_room(field, missing)
        kind = self._kinds[field]
        for first in (True, False):
            chosen = missing[(self._grouping[missing] == 0) == first]
            total = int(self.table[field, ALL_KEYS]) if first else CLOSED
            self.table[field, chosen] = self._rows.open(self.number, chosen, field, total, kind)
        self.held += len(missing)
        if kind == HIDDEN:
            self._pair(self.fields[self._names[field]], field, missing)
        if self._rows_folded != NEVER:  # events of these rows may be under ``__other__``, though their keys had rows
            self._since_fold[missing] = np.maximum(self._since_fold[missing], self._rows_folded)

    def _with_room(self, field: int, missing: Ints) -> Ints:
        """Return the keys that get a row of a field. Every key has a row that counts its events, and every row of
        values one of its numbers."""
        kind = self._kinds[field]
        if kind == EVENTS:
            return missing
        if kind == HIDDEN:
            return np.asarray(missing[self.table[self.fields[self._names[field]], missing] != CLOSED])
        own = missing > self.groupings
        refused = int(np.count_nonzero(own)) - self._rows.cells.room(self.held)
        if refused <= 0:
            return missing
        self._refuse(refused)
        return np.asarray(
            missing[: len(missing) - refused]
        )  # the keys with the greatest numbers; those of ``__other__`` are first

    def name(self, row: int) -> tuple[str | None, str | None]:
        """Return the key and the field of a row."""
        return self.keys[self._rows.key[row]], self._names[self._rows.field[row]]

    def grouping_of(self, row: int) -> str | None:
        """Return the grouping of a row's key; None for all keys together."""
        key = self._rows.key[row]
        return None if key == ALL_KEYS else self._by[self._grouping[key]]

    def forget(self, rows: Ints) -> None:
        """Remove rows from the table, and keys that have no row left."""
        self.held -= len(rows)
        keys = self._rows.key[rows]
        self.table[self._rows.field[rows], keys] = CLOSED
        keys = np.unique(keys)
        for number in keys[(self.table[:, keys] == CLOSED).all(axis=0)].tolist():
            if number > self.groupings:
                del self.indexes[int(self._grouping[number])][self.keys[number]]
                self._free_keys.append(number)


def _wide(array: NDArray[_Scalar]) -> NDArray[_Scalar]:
    """Return a copy whose last axis is twice as long, the new half CLOSED."""
    return np.concatenate([array, np.full(array.shape, CLOSED, array.dtype)], axis=-1)
