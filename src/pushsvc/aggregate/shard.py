"""A shard of a topic: it reads every entry and counts its own keys.

The keys of each grouping are divided by their CRC-32, which is the same in every process and after every restart. So a
key's rows are in one shard. Events without a key in the first grouping count for the totals alone, which are merged;
they are divided by their places in the entry.

All shards see the times and fields of all events. So their clocks and windows agree, the same events are late for all,
and the same fields get rows as in a single engine.
"""

from collections.abc import Sequence
from functools import partial
from typing import ClassVar
from zlib import crc32

import numpy as np

from pushsvc.aggregate.aggregate import Aggregate
from pushsvc.aggregate.lifetime_record import LifetimeRow
from pushsvc.aggregate.merge import ShardReport, SharedRow
from pushsvc.aggregate.reading import RowsWanted
from pushsvc.aggregate.row_updates import TopicCounts
from pushsvc.aggregate.shard_reading import ShardRows
from pushsvc.aggregate.statistics_frame import encode_ranges
from pushsvc.event.columns import Columns
from pushsvc.pause import Pause, no_pause
from pushsvc.settings import TopicSettings
from pushsvc.stats.arrays import Flags
from pushsvc.stats.cells import CellLedger
from pushsvc.stats.ledger import RowChanges
from pushsvc.stats.rows import OTHER

_ANY_SHARD = -1
_MAX_KNOWN_KEYS = 200_000  # keys whose shards are remembered: a lookup costs a fifth of a CRC


class Shard(Aggregate):
    """Shard ``number`` of a topic. It emits no frames: the topic's owner merges what ``report`` returns."""

    STATE: ClassVar[tuple[str, ...]] = (*Aggregate.STATE, "_number")
    DERIVED: ClassVar[tuple[str, ...]] = (*Aggregate.DERIVED, "_shard_of")

    def __init__(
        self, settings: TopicSettings, time: int, number: int = 0, pause: Pause = no_pause,
        cells: CellLedger | None = None,
    ) -> None:  # fmt: skip
        super().__init__(settings, time, pause=pause, cells=cells)
        self._number = number

    def _derive(self, settings: TopicSettings, pause: Pause) -> None:
        super()._derive(settings, pause)
        self._shard_of = _ShardOfKey(settings.parts)

    def _own(self, events: Columns) -> Sequence[Flags]:
        if len(self._shard_of) > _MAX_KNOWN_KEYS:
            self._shard_of.clear()
        return [self._own_of(names) for names in events.keys]

    def _own_of(self, names: Sequence[str | None]) -> Flags:
        shards = np.fromiter(map(self._shard_of.__getitem__, names), np.int8, len(names))
        keyless = np.flatnonzero(shards == _ANY_SHARD)
        shards[keyless] = keyless % self._settings.parts
        return np.asarray(shards == self._number)

    def share_lifetime(self) -> None:
        """Let corrections of the window ``all`` take out of the shared rows what another shard has counted."""
        self._engine.lifetime.shares = True

    def _own_rows(self, rows: Sequence[LifetimeRow]) -> Sequence[LifetimeRow]:
        shared = (None, OTHER)  # rows that all shards have: they are merged, so one shard has what was counted before
        return [
            row for row in rows if (self._number == 0 if row.key in shared else self._shard_of[row.key] == self._number)
        ]

    def schedule(self) -> list[tuple[bool, int | None]]:
        """Return for each window whether it has changes, and the next ms at which the clock may bring some."""
        changes = self._next_changes()
        return [(bool(len(self._pending(window))), change) for window, change in enumerate(changes)]

    def report(self, name: str, window: int, *, full: bool) -> ShardReport:
        """Return the rows of a window: all, or those that changed since the last report."""
        topic, engine = self.topics[name], self._engine
        shared = topic.table.shared_rows() if topic.begun else np.zeros(0, np.int64)
        changed = engine.changed(window)[shared]
        if not topic.begun:
            changes = self._ledger.no_changes()
        elif full:
            changes = self._ledger.snapshot(window, topic.table)
        else:
            changes = self._ledger.update(window, self._pending(window))
            changed = np.isin(shared, changes.rows)
        rows = zip(shared.tolist(), changed.tolist(), np.isin(shared, changes.gone).tolist(), strict=True)
        partials = engine.partials(window, shared)
        shared_rows = [
            SharedRow((*topic.table.name(row), topic.table.grouping_of(row)), change, left, one)
            for (row, change, left), one in zip(rows, partials, strict=True)
        ]
        report = self._own_report(topic, window, changes, shared_rows)
        if full or len(changes.gone):
            self._ledger.release()
        return report

    def rows(self, name: str, wanted: RowsWanted) -> ShardRows:
        """Return the statistics of the keys that this shard counts, and the totals of what it has counted."""
        reading = self.reading(name)
        keys = reading.keys(wanted.grouping) if wanted.keys is None else wanted.keys
        own = [key for key in keys if self._shard_of[key] == self._number]
        values = [reading.values(*statistic, own, wanted.grouping) for statistic in wanted.statistics]
        totals = [reading.total(field, window) for _, field, window in wanted.statistics]
        return ShardRows(own, np.array(values, np.float64).tobytes(), totals)

    def _own_report(self, topic: TopicCounts, window: int, changes: RowChanges, shared: list[SharedRow]) -> ShardReport:
        """Return a report with the changed rows that no other shard has."""
        own, gone = (self._engine.rows.key[rows] > topic.table.groupings for rows in (changes.rows, changes.gone))
        changes = RowChanges(changes.rows[own], changes.count[own], changes.gone[gone])
        size, (extent,) = len(changes.rows), self._engine.time_ranges(window, [topic.table])
        start, end = extent.start or 0, extent.end or 0
        (data,) = encode_ranges([(0, size)], size, partial(self._encode, window, changes))
        keys = [key for key in topic.table.partial_keys(changes.rows, start) if key is not None]
        ending, full = bool((changes.count == 0).any()), topic.table.is_crowded(start)
        return ShardReport(start, end, b"".join(data)[1:-1], self._gone(changes.gone)[1:-1], keys, ending, shared, full)


class _ShardOfKey(dict[str | None, int]):
    """The number of each key's shard."""

    def __init__(self, shards: int) -> None:
        super().__init__({None: _ANY_SHARD})
        self._shards = shards

    def __missing__(self, key: str | None) -> int:
        found = _ANY_SHARD if key is None else crc32(key.encode("utf-8", "surrogatepass")) % self._shards
        self[key] = found
        return found
