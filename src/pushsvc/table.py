"""Frames and events as pandas tables, and those as CSV. The only importer of pandas; import it when it is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import pandas as pd

_EVENT_COLUMNS = ("$offset", "time", "type", "id", "key")


def frame_to_table(frame: Mapping[str, Any]) -> pd.DataFrame:
    """Return the rows of a statistics frame (rows or records) with the frame's own columns."""
    rows = frame["data"]
    if rows and isinstance(rows[0], Mapping):
        rows = [list(row.values()) for row in rows]
    return pd.DataFrame(rows, columns=list(frame["columns"]), dtype=object)


def frames_to_table(frames: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return the rows of several windows below each other.

    Columns ``window`` and ``scope`` come first. The scope tells what CSV cannot: ``events`` is a count of events
    (no field), ``all`` a field over all keys, ``key`` a field of one key.
    """
    tables = []
    for frame in frames:
        table = frame_to_table(frame)
        if "key" in table.columns:
            scopes = [_scope(key, field) for key, field in zip(table["key"], table["field"], strict=True)]
        else:
            scopes = []
        table.insert(0, "scope", pd.Series(scopes, dtype=object))
        table.insert(0, "window", frame["window"])
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def _scope(key: str | None, field: str | None) -> str:
    if field is None:
        return "events"
    return "all" if key is None else "key"


def events_to_table(events: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return events as they come from history: ``$offset,time,type,id,key``, then the fields as they first appear.

    Objects and arrays become their JSON text. ``$topic`` is left out.
    """
    fields = dict.fromkeys(name for event in events for name in event if name not in (*_EVENT_COLUMNS, "$topic"))
    columns = [*_EVENT_COLUMNS, *fields]
    rows = [[_cell(event.get(name)) for name in columns] for event in events]
    return pd.DataFrame(rows, columns=columns, dtype=object)


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return orjson.dumps(value).decode() if isinstance(value, dict | list) else value


def table_to_csv(table: pd.DataFrame) -> str:
    """Return CSV with a header line; what is missing is empty, whole numbers stay whole, and lists are JSON text."""
    for name in table.columns:
        if any(isinstance(value, list | bool) for value in table[name]):
            table = table.assign(**{name: [_cell(value) for value in table[name]]})
    return table.to_csv(index=False, lineterminator="\n")
