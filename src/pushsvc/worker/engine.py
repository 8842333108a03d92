"""What the owner of a partition asks of an engine, and the engine that counts in the owner's process.

``shards/pool.py`` has the engine that counts in several others.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol

import numpy as np

from pushsvc.aggregate.aggregate import NONE_FRESH, Aggregate, FreshWindows
from pushsvc.aggregate.reading import Reading, RowsWanted
from pushsvc.aggregate.row_updates import TopicCounts
from pushsvc.aggregate.statistics_frame import Frame
from pushsvc.broker.log import EventsEntry
from pushsvc.event.columns import Columns
from pushsvc.pause import Pause
from pushsvc.settings import TopicSettings
from pushsvc.stats.arrays import Ints
from pushsvc.worker import metrics
from pushsvc.worker.entry_reader import EntryReader


class ShardLost(Exception):
    """A shard's process has ended or does not answer. The engine can be restored from its last checkpoint."""


class EntryFailed(Exception):
    """An engine failed at an entry of ``topic``, the one that ends with ``offset`` (None: one of several).

    The state is of no more use: the entry may be half counted.
    """

    def __init__(self, topic: str, offset: int | None) -> None:
        entry = "one of several entries" if offset is None else f"the entry up to offset {offset}"
        super().__init__(f"{topic}: {entry} cannot be counted")
        self.topic = topic
        self.offset = offset


class TopicEngine(Protocol):
    """The windows of topics that share settings.

    Every method but ``close`` and ``end`` may raise ShardLost or EntryFailed; the engine is then of no more use. A
    method may yield to the event loop, and another greenlet may ``end`` the engine meanwhile.
    """

    @property
    def topics(self) -> Mapping[str, TopicCounts]:
        """Return the open topics by name."""

    def open(self, name: str, since: int) -> TopicCounts:
        """Add a topic that was created at ``since`` (ms)."""

    def close(self, name: str) -> None:
        """Remove a topic."""

    def end(self) -> None:
        """Release what the engine holds outside of this object; may be called again."""

    def watch(self, name: str, window: str, watched: bool) -> None:
        """Choose the cadence of a window: it has subscribers or not."""

    def suspend(self, name: str, window: str) -> None:
        """Return no frames of a window, until ``resume``: nobody reads them."""

    def resume(self, name: str, window: str) -> None:
        """Return frames of a window again. The first one has all rows, and may follow at once."""

    def reach(self, arrival: int) -> int:
        """Return the arrival (ms) up to which entries may be applied together with the next one, of ``arrival``."""

    def apply_entries(self, name: str, entries: Sequence[EventsEntry], *, reported: bool) -> int:
        """Count consecutive entries of a topic; return how many events were handed on.

        Entries without data move the offset alone. ``reported``: their late events are in the topic's metadata.
        """

    def advance(self, now: int) -> None:
        """Note that every entry that arrived up to ``now`` (ms) is applied."""

    def wake_at(self) -> int | None:
        """Return the ms at which ``advance`` and ``due`` may bring frames; None: not before new entries."""

    def due(self, now: int, fresh: FreshWindows = NONE_FRESH) -> list[Frame]:
        """Return updates of the windows that changed and whose cadence allows one at ``now`` (ms), and snapshots of
        such windows that are ``fresh``: resumed, without a frame since."""

    def snapshot(self, name: str, window: str) -> Frame:
        """Return all rows of a window."""

    def read_rows(self, name: str, wanted: RowsWanted) -> Reading:
        """Return statistics of a topic for single questions, until entries are applied or the clock moves. It answers
        what is ``wanted``."""

    def save(self) -> list[bytes]:
        """Return the state in parts of any size."""

    def take_spent(self) -> float:
        """Return the CPU seconds that other processes spent since the last call."""


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
        """Give the cells of the process back."""
        self.release_cells()

    def take_spent(self) -> float:
        return 0.0

    def read_rows(self, name: str, wanted: RowsWanted) -> Reading:
        return self.reading(name)

    def apply_entries(self, name: str, entries: Sequence[EventsEntry], *, reported: bool) -> int:
        events = self._read_together(name, entries) if len(entries) > 1 else None
        if events is not None:
            sizes = [entry.left for entry in entries]
            self.topics[name].gaps += sum(entry.count for entry in entries) - len(events)
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
        self.topics[name].gaps += entry.count - len(events)
        self._apply(name, entry.last, entry.arrival, events, blamed=entry.last)
        return len(events)

    def _apply(self, name: str, offset: int, arrival: int | Ints, events: Columns, *, blamed: int | None) -> None:
        try:
            self.apply(name, offset, arrival, events)
        except Exception as error:
            raise EntryFailed(name, blamed) from error

    def _read_together(self, name: str, entries: Sequence[EventsEntry]) -> Columns | None:
        parts = [entry.data for entry in entries if entry.data or not (entry.correction or entry.offsets is not None)]
        return self._reader_of(name).read_together(parts, sum(entry.left for entry in entries)) if parts else None

    def _reader_of(self, name: str) -> EntryReader:
        reader = self._readers.get(name)
        if reader is None:
            reader = self._readers[name] = EntryReader(name, self._settings)
        return reader
