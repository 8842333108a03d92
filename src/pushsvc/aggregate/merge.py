"""Merges the reports that the shards of a topic make of a window into one frame.

The keys of each grouping are divided among the shards, so the rows of a key are in one report, as JSON. The rows of all
keys together and of ``__other__`` are in every report, as partials that are merged.
"""

from collections import defaultdict
from collections.abc import Sequence

import msgspec
import numpy as np
import orjson

from pushsvc.aggregate.statistics_frame import JsonRows, counts_to_json
from pushsvc.stats.moments import MOMENTS
from pushsvc.stats.panes.partials import RowPartial, merge_partials
from pushsvc.stats.window import Window

Name = tuple[str | None, str | None, str | None]  # of a row: key (None: all), field (None: events) and grouping


class SharedRow(msgspec.Struct, frozen=True, array_like=True):
    """A row that every shard has. ``changed``: since the last report. ``gone``: it was zero in the last report."""

    name: Name
    changed: bool
    gone: bool
    partial: RowPartial


class ShardReport(msgspec.Struct, frozen=True, array_like=True):
    """One shard's report of a window from the ms ``start`` to ``end``."""

    start: int
    end: int
    rows: bytes  # a JSON array of its own rows, without the brackets
    gone: bytes  # in the same form
    partial: list[str]  # keys whose rows may lack events
    ending: bool  # a row is zero
    shared: list[SharedRow]  # all of them
    full: bool = False  # keys are under ``__other__`` because the process has no room for more


class Merger:
    """Merges reports. A shared row keeps its numbers, bit for bit, until a shard reports that it changed."""

    def __init__(self, windows: Sequence[Window], percents: Sequence[int], several: bool) -> None:
        self._windows = windows
        self._percents = tuple(percents)
        self._several = several
        self._sent: list[dict[Name, bytes]] = [{} for _ in windows]

    def merge(self, window: int, reports: Sequence[ShardReport], *, full: bool) -> tuple[list[bytes], bool] | None:
        """Return ``parts`` and ``ending`` of a frame; None for no changes. Either all reports are ``full`` or none."""
        rows, gone, ending = self._merge_shared(window, reports, full)
        rows += [report.rows for report in reports if report.rows]
        gone += [report.gone for report in reports if report.gone]
        if not (full or rows or gone):
            return None
        partial = sorted({key for report in reports for key in report.partial})
        tail = [b',"partial":', orjson.dumps(partial)] if partial else []
        if any(report.full for report in reports):
            tail.append(b',"full":true')
        parts = [b'"data":[', b",".join(rows), b'],"gone":[', b",".join(gone), b"]", *tail]
        return parts, ending or any(report.ending for report in reports)

    def _merge_shared(
        self, window: int, reports: Sequence[ShardReport], full: bool
    ) -> tuple[list[bytes], list[bytes], bool]:
        rows, gone, ending = [], [], False
        by_name: dict[Name, list[SharedRow]] = defaultdict(list)
        for row in (row for report in reports for row in report.shared):
            by_name[row.name].append(row)
        for name, held in by_name.items():
            key, field, by = name
            count = sum(row.partial.count for row in held)
            changed = any(row.changed for row in held)
            if changed or name not in self._sent[window]:
                self._sent[window][name] = self._row(window, name, count, held)
            if (count > 0 or key is None) if full else changed:
                rows.append(self._sent[window][name])
                ending |= key is not None and not count
            elif not count and not full and any(row.gone for row in held):
                gone.append(orjson.dumps([key, field, by] if self._several else [key, field]))
        return rows, gone, ending

    def _row(self, window: int, name: Name, count: int, held: Sequence[SharedRow]) -> bytes:
        key, field, by = name
        numbers = np.empty((MOMENTS + len(self._percents), 0))
        if field is not None:
            numbers = merge_partials([row.partial for row in held], self._percents)[:, None]
        start = counts_to_json(np.array([count]), self._windows[window].length / 1_000 or None)
        end = [orjson.dumps(by)] if self._several else None
        head = orjson.dumps([key, field])[:-1]
        return JsonRows([head], start, numbers, np.array([field is not None]), end).join()
