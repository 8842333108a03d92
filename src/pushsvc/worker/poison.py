"""Entries that no engine can count.

An engine that failed at an entry is rebuilt from the log without it. If the engine failed at several entries that were
applied as one, the rebuilt engine applies them one by one to find the entry. So one entry ends the statistics of no
other entry and of no other topic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from pushsvc.broker.log import EventsEntry
from pushsvc.worker import metrics
from pushsvc.worker.engine import EntryFailed


@dataclass(slots=True)
class PoisonEntries:
    """The poison entries of a partition. While ``isolating``, entries are applied one by one."""

    isolating: bool = False
    _known: set[tuple[str, int]] = field(default_factory=set)

    def learn(self, error: EntryFailed) -> None:
        """Take note of an engine's failure."""
        self.isolating = error.offset is None
        if error.offset is not None:
            self._known.add((error.topic, error.offset))

    def emptied(self, topic: str, entries: Sequence[EventsEntry]) -> Sequence[EventsEntry]:
        """Return consecutive entries of a topic, the poison ones without data."""
        poison = {entry.last for entry in entries if (topic, entry.last) in self._known} if self._known else None
        if not poison:
            return entries
        metrics.UNCOUNTABLE.inc(len(poison))
        return [replace(entry, data=b"") if entry.last in poison else entry for entry in entries]
