"""A window as its statistics log stores it, read row by row: an answer of a million rows never exists as objects.

A frame of a large topic has 25 MB. One call of a parser would stop the event loop for half a second, and its rows as
Python objects take ten times their size. So the text of the last snapshot is kept as it is and decoded in slices, and
only the rows of later updates are kept by their ids.
"""

from collections.abc import Iterator
from typing import Any

import orjson

from pushsvc.broker.keys import Log
from pushsvc.broker.log import FrameKind, StatisticsEntry
from pushsvc.frame import Row, RowId, parse_rows, row_id_getter, row_text
from pushsvc.frame_text import ROWS_A_SLICE, FrameText
from pushsvc.hub.window_state import Selection, WindowState
from pushsvc.pause import Pause


class StoredWindow:
    """The rows that the entries of a statistics log leave, in the order of a ``WindowState``.

    ``sequence`` is that of the last entry; ``exists`` is false without one.
    """

    def __init__(self, log: Log) -> None:
        self.log = log
        self.exists = False
        self.sequence = 0
        self._base: FrameText | None = None
        # Rows of the updates after the base, as JSON, and None for removed ones. Rows in ``_added_again`` are not in
        # the place that they had in the base.
        self._later: dict[RowId, bytes | None] = {}
        self._added_again: set[RowId] = set()
        self._partial: set[str] = set()
        self._head: dict[str, Any] = {}

    def apply(self, entry: StatisticsEntry, pause: Pause) -> None:
        frame = FrameText(entry.data, pause)
        self._head = frame.head
        partial = frame.head.get("partial", ())
        if entry.kind is FrameKind.UPDATE:
            self._update(frame, pause)
            self._partial.update(partial)
        else:
            if entry.kind is FrameKind.SNAPSHOT or not self.exists:
                self._base = frame
                self._later.clear()
                self._added_again.clear()
            self._partial = set(partial)
        self.exists = True
        self.sequence = entry.sequence

    def _update(self, frame: FrameText, pause: Pause) -> None:
        later = self._later
        id_of = row_id_getter(frame.head["columns"])
        for rows in frame.rows(pause):
            for row in rows:
                row_id = id_of(row)
                self._partial.discard(row[0])
                if later.get(row_id, b"") is None:
                    del later[row_id]
                    self._added_again.add(row_id)
                later[row_id] = row_text(row)
        for listed in frame.gone(pause):
            later |= dict.fromkeys(map(tuple, listed))

    def snapshot(self) -> dict[str, Any]:
        """Return a snapshot frame whose ``data`` is empty."""
        if not self.exists:
            return WindowState(self.log).head()
        frame = {name: value for name, value in self._head.items() if name not in ("gone", "partial")}
        if self._partial:
            frame["partial"] = sorted(self._partial)
        return frame

    def rows(self, selection: Selection, pause: Pause) -> Iterator[list[Row]]:
        """Yield the selected rows in slices, without those that count zero, but with the totals. Call it once."""
        if not self.exists:
            return
        columns = self._head["columns"]
        count = columns.index("count")
        found = (
            [row for row in rows if (row[count] or row[0] is None) and selection.covers(row)]
            for rows in self._all_rows(pause)
        )
        yield from found if selection.top is None else _top(found, selection.top, columns.index(selection.by), pause)

    def _all_rows(self, pause: Pause) -> Iterator[list[Row]]:
        later = self._later
        id_of = row_id_getter(self._head["columns"])
        for rows in self._base.rows(pause) if self._base is not None else ():
            if not later:
                yield rows
                continue
            current = []
            for row in rows:
                row_id = id_of(row)
                if row_id not in later:
                    current.append(row)
                elif row_id not in self._added_again:
                    changed = later.pop(row_id)
                    if changed is not None:
                        current.append(orjson.loads(changed))
            yield current
        added = [row for row in later.values() if row is not None]
        for at in range(0, len(added), ROWS_A_SLICE):
            pause()
            yield parse_rows(added[at : at + ROWS_A_SLICE])


def _top(slices: Iterator[list[Row]], top: int, column: int, pause: Pause) -> Iterator[list[Row]]:
    """Yield the totals, then all rows of the keys with the greatest values, in that order."""
    best: dict[str, float] = {}
    rows_of: dict[str | None, list[bytes]] = {}
    for rows in slices:
        for row in rows:
            key, value = row[0], row[column]
            rows_of.setdefault(key, []).append(row_text(row))
            if key is not None and value is not None:
                best[key] = max(best.get(key, value), value)
    for key in (None, *sorted(best, key=lambda key: (-best[key], key))[:top]):
        pause()
        yield parse_rows(rows_of.get(key, ()))
