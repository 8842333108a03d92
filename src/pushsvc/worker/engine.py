"""What the owner of a partition asks of an engine, whether it counts in this process or in several others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from pushsvc.aggregate.row_updates import TopicCounts
from pushsvc.aggregate.statistics_frame import Frame
from pushsvc.broker.log import EventsEntry


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

    def due(self, now: int) -> list[Frame]:
        """Return updates of the windows that changed and whose cadence allows one at ``now`` (ms)."""

    def snapshot(self, name: str, window: str) -> Frame:
        """Return all rows of a window."""

    def save(self) -> list[bytes]:
        """Return the state in parts of any size."""

    def take_spent(self) -> float:
        """Return the CPU seconds that other processes spent since the last call."""
