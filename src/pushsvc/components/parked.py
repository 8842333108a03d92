"""Events of a partition that wait for a retry: one line for each key, so that its events keep their order."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable

from pushsvc.components.messages import Parked

MOST_PARKED, MOST_PARKED_BYTES = 10_000, 32_000_000  # of a group in a partition
Line = tuple[str, str | None, int]
"""Topic and key of events that wait for each other; without a key each waits alone, and the offset tells them apart."""


class ParkedEvents:
    def __init__(self, events: Iterable[Parked] = ()) -> None:
        self._lines: dict[Line, list[Parked]] = {}
        self.count = self.bytes = 0
        for event in events:
            self.put(event)

    @property
    def room(self) -> int:
        """How many events may be parked; 0 if they take too many bytes."""
        return 0 if self.bytes >= MOST_PARKED_BYTES else max(0, MOST_PARKED - self.count)

    def put(self, event: Parked) -> None:
        """Add an event in its place, or replace it."""
        line = self._lines.setdefault(_line_of(event), [])
        for place, other in enumerate(line):
            if other.offset == event.offset:
                line[place] = event
                return
        insort(line, event, key=lambda one: one.offset)
        self.count += 1
        self.bytes += len(event.line)

    def remove(self, event: Parked) -> None:
        line = self._lines[_line_of(event)]
        line.remove(event)
        self.count -= 1
        self.bytes -= len(event.line)
        if not line:
            del self._lines[_line_of(event)]

    def due(self, now: int, most: int) -> list[Parked]:
        """Return the first events of a key whose time has come; empty if there is none."""
        for line in self._lines.values():
            if line[0].due <= now:
                return line[:most]
        return []

    def next_due(self) -> int | None:
        return min((line[0].due for line in self._lines.values()), default=None)

    def held(self) -> dict[str, list[str]]:
        """Return the keys whose events must wait, by topic."""
        found: dict[str, list[str]] = {}
        for topic, key, _ in self._lines:
            if key is not None:
                found.setdefault(topic, []).append(key)
        return found


def field_of(event: Parked) -> str:
    """Return the field under which Redis holds a parked event."""
    return parked_field(event.topic, event.offset)


def parked_field(topic: str, offset: int) -> str:
    return f"{offset} {topic}"


def _line_of(event: Parked) -> Line:
    return event.topic, event.key, event.offset if event.key is None else 0
