"""The newest event of each key, computed from plain lists of events, independently of the program."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

DELETES = ("delete", "deleted")


def fold(
    events: Iterable[Mapping[str, Any]], most: int = 10_000, deletes: Collection[str] = DELETES
) -> tuple[list[Mapping[str, Any]], int]:
    """Return the newest event of each key in the order of the events, and how many keys went for lack of room."""
    newest: dict[str, Mapping[str, Any]] = {}
    evicted = 0
    for event in events:
        key = event.get("key")
        if key is None:
            continue
        newest.pop(key, None)
        if event["type"] not in deletes:
            newest[key] = event
        if len(newest) > most:
            del newest[next(iter(newest))]
            evicted += 1
    return list(newest.values()), evicted
