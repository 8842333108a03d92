"""How the frames of a statistics stream change a table of rows."""

from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from operator import itemgetter
from typing import Any

import orjson

RowId = tuple[str | None, ...]  # key and field; in a topic with several groupings also the grouping (column ``by``)
Row = list[Any]


def row_id_getter(columns: Sequence[str]) -> Callable[[Row], RowId]:
    """Return a function from a row with these ``columns`` to its RowId."""
    return itemgetter(0, 1, columns.index("by")) if "by" in columns else itemgetter(0, 1)


def row_text(row: Row) -> bytes:
    """Return a row as JSON that is kept. The slice copies it: the bytes that orjson returns occupy kilobytes."""
    return orjson.dumps([row])[1:-1]


def parse_rows(texts: Iterable[bytes]) -> list[Row]:
    """Return the rows of their texts."""
    rows: list[Row] = orjson.loads(b"[%b]" % b",".join(texts))
    return rows


def apply_frame(rows: MutableMapping[RowId, Row], event: str, frame: Mapping[str, Any]) -> None:
    """Change ``rows`` as a ``snapshot``, ``update`` or ``reset`` message demands; other messages change nothing."""
    if event in ("snapshot", "reset"):
        rows.clear()
    if event in ("snapshot", "update"):
        row_id = row_id_getter(frame["columns"])
        rows.update((row_id(row), row) for row in frame["data"])
        for gone in frame.get("gone", ()):
            rows.pop(tuple(gone), None)
