"""Rows by name: which place in the arrays belongs to (topic, key, field)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pushsvc.stats.arrays import Counts, Index, Ints

OTHER = "__other__"
"""The key that takes what finds no room; producers may not use it."""

CLOSED = -1
ALL_KEYS = 0
"""Number of a topic's first key: all keys together. ``__other__`` of each grouping comes next."""

NEVER = int(np.iinfo(np.int64).min)

COUNT = 0
"""Number of a topic's first field: None, which counts events."""

EVENTS, NUMBERS, VALUES, HIDDEN = range(4)
"""Kinds of rows: of a key's events, of a field's numbers, of a field's values, and the numbers among those values."""

_FIRST_CAPACITY = 16
_BIRTHS = 2**31
_NAME_BYTES = 200
"""What the text of a key and its place in the index take, about."""

_Scalar = TypeVar("_Scalar", bound=np.generic)
Numbers = NDArray[np.int32]

ColumnPair = tuple[Index, Index]
"""Columns of rows and of their totals, CLOSED where a row has none or is its own total."""


class Rows:
    """All rows of an engine. A row is a number from 0; numbers of closed rows are used again.

    ``total[row]`` is the row of all keys together for the same topic and field (its own number for such a row, CLOSED
    for a free number). ``column[row]`` numbers the rows that bear numbers, apart from those that only count.
    ``born[row]`` is another whenever the number is another's. While ``full`` no key gets rows.

    A field whose values are kept, text and all, has rows of VALUES, which count them. The numbers among them have
    HIDDEN rows of their own, which no reader sees: ``partner[row]`` leads from the one to the other (CLOSED for none).
    """

    STATE = (
        "topics", "size", "columns", "full", "topic", "key", "field", "total", "column", "born", "_births", "kind",
        "partner", "_free_rows", "_free_columns", "_free_topics",
    )  # fmt: skip

    def __init__(self) -> None:
        self.topics: list[TopicRows | None] = []
        self.size = 0
        self.columns = 0
        self.full = False
        self.topic = self._new()
        self.key = self._new()
        self.field = self._new()
        self.total = self._new()
        self.column = self._new()
        self.born = self._new()
        self._births = 0
        self.kind = self._new()
        self.partner = self._new()
        self._free_rows: list[int] = []
        self._free_columns: list[int] = []
        self._free_topics: list[int] = []

    @staticmethod
    def _new() -> Numbers:
        return np.full(_FIRST_CAPACITY, CLOSED, np.int32)

    def __len__(self) -> int:
        """Number of rows that the arrays must have room for."""
        return self.size

    @property
    def bytes(self) -> int:
        """Size of the arrays and names, nearly."""
        arrays = (self.topic, self.key, self.field, self.total, self.column, self.born, self.kind, self.partner)
        return sum(array.nbytes for array in arrays) + sum(topic.bytes for topic in self.topics if topic is not None)

    def add_topic(
        self, max_keys: int, max_fields: int, groupings: Sequence[str] = ("key",), values: Sequence[str] = ()
    ) -> TopicRows:
        """Begin a topic of at most so many keys (and ``__other__``) and fields; of ``values`` the values are kept."""
        number = self._free_topics.pop() if self._free_topics else len(self.topics)
        if number == len(self.topics):
            self.topics.append(None)
        self.topics[number] = topic = TopicRows(self, number, max_keys, max_fields, groupings, values)
        return topic

    def owner(self, row: int) -> TopicRows:
        """Return the topic of an open row."""
        owner: TopicRows | None = self.topics[self.topic[row]]
        if owner is None:
            raise LookupError(f"row {row} is nobody's")
        return owner

    def of_topic(self, topic: TopicRows) -> Ints:
        """Return the rows of a topic."""
        return np.flatnonzero(self.topic[: self.size] == topic.number)

    def drop_topic(self, topic: TopicRows) -> None:
        """Free all rows of a topic; nothing may be in them."""
        self.free(self.of_topic(topic))
        self.topics[topic.number] = None
        self._free_topics.append(topic.number)

    def open(self, topic: int, keys: Ints, field: int, total: int, kind: int) -> Numbers:
        """Make rows of one field; ``total`` CLOSED makes a row that is its own total."""
        rows = np.array([self._next_row() for _ in range(len(keys))], np.int32)
        self.topic[rows], self.key[rows], self.field[rows] = topic, keys, field
        self._births = (self._births + 1) % _BIRTHS
        self.born[rows] = self._births
        self.total[rows] = rows if total == CLOSED else total
        self.kind[rows] = kind
        if kind in (NUMBERS, HIDDEN):
            self.column[rows] = [self._next_column() for _ in range(len(keys))]
        return rows

    def bearers(self, rows: Ints, held: Counts) -> Ints:
        """Return the rows that bear the figures of rows: their own, or those of the numbers among values, if there are
        any ``held`` [R]; CLOSED for none."""
        valued = self.kind[rows] == VALUES
        bearers = np.where(valued, self.partner[rows], rows)
        bearers[valued & (held[bearers] == 0)] = CLOSED
        return bearers.astype(np.int64)

    def places(self, rows: Index) -> ColumnPair:
        """Return the columns of rows and those of their totals."""
        totals = self.total[rows]
        return self.column[rows], np.where(totals == rows, CLOSED, self.column[totals])

    def columns_of(self, rows: Index) -> tuple[Ints, Ints]:
        """Return the columns of the rows that bear numbers, in order, and which of the rows those are."""
        columns = self.column[rows]
        order = np.argsort(columns)
        order = order[np.searchsorted(columns[order], 0) :]
        return columns[order].astype(np.int64), order

    def free(self, rows: Ints) -> None:
        """Let the numbers of rows be used again."""
        partners = self.partner[rows]
        self.partner[partners[partners != CLOSED]] = CLOSED
        columns = self.column[rows]
        self._free_columns += columns[columns != CLOSED].tolist()
        self._free_rows += rows.tolist()
        for array in (self.topic, self.key, self.field, self.total, self.column, self.kind, self.partner):
            array[rows] = CLOSED

    def close(self, rows: Ints) -> None:
        """Free rows of keys; a key without rows is forgotten. Totals are never closed."""
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
            self.total, self.column, self.born = _wide(self.total), _wide(self.column), _wide(self.born)
            self.kind, self.partner = _wide(self.kind), _wide(self.partner)
        self.size += 1
        return self.size - 1

    def _next_column(self) -> int:
        if self._free_columns:
            return self._free_columns.pop()
        self.columns += 1
        return self.columns - 1


