"""Rows by name: which place in the arrays belongs to (key, field)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

OTHER = "__other__"
"""The key that takes what finds no room; producers may not use it."""

CLOSED = -1
_FIRST_CAPACITY = 16

Ints = NDArray[np.int64]


class KeyRows(dict[str | None, int]):
    """The rows of one key by field; field None counts its events."""

    __slots__ = ("key",)

    def __init__(self, key: str | None) -> None:
        super().__init__()
        self.key = key


class Rows:
    """A table of at most ``max_keys`` keys (and ``__other__``) and the first ``max_fields`` fields.

    A row is a number from 0; numbers of closed rows are used again. ``total[row]`` is the row of all keys together
    for the same field (its own number for such a row, CLOSED for a free number). ``column[row]`` numbers the rows
    that bear values, apart from those that only count.
    """

    def __init__(self, max_keys: int, max_fields: int) -> None:
        self.keys: list[str | None] = []
        self.fields: list[str | None] = []
        self.total: Ints = np.full(_FIRST_CAPACITY, CLOSED, np.int64)
        self.column: Ints = np.full(_FIRST_CAPACITY, CLOSED, np.int64)
        self.columns = 0
        self._max_keys = max_keys
        self._max_fields = max_fields
        self._free_rows: list[int] = []
        self._free_columns: list[int] = []
        self.totals = KeyRows(None)
        self._by_key: dict[str, KeyRows] = {}
        self.other = KeyRows(OTHER)

    def __len__(self) -> int:
        """Number of rows that the arrays must have room for."""
        return len(self.keys)

    def room(self) -> int:
        """Number of keys that still get rows of their own."""
        return self._max_keys - len(self._by_key)

    def of(self, key: str | None) -> KeyRows:
        """Return the rows of ``key``, of all keys for None, or those of ``__other__`` when there is no room."""
        if key is None:
            return self.totals
        rows = self._by_key.get(key)
        if rows is None:
            if self.room() <= 0:
                return self.other
            rows = self._by_key[key] = KeyRows(key)
        return rows

    def open_count(self, rows: KeyRows) -> int:
        """Make and return the row that counts the events of ``rows``. That of all keys is row 0, made first."""
        return self._open(rows, None, None if rows is self.totals else self.totals[None])

    def open(self, rows: KeyRows, field: str) -> int | None:
        """Make and return the row of ``field`` among ``rows``; None for a field beyond the cap."""
        total = self.totals.get(field)
        if total is None:
            if len(self.totals) > self._max_fields:
                return None
            total = self._open(self.totals, field, None)
        return total if rows is self.totals else self._open(rows, field, total)

    def close(self, dead: Iterable[int]) -> None:
        """Free rows of keys; a key without rows is forgotten. Totals are never closed."""
        for row in dead:
            key = self.keys[row]
            rows = self.other if key == OTHER else self._by_key[str(key)]
            del rows[self.fields[row]]
            if not rows and rows is not self.other:
                del self._by_key[str(key)]
            if self.column[row] != CLOSED:
                self._free_columns.append(int(self.column[row]))
            self.total[row] = self.column[row] = CLOSED
            self._free_rows.append(row)

    def _open(self, rows: KeyRows, field: str | None, total: int | None) -> int:
        row = self._next_row()
        self.keys[row], self.fields[row] = rows.key, field
        self.total[row] = row if total is None else total
        self.column[row] = CLOSED if field is None else self._next_column()
        rows[field] = row
        return row

    def _next_row(self) -> int:
        if self._free_rows:
            return self._free_rows.pop()
        row = len(self.keys)
        self.keys.append(None)
        self.fields.append(None)
        if row == len(self.total):
            more = np.full(row, CLOSED, np.int64)
            self.total, self.column = np.concatenate([self.total, more]), np.concatenate([self.column, more])
        return row

    def _next_column(self) -> int:
        if self._free_columns:
            return self._free_columns.pop()
        self.columns += 1
        return self.columns - 1
