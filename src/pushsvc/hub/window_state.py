"""The state that a client of a statistics log has, kept once per process, and selections of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import orjson

from pushsvc.broker.keys import Log
from pushsvc.broker.log import FrameKind, StatisticsEntry
from pushsvc.frame import RowId, row_id_getter
from pushsvc.settings import TopicSettings

_GONE = 1_000
"""Rows that left are remembered up to this number, or as many as there are rows."""

_COUNTED = 10_000
"""Updates that are remembered to be counted."""


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
    """Follows one statistics log entry by entry: the rows, and since when each is as it is.

    So what changed behind any position can be said at once, for a stream that was too slow, that resumes, or that
    wants less often to hear. ``sequence`` and ``offset`` are those of the last entry.
    """

    def __init__(self, log: Log) -> None:
        self.log = log
        self.exists = False
        self.sequence = self.offset = 0
        self._rows: dict[RowId, list[Any]] = {}
        self._changed: dict[RowId, int] = {}  # in the order of the last change, as _gone is
        self._gone: dict[RowId, int] = {}
        self._horizon = 0  # what changed before it is not known
        self._updates: deque[int] = deque(maxlen=_COUNTED)
        self._partial: set[str] = set()
        self._head: dict[str, Any] = {}

    def apply(self, entry: StatisticsEntry) -> None:
        frame = self._head = entry.frame
        if entry.kind is FrameKind.UPDATE:
            self._updates.append(entry.sequence)
            self._put(frame, entry.sequence)
        elif entry.kind is FrameKind.SNAPSHOT or not self.exists:
            self._rows.clear()
            self._changed.clear()
            self._gone.clear()
            self._partial.clear()
            self._horizon = entry.sequence
            self._put(frame, entry.sequence)
        else:  # a snapshot for who comes later says what is known here
            self._partial = set(frame.get("partial", ()))
        self.exists = True
        self.sequence, self.offset = entry.sequence, entry.source

    def _put(self, frame: Mapping[str, Any], sequence: int) -> None:
        row_id = row_id_getter(frame["columns"])
        for row in frame["data"]:
            place = row_id(row)
            self._rows[place] = row
            self._changed.pop(place, None)
            self._changed[place] = sequence
            self._gone.pop(place, None)
            self._partial.discard(row[0])
        self._partial.update(frame.get("partial", ()))
        for listed in frame.get("gone", ()):
            place = tuple(listed)
            self._rows.pop(place, None)
            self._changed.pop(place, None)
            self._gone.pop(place, None)
            self._gone[place] = sequence
        while len(self._gone) > max(_GONE, len(self._rows)):
            self._horizon = self._gone.pop(next(iter(self._gone)))

    def snapshot(self) -> dict[str, Any]:
        """Return the state as a snapshot frame; zero rows are left out, but totals."""
        if not self.exists:
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

    def since(self, sequence: int) -> dict[str, Any] | None:
        """Return what changed behind a sequence as one update; None where a snapshot is smaller or the only way."""
        if not self.exists or sequence < self._horizon:
            return None
        places = list(takewhile(lambda place: self._changed[place] > sequence, reversed(self._changed)))
        gone = list(takewhile(lambda place: self._gone[place] > sequence, reversed(self._gone)))
        if len(places) + len(gone) > len(self._rows):
            return None
        frame = {name: value for name, value in self._head.items() if name != "partial"}
        partial = self._partial.intersection(place[0] for place in places if place[0] is not None)
        if partial:
            frame["partial"] = sorted(partial)
        return {
            **frame,
            "data": [self._rows[place] for place in reversed(places)],
            "gone": [*map(list, reversed(gone))],
        }

    def updates_since(self, sequence: int) -> int:
        """Return how many updates came behind a sequence (those that are remembered)."""
        return sum(1 for _ in takewhile(lambda update: update > sequence, reversed(self._updates)))


def encode_frame(frame: Mapping[str, Any]) -> bytes:
    return orjson.dumps(frame)
