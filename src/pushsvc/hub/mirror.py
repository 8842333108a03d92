"""The state that a client of a statistics log has, kept once per process, and selections of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from pushsvc.broker import Log, StatisticsEntry
from pushsvc.settings import TopicSettings

RowId = tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows of a frame, in which shape. Empty names stand for the totals row (key) and the count row (field).

    Equal selections share what is computed for them, so this is hashable.
    """

    keys: frozenset[str | None] | None = None
    fields: frozenset[str | None] | None = None
    records: bool = False
    top: int | None = None
    by: str = "count"

    @property
    def everything(self) -> bool:
        return self.keys is None and self.fields is None and not self.records and self.top is None

    def covers(self, row: list[Any]) -> bool:
        """Tell whether a row (or a ``[key, field]`` of ``gone``) is selected."""
        return (self.keys is None or row[0] in self.keys) and (self.fields is None or row[1] in self.fields)

    def apply(self, frame: Mapping[str, Any]) -> dict[str, Any]:
        """Return the frame with the selected rows alone, in the selected shape."""
        columns = frame["columns"]
        rows = [row for row in frame["data"] if self.covers(row)]
        if self.top is not None and rows:
            rows = self._top(rows, columns.index(self.by))
        selected = {**frame, "data": [dict(zip(columns, row, strict=True)) for row in rows] if self.records else rows}
        if frame.get("gone"):
            selected["gone"] = [row for row in frame["gone"] if self.covers(row)]
        if frame.get("partial"):
            selected["partial"] = [key for key in frame["partial"] if self.keys is None or key in self.keys]
        return selected

    def _top(self, rows: list[list[Any]], column: int) -> list[list[Any]]:
        """Return all rows of the keys with the greatest values, in that order, behind the totals."""
        best: dict[str, float] = {}
        for row in rows:
            if row[0] is not None and row[column] is not None:
                best[row[0]] = max(best.get(row[0], row[column]), row[column])
        kept = {key: rank for rank, key in enumerate(sorted(best, key=lambda key: (-best[key], key))[: self.top])}
        return sorted((row for row in rows if row[0] is None or row[0] in kept), key=lambda row: kept.get(row[0], -1))


class Mirror:
    """Follows one statistics log entry by entry.

    ``recent`` holds the entries from the log's last snapshot on; the log's own rule (a snapshot follows when the
    updates outweigh it) bounds their size.
    """

    def __init__(self, log: Log) -> None:
        self.log = log
        self.recent: list[StatisticsEntry] = []
        self._rows: dict[RowId, list[Any]] = {}
        self._partial: set[str] = set()
        self._head: dict[str, Any] = {}
        self._size = 0

    @property
    def exists(self) -> bool:
        return bool(self.recent)

    @property
    def offset(self) -> int:
        """Return the offset of the events log that the state is exact for."""
        return self.recent[-1].source if self.recent else 0

    def apply(self, entry: StatisticsEntry) -> None:
        if entry.kind == "u":
            self.recent.append(entry)
        else:
            self.recent = [entry]
            self._rows.clear()
            self._partial.clear()
            self._size = len(entry.data)
        frame = entry.frame
        self._head = frame
        by = frame["columns"].index("by") if "by" in frame["columns"] else None
        for row in frame["data"]:
            self._rows[(row[0], row[1]) if by is None else (row[0], row[1], row[by])] = row
            self._partial.discard(row[0])
        self._partial.update(frame.get("partial", ()))
        for place in frame.get("gone", ()):
            self._rows.pop(tuple(place), None)

    def snapshot(self) -> dict[str, Any]:
        """Return the state as a snapshot frame; zero rows are left out, but totals."""
        if not self.recent:
            return {
                "topic": self.log.topic, "window": self.log.window, "exists": False, "from": None, "to": None,
                "offset": 0, "since": None, "columns": list(TopicSettings().columns), "data": [],
            }  # fmt: skip
        frame = {name: value for name, value in self._head.items() if name not in ("gone", "partial")}
        if self._partial:
            frame["partial"] = sorted(self._partial)
        columns = frame["columns"]
        count = columns.index("count")
        frame["data"] = [row for row in self._rows.values() if row[count] or row[0] is None]
        return frame

    def missed_since(self, sequence: int) -> list[StatisticsEntry] | None:
        """Return the updates behind a sequence, or None where a snapshot is smaller or the only way."""
        if not self.recent or sequence < self.recent[0].sequence:
            return None
        missed = [entry for entry in self.recent if entry.sequence > sequence]
        if sum(len(entry.data) for entry in missed) > self._size:
            return None
        return missed


def encode_frame(frame: Mapping[str, Any]) -> bytes:
    return orjson.dumps(frame)
