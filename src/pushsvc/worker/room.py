"""The bounds of an aggregator process: the cells of its statistics, and the topics that it counts on demand."""

from collections.abc import Mapping
from itertools import islice

from pushsvc.event import Limits
from pushsvc.stats.cells import CellLedger
from pushsvc.worker import metrics
from pushsvc.worker.partition import Partition


class Room:
    """The cells of all engines of a process, and of each partition, and the small topics that it counts on demand.

    ``partitions`` are those of the process.
    """

    def __init__(self, limits: Limits, partitions: Mapping[int, Partition]) -> None:
        self.cells = CellLedger(limits.statistics_cells)
        self._partition_cells = limits.partition_cells
        self._cells_of: dict[int, CellLedger] = {}
        self._most_topics = limits.opened_topics
        self._partitions = partitions
        self._refused = self._limited = 0

    def cells_of(self, partition: int) -> CellLedger:
        """Return the ledger of a partition. What it holds counts in ``cells``."""
        if partition not in self._cells_of:
            self._cells_of[partition] = CellLedger(min(self._partition_cells, self.cells.limit), self.cells)
        return self._cells_of[partition]

    @property
    def topics_left(self) -> int:
        """How many more topics may be opened on demand."""
        return max(0, self._most_topics - sum(len(one.by_demand) for one in self._partitions.values()))

    def review(self) -> None:
        """Let topics be opened that wait and are still wanted, as far as there is room, and set the metrics."""
        left = self.topics_left
        for partition in self._partitions.values():
            partition.by_demand.intersection_update(partition.topics)  # opening one may have failed
            partition.waiting = {name for name in partition.waiting if partition.demand.wants(name)}
            chosen = list(islice(partition.waiting, left))
            partition.unread.update(chosen)
            left -= len(chosen)
        metrics.WAITING.set(sum(len(one.waiting) for one in self._partitions.values()))
        metrics.CELLS.set(self.cells.held)
        metrics.MOST_CELLS.set(self.cells.limit)
        metrics.CROWDED.inc(self.cells.refused - self._refused)
        self._refused = self.cells.refused
        metrics.KEPT.set(self.cells.kept)
        metrics.LIMITED.inc(self.cells.limited - self._limited)
        self._limited = self.cells.limited
