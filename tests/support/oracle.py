"""Statistics computed from plain lists of events, independently of the engine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

Name = tuple[str | None, str | None]
Statistics = dict[Name, tuple[Any, Any, Any, Any]]


def instant(text: str) -> int:
    """Return milliseconds since 1970."""
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def expected(events: Iterable[Mapping[str, Any]], frame: Mapping[str, Any]) -> Statistics:
    """Return (key, field) -> (count, sum, min, max) of the events up to the frame's offset in the frame's interval."""
    start, end = instant(frame["from"]), instant(frame["to"])
    inside = [e for e in events if e["$offset"] <= frame["offset"] and start <= instant(e["time"]) < end]
    rows: dict[Name, list[Any]] = {}
    for event in inside:
        for key in {event.get("key"), None}:
            rows.setdefault((key, None), []).append(None)
            for name in ("rating", "price"):
                if isinstance(event.get(name), int | float):
                    rows.setdefault((key, name), []).append(event[name])
    return {
        row: (len(v), sum(v), min(v), max(v)) if v[0] is not None else (len(v), None, None, None)
        for row, v in rows.items()
    }


def summarize(rows: Mapping[Name, Any]) -> Statistics:
    """Return the same from a client's rows, without empty rows."""
    return {name: (row[2], row[4], row[6], row[7]) for name, row in rows.items() if row[2]}
