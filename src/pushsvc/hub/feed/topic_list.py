"""The topics that exist, kept while somebody needs them: only partitions that changed are read again."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from heapq import merge
from time import monotonic
from typing import NamedTuple

from gevent.lock import RLock

from pushsvc.broker.broker import Broker
from pushsvc.topic import PARTITIONS

_KEPT = 60.0  # seconds after the last use


class PartitionTopics(NamedTuple):
    """The topics of a partition: the time of their creation (ms) by name, and their names in order. Never changes."""

    mark: Hashable
    created: Mapping[str, int]
    names: Sequence[str]


class TopicList:
    """Reads the topics of partitions, and those of unchanged partitions from memory."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._read: dict[int, PartitionTopics] = {}
        self._reading = RLock()
        self._used_at = 0.0

    def read(self, partitions: Sequence[int] = range(PARTITIONS)) -> list[PartitionTopics]:
        """Return the topics of each partition as they are now; raise what the broker raises."""
        with self._reading:
            self._used_at = monotonic()
            # Before the topics: what changes between the two changes the next mark too.
            marks = self._broker.topic_marks(partitions)
            for partition, mark in zip(partitions, marks, strict=True):
                known = self._read.get(partition)
                if known is None or known.mark != mark:
                    created = self._broker.topics_of(partition)
                    self._read[partition] = PartitionTopics(mark, created, sorted(created))
            return [self._read[partition] for partition in partitions]

    def forget_unused(self) -> None:
        """Release the memory if nobody has read for a while."""
        if self._read and monotonic() - self._used_at > _KEPT:
            self._read = {}


def changes(before: Sequence[PartitionTopics], after: Sequence[PartitionTopics]) -> tuple[list[str], list[str]]:
    """Return the names of the topics that were added and removed, in order; one that was created again is in both.

    Compares only partitions that were read again.
    """
    differing = [(old.created, new.created) for old, new in zip(before, after, strict=True) if old is not new]
    added = [name for old, new in differing for name, _ in new.items() - old.items()]
    removed = [name for old, new in differing for name, _ in old.items() - new.items()]
    return sorted(added), sorted(removed)


def in_order(topics: Sequence[PartitionTopics]) -> Iterator[str]:
    """Yield all names in order, without making a list of them."""
    return merge(*(partition.names for partition in topics))
