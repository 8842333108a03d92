"""A part of a split topic: it reads every entry, and counts the keys that are its own.

Each grouping's keys are divided by their CRC-32, which is the same in every process and every life. So a key's rows
are in one part whatever it is grouped by. What has no key in the first grouping is in the totals alone, and these are
merged: such events are dealt out by their places in the entry.

All parts see the times and the fields of all events. So their windows and their clocks go together, the same events are
late for all, and the fields that find room are those that would in one engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import ClassVar, Self
from zlib import crc32

import numpy as np

from pushsvc.aggregate.aggregate import Aggregate
from pushsvc.aggregate.merge import Share, SharedRow
from pushsvc.aggregate.row_updates import Topic
from pushsvc.aggregate.statistics_frame import divide
from pushsvc.event.columns import Columns
from pushsvc.settings import TopicSettings
from pushsvc.stats.arrays import Flags
from pushsvc.stats.ledger import RowChanges
from pushsvc.stats.panes.pane_windows import PaneWindows
from pushsvc.stats.pause import Pause, no_pause

_NOBODY = -1
_MOST_KNOWN = 200_000
"""Keys whose parts are remembered: to look one up costs a fifth of a CRC."""


class TopicPart(Aggregate):
    """Part ``number`` of a topic. Nobody is told by it: others make frames of what ``share`` returns."""

    STATE: ClassVar[tuple[str, ...]] = (*Aggregate.STATE, "_number")
    DERIVED: ClassVar[tuple[str, ...]] = (*Aggregate.DERIVED, "_owners")

    def __init__(self, settings: TopicSettings, time: int, number: int = 0, pause: Pause = no_pause) -> None:
        super().__init__(settings, time, pause=pause)
        self._number = number
        self._owners = _Owners(settings.parts)

    @classmethod
    def restore(cls, settings: TopicSettings, data: bytes, pause: Pause = no_pause) -> Self:
        restored = super().restore(settings, data, pause)
        restored._owners = _Owners(settings.parts)
        return restored

    def _own(self, events: Columns) -> Sequence[Flags]:
        if len(self._owners) > _MOST_KNOWN:
            self._owners.clear()
        return [self._own_of(names) for names in events.keys]

    def _own_of(self, names: Sequence[str | None]) -> Flags:
        owners = np.fromiter(map(self._owners.__getitem__, names), np.int8, len(names))
        nobodys = np.flatnonzero(owners == _NOBODY)
        owners[nobodys] = nobodys % self._settings.parts
        return np.asarray(owners == self._number)

    def agenda(self) -> list[tuple[bool, int | None]]:
        """Return for each window whether it has something to say, and the next ms when the clock may bring it some."""
        windows = range(len(self._settings.windows))
        edges = self._rolling.next_changes(self._paces.ready_at) if self._wall else [None for _ in windows]
        return [(bool(len(self._ledger.pending(window))), edges[window]) for window in windows]

    def share(self, name: str, window: int, *, whole: bool) -> Share:
        """Return what is known here of a window: all of it, or what changed since."""
        topic, rolling = self.topics[name], self._rolling
        if not isinstance(rolling, PaneWindows):
            raise TypeError("only windows of panes have shares")
        shared = topic.table.shared() if topic.begun else np.zeros(0, np.int64)
        changed = rolling.changed(window)[shared]
        if not topic.begun:
            report = self._ledger.nothing()
        elif whole:
            report = self._ledger.snapshot(window, topic.table)
        else:
            report = self._ledger.update(window, self._ledger.pending(window))
            changed = np.isin(shared, report.rows)
        rows = zip(shared.tolist(), changed.tolist(), np.isin(shared, report.gone).tolist(), strict=True)
        partials = rolling.partials(window, shared)
        told = [
            SharedRow((*topic.table.name(row), topic.table.by(row)), change, left, one)
            for (row, change, left), one in zip(rows, partials, strict=True)
        ]
        found = self._own_share(topic, window, report, told)
        if whole or len(report.gone):
            self._ledger.release()
        return found

    def _own_share(self, topic: Topic, window: int, report: RowChanges, shared: list[SharedRow]) -> Share:
        """Return a share with the rows of a report that no other part has."""
        own, gone = (self._rolling.rows.key[rows] > topic.table.groupings for rows in (report.rows, report.gone))
        report = RowChanges(report.rows[own], report.count[own], report.gone[gone])
        size, (extent,) = len(report.rows), self._rolling.extents(window, [topic.table])
        start, end = extent.start or 0, extent.end or 0
        (data,) = divide([(0, size)], size, partial(self._encode, window, report))
        keys = [key for key in topic.table.partial(report.rows, start) if key is not None]
        ending = bool((report.count == 0).any())
        return Share(start, end, b"".join(data)[1:-1], self._gone(report.gone)[1:-1], keys, ending, shared)


class _Owners(dict[str | None, int]):
    """Which part each key belongs to, of so many."""

    def __init__(self, parts: int) -> None:
        super().__init__({None: _NOBODY})
        self._parts = parts

    def __missing__(self, key: str | None) -> int:
        found = _NOBODY if key is None else crc32(key.encode("utf-8", "surrogatepass")) % self._parts
        self[key] = found
        return found
