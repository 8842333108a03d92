"""Makes a Parquet file of exported events. pyarrow is imported at the first use: it is an extra."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from importlib import import_module
from itertools import islice
from tempfile import TemporaryFile
from typing import Any, BinaryIO

from pushsvc.errors import StartupError

_FIRST = ("$offset", "time", "type", "id", "key")  # columns, as in CSV
_LEFT_OUT = "$topic"
_ROWS = 20_000  # of a row group, that is in memory at a time
_MOST_COLUMNS = 1_000
_INTEGERS = range(-(2**63), 2**63)

Advance = Callable[[int], None]  # takes the number of events that were written


def check() -> None:
    """Raise StartupError if pyarrow is missing."""
    _pyarrow()


def write(pieces: Iterable[bytes], output: BinaryIO, advance: Advance = lambda _: None) -> None:
    """Write events, the pieces of an NDJSON document, as a Parquet file.

    A column has one type, which only the last event settles. So the events are kept in a temporary file first. Raise
    StartupError for too many columns.
    """
    pa, parquet = _pyarrow()
    with TemporaryFile() as kept:
        kinds = _keep(pieces, kept)
        columns = {name: _type(pa, name, found) for name, found in kinds.items()}
        schema = pa.schema(list(columns.items()))
        kept.seek(0)
        events = map(json.loads, kept)
        with parquet.ParquetWriter(output, schema, compression="zstd") as writer:
            while some := list(islice(events, _ROWS)):
                arrays = [pa.array(list(_values(some, name, kinds[name])), columns[name]) for name in columns]
                writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
                advance(len(some))


def _pyarrow() -> tuple[Any, Any]:
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError:
        raise StartupError("a Parquet file needs pyarrow: pip install 'pushsvc[parquet]'") from None


def _keep(pieces: Iterable[bytes], kept: BinaryIO) -> dict[str, set[str]]:
    """Write the events to a file, one a line; return the columns with the kinds of their values."""
    kinds: dict[str, set[str]] = {name: set() for name in _FIRST}
    for line in _lines(pieces):
        kept.write(line + b"\n")
        for name, value in json.loads(line).items():
            if name == _LEFT_OUT:
                continue
            kinds.setdefault(name, set()).add(_kind(value))
            if len(kinds) > _MOST_COLUMNS:
                raise StartupError(f"these events have more than {_MOST_COLUMNS} columns: use --format ndjson")
    return kinds


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer" if value in _INTEGERS else "number"
    return "number" if isinstance(value, float) else "text" if isinstance(value, str) else "nested"


def _type(pa: Any, name: str, kinds: set[str]) -> Any:
    """Return the type of a column: that of all its values, or text with the JSON of those that are no text."""
    kinds.discard("null")
    if name == "time":
        return pa.timestamp("ms", tz="UTC")
    if kinds == {"boolean"}:
        return pa.bool_()
    if kinds == {"integer"}:
        return pa.int64()
    return pa.float64() if kinds and kinds <= {"integer", "number"} else pa.string()


def _values(events: Iterable[dict[str, Any]], name: str, kinds: set[str]) -> Iterator[Any]:
    if name == "time":
        yield from (datetime.fromisoformat(event["time"]) for event in events)
    elif kinds <= {"boolean"} or kinds <= {"integer", "number"}:
        yield from (_number(event.get(name), kinds) for event in events)
    else:
        yield from (_text(event.get(name)) for event in events)


def _number(value: Any, kinds: set[str]) -> Any:
    return float(value) if "number" in kinds and value is not None else value


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)