class TopicRows:
    """The rows of one topic: ``table[field, key]`` is a row or CLOSED. Keys and fields have numbers of their own.

    Several groupings of the same events have keys apart. Only the first adds to the totals, or they would count twice.
    """

    STATE = (
        "number", "fields", "groupings", "keys", "indexes", "table", "_grouping", "_rows", "_max_keys", "_max_fields",
        "_free_keys", "_folded", "_since_fold", "_by", "_names", "_kinds", "_valued", "_numbers",
    )  # fmt: skip

    def __init__(
        self,
        rows: Rows,
        number: int,
        max_keys: int,
        max_fields: int,
        groupings: Sequence[str],
        values: Sequence[str],
    ) -> None:
        self.number = number
        self.fields: dict[str | None, int] = {}
        self.groupings = len(groupings)
        self.keys: list[str | None] = [None, *[OTHER] * self.groupings]
        self.indexes: list[dict[str | None, int]] = [{None: ALL_KEYS} for _ in groupings]
        size = max(_FIRST_CAPACITY, 2 * len(self.keys))
        self.table: Numbers = np.full((0, size), CLOSED, np.int32)
        self._grouping: Numbers = np.zeros(size, np.int32)
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
        self.field(None)

    @property
    def bytes(self) -> int:
        """Size of the arrays and names, nearly."""
        return self.table.nbytes + self._since_fold.nbytes + self._grouping.nbytes + _NAME_BYTES * len(self.keys)

    def room(self) -> int:
        """Number of keys that still get rows of their own."""
        return 0 if self._rows.full else self._max_keys - (sum(map(len, self.indexes)) - self.groupings)

    def key(self, name: str | None, grouping: int = 0) -> int:
        """Return the number of a key, a new one if there is room, else that of ``__other__``."""
        number = self.indexes[grouping].get(name)
        if number is not None:
            return number
        if self.room() <= 0 or name == OTHER:
            return 1 + grouping
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

    def fold(self, time: int) -> None:
        """Note that an event of that ms was counted under ``__other__``."""
        self._folded = max(self._folded, time)

    def partial(self, rows: Ints, first: int) -> list[str | None]:
        """Return the keys among ``rows`` that got their place while events from the ms ``first`` on may be
        counted under ``__other__``: what their rows say may not be all."""
        if self._folded < first:
            return []
        keys = np.unique(self._rows.key[rows])
        return [self.keys[key] for key in keys[(self._since_fold[keys] >= first) & (keys > self.groupings)].tolist()]

    def field(self, name: str | None) -> int | None:
        """Return the number of a field, a new one with its total; None beyond the cap."""
        number = self.fields.get(name)
        if number is None:
            if len(self.fields) > self._max_fields:
                return None
            kind = VALUES if name in self._valued else NUMBERS if self.fields else EVENTS
            number = self.fields[name] = self._open(name, kind)
        return number

    def numbers(self, field: int) -> int:
        """Return the field of the numbers among the values of a field."""
        number = self._numbers.get(field)
        if number is None:
            number = self._numbers[field] = self._open(self._names[field], HIDDEN)
            self._pair(field, number, np.array([ALL_KEYS]))
        return number

    def _open(self, name: str | None, kind: int) -> int:
        """Return the number of a new field, with its total."""
        number = len(self._names)
        self._names.append(name)
        self._kinds.append(kind)
        self.table = np.vstack([self.table, np.full((1, self.table.shape[1]), CLOSED, np.int32)])
        self.table[number, ALL_KEYS] = self._rows.open(self.number, np.array([ALL_KEYS]), number, CLOSED, kind)[0]
        return number

    def _pair(self, values: int, numbers: int, keys: Ints) -> None:
        """Let the rows of a field's values and of the numbers among them know each other."""
        rows, hidden = self.table[values, keys], self.table[numbers, keys]
        self._rows.partner[rows], self._rows.partner[hidden] = hidden, rows

    def totals(self) -> Numbers:
        """Return the rows of all keys together, one for each field."""
        totals: Numbers = self.table[:, ALL_KEYS]
        return totals

    def shared(self) -> Ints:
        """Return the rows of all keys together and of ``__other__``, that are there."""
        rows = self.table[:, : self.groupings + 1].T.astype(np.int64).ravel()
        found: Ints = rows[rows != CLOSED]
        return found

    def rows(self, field: int, keys: Ints) -> Numbers:
        """Return the rows of a field for keys, made where there are none; those of values before those of numbers."""
        rows: Numbers = self.table[field, keys]
        if rows.min(initial=0) == CLOSED:
            missing = np.unique(keys[rows == CLOSED])
            for first in (True, False):
                chosen = missing[(self._grouping[missing] == 0) == first]
                total = int(self.table[field, ALL_KEYS]) if first else CLOSED
                kind = self._kinds[field]
                self.table[field, chosen] = self._rows.open(self.number, chosen, field, total, kind)
            if self._kinds[field] == HIDDEN:
                self._pair(self.fields[self._names[field]], field, missing)
            rows = self.table[field, keys]
        return rows

    def name(self, row: int) -> tuple[str | None, str | None]:
        """Return the key and the field of a row."""
        return self.keys[self._rows.key[row]], self._names[self._rows.field[row]]

    def by(self, row: int) -> str | None:
        """Return the grouping that a row's key is of; None for all keys together."""
        key = self._rows.key[row]
        return None if key == ALL_KEYS else self._by[self._grouping[key]]

    def forget(self, rows: Ints) -> None:
        """Take rows out of the table, and with a key's last row the key."""
        keys = self._rows.key[rows]
        self.table[self._rows.field[rows], keys] = CLOSED
        keys = np.unique(keys)
        for number in keys[(self.table[:, keys] == CLOSED).all(axis=0)].tolist():
            if number > self.groupings:
                del self.indexes[int(self._grouping[number])][self.keys[number]]
                self._free_keys.append(number)


def _wide(array: NDArray[_Scalar]) -> NDArray[_Scalar]:
    """Return a copy with twice the room in its last axis, the new part CLOSED."""
    return np.concatenate([array, np.full(array.shape, CLOSED, array.dtype)], axis=-1)
