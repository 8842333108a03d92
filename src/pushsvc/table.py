"""Frames and events as pandas tables and as CSV. Only this module imports pandas, so import it only where needed."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import pandas as pd

_EVENT_COLUMNS = ("$offset", "time", "type", "id", "key")


def frame_to_table(frame: Mapping[str, Any]) -> pd.DataFrame:
    """Return the rows of a statistics frame (lists or records) with its columns."""
    rows = frame["data"]
    if rows and isinstance(rows[0], Mapping):
        rows = [list(row.values()) for row in rows]
    return pd.DataFrame(rows, columns=list(frame["columns"]), dtype=object)


def frames_to_table(frames: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return the rows of several windows in one table.

    The first columns are ``window`` and ``scope``. The scope says what empty cells in CSV mean: ``events`` counts
    events (no field), ``all`` is a field over all keys, ``key`` a field of one key.
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
    """Return events of a history: ``$offset,time,type,id,key``, then the fields in the order of their appearance.

    Objects and arrays become JSON text. ``$topic`` is left out.
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
    """Return CSV with a header line: missing values are empty, whole numbers stay whole, lists are JSON text."""
    for name in table.columns:
        if any(isinstance(value, list | bool) for value in table[name]):
            table = table.assign(**{name: [_cell(value) for value in table[name]]})
    return table.to_csv(index=False, lineterminator="\n")
