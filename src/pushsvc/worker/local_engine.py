"""An engine that counts in the process of the partition's owner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from pushsvc.aggregate.aggregate import Aggregate
from pushsvc.broker.log import EventsEntry
from pushsvc.event.columns import Columns
from pushsvc.settings import TopicSettings
from pushsvc.stats.arrays import Ints
from pushsvc.stats.pause import Pause
from pushsvc.worker import metrics
from pushsvc.worker.engine import EntryFailed
from pushsvc.worker.entry_reader import EntryReader


class LocalEngine(Aggregate):
    """An Aggregate that takes entries as they are in the log: a TopicEngine."""

    DERIVED: ClassVar[tuple[str, ...]] = (*Aggregate.DERIVED, "_readers")

    def _derive(self, settings: TopicSettings, pause: Pause) -> None:
        super()._derive(settings, pause)
        self._readers: dict[str, EntryReader] = {}

    def close(self, name: str) -> None:
        super().close(name)
        self._readers.pop(name, None)

    def end(self) -> None:
        """Hold nothing outside of this object."""

    def take_spent(self) -> float:
        return 0.0

    def apply_entries(self, name: str, entries: Sequence[EventsEntry], *, reported: bool) -> int:
        events = self._read_together(name, entries) if len(entries) > 1 else None
        if events is not None:
            sizes = [entry.last - entry.first + 1 for entry in entries]
            arrivals = np.repeat(np.array([entry.arrival for entry in entries]), sizes)
            self._apply(name, entries[-1].last, arrivals, events, blamed=None)
            applied = len(events)
        else:
            applied = sum(self._apply_one(name, entry) for entry in entries)
        if reported:
            counts = self.topics[name]
            counts.reported_late = counts.late
        return applied

    def _apply_one(self, name: str, entry: EventsEntry) -> int:
        reader = self._reader_of(name)
        events = reader.read(entry.last, entry.data)
        metrics.UNCOUNTABLE.inc(reader.take_unreadable())
        self._apply(name, entry.last, entry.arrival, events, blamed=entry.last)
        return len(events)

    def _apply(self, name: str, offset: int, arrival: int | Ints, events: Columns, *, blamed: int | None) -> None:
        try:
            self.apply(name, offset, arrival, events)
        except Exception as error:
            raise EntryFailed(name, blamed) from error

    def _read_together(self, name: str, entries: Sequence[EventsEntry]) -> Columns | None:
        count = entries[-1].last - entries[0].first + 1
        return self._reader_of(name).read_together([entry.data for entry in entries], count)

    def _reader_of(self, name: str) -> EntryReader:
        reader = self._readers.get(name)
        if reader is None:
            reader = self._readers[name] = EntryReader(name, self._settings)
        return reader
