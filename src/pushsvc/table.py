"""Tables as CSV (RFC 4180), row by row.

Missing values are empty cells, lists and objects are JSON text. With ``safe``, text that a spreadsheet would run as a
formula begins with an apostrophe: events may come from anybody, and the table is opened on another machine.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import orjson

_EVENT_COLUMNS = ("$offset", "time", "type", "id", "key")
_QUOTED = re.compile('[",\r\n]')
_BLOCK = 64  # rows that are joined at a time
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


T = TypeVar("T")


class TooManyCells(Exception):
    """A table would have more cells than allowed. ``rows`` fit."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__(f"{rows} rows of {columns} columns")
        self.rows = rows
        self.columns = columns


def cell(value: Any, *, safe: bool = False) -> str:
    """Return a value as a cell."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list):
        text = orjson.dumps(value).decode()
    elif not isinstance(value, str):
        return str(value)
    else:
        text = "'" + value if safe and value.startswith(_FORMULA) else value
    return '"' + text.replace('"', '""') + '"' if _QUOTED.search(text) else text


class EventLines:
    """Events of a history, one by one, as lines of a table. ``note`` is called with all of them first: the columns are
    ``$offset,time,type,id,key``, then the fields in the order of their appearance."""

    def __init__(self, *, safe: bool) -> None:
        self.columns = dict.fromkeys(_EVENT_COLUMNS)
        self._safe = safe

    def note(self, event: Mapping[str, Any]) -> None:
        self.columns.update(dict.fromkeys(name for name in event if name != "$topic"))

    def header(self) -> bytes:
        return _line(self.columns, safe=self._safe)

    def line(self, event: Mapping[str, Any]) -> bytes:
        return _line(map(event.get, self.columns), safe=self._safe)


def blocks(rows: list[T]) -> Iterator[list[T]]:
    """Yield rows in blocks, and drop them: a page of them has megabytes."""
    rows.reverse()
    while rows:
        block = rows[: -_BLOCK - 1 : -1]
        del rows[-_BLOCK:]
        yield block


class EventTable:
    """Events of a history: ``$offset,time,type,id,key``, then the fields in the order of their appearance. ``$topic``
    is left out. A table has at most ``most`` cells."""

    def __init__(self, most: int, *, safe: bool = False) -> None:
        self._most = most
        self._safe = safe
        self._columns: dict[str, int] = {name: at for at, name in enumerate(_EVENT_COLUMNS)}
        self._rows: list[tuple[int, bytes]] = []  # the number of columns that were known, and the cells of these

    def add(self, event: Mapping[str, Any]) -> int:
        """Add a row, and return its bytes. Raise TooManyCells; then the table is as before."""
        columns = self._columns
        fresh = [name for name in event if name not in columns and name != "$topic"]
        total = len(columns) + len(fresh)
        if total * (len(self._rows) + 1) > self._most:
            raise TooManyCells(len(self._rows), total)
        columns |= {name: at for at, name in enumerate(fresh, len(columns))}
        cells = [""] * total
        for name, value in event.items():
            if name != "$topic":
                cells[columns[name]] = cell(value, safe=self._safe)
        row = ",".join(cells).encode()
        self._rows.append((total, row))
        return len(row)

    def reverse(self) -> None:
        """Turn the order of the rows around. The columns stay as they are."""
        self._rows.reverse()

    def pieces(self) -> Iterator[bytes]:
        """Yield the table with its header line, some lines at a time, and drop its rows meanwhile."""
        total = len(self._columns)
        yield ",".join([cell(name, safe=self._safe) for name in self._columns]).encode() + b"\n"
        for block in blocks(self._rows):
            yield b"".join([row + b"," * (total - known) + b"\n" for known, row in block])


def frames_to_csv(
    frames: Iterable[Mapping[str, Any]], pause: Callable[[], None], *, safe: bool = False
) -> Iterator[bytes]:
    """Yield the rows (lists or records) of several windows as the lines of one table. ``pause`` is called after each.

    The first columns are ``window`` and ``scope``. The scope says what empty cells mean: ``events`` counts events (no
    field), ``all`` is a field over all keys, ``key`` a field of one key.
    """
    for number, frame in enumerate(frames):
        if not number:
            yield _line(["window", "scope", *frame["columns"]], safe=safe)
        for row in _rows(frame):
            yield _line(row, safe=safe)
            pause()


def _line(row: Iterable[Any], *, safe: bool) -> bytes:
    return ",".join([cell(value, safe=safe) for value in row]).encode() + b"\n"


def _rows(frame: Mapping[str, Any]) -> Iterator[Sequence[Any]]:
    columns = frame["columns"]
    key, field = columns.index("key"), columns.index("field")
    for given in frame["data"]:
        row = list(given.values()) if isinstance(given, Mapping) else given
        yield frame["window"], _scope(row[key], row[field]), *row


def _scope(key: str | None, field: str | None) -> str:
    if field is None:
        return "events"
    return "all" if key is None else "key"
