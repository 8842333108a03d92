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


class Board:
    """The state of a client of a stream of newest events: by key, in the order in which they came."""

    def __init__(self) -> None:
        self.events: dict[str, Mapping[str, Any]] = {}
        self.names: list[str] = []
        self.evicted: int | None = None

    def apply(self, name: str, data: Mapping[str, Any]) -> None:
        self.names.append(name)
        if name == "heartbeat":
            return
        if name == "reset":
            self.events.clear()
            return
        if name == "snapshot":
            self.events.clear()
            self.evicted = data.get("evicted")
        for event in data["events"]:
            self.events.pop(event["key"], None)
            self.events[event["key"]] = event
        for key in data.get("gone", ()):
            self.events.pop(key, None)

    @property
    def offset(self) -> int:
        return max((event["$offset"] for event in self.events.values()), default=0)
