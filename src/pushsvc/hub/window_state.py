"""The rows of a window as a client knows them, kept once per process, and selections of them.

A row is kept as its JSON text: with its id that takes half of the memory of a list of numbers, the garbage collector
does not look at it, and most messages need nothing else.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, takewhile
from typing import Any

import orjson

from pushsvc.broker.keys import Log
from pushsvc.broker.log import FrameKind, StatisticsEntry
from pushsvc.frame import Row, RowId, parse_rows, row_id_getter, row_text
from pushsvc.frame_text import FrameText
from pushsvc.pause import Pause
from pushsvc.settings import TopicSettings
from pushsvc.stats.rows import OTHER

_REMOVED = 1_000  # removed rows that are remembered, unless there are more rows than this
_COUNTED = 10_000  # updates that are remembered to be counted
_ROW = 220  # bytes of a row beside its text and its key: its id, and its places in dictionaries
_COLUMNS = TopicSettings().columns  # of windows that do not exist
_PUT, _COPIED = 250, 4_000  # rows that are put, or copied and dropped, between two pauses: less than a millisecond

# Of windows without an entry, which are never changed. Most topics that a stream may name do not exist, and full
# collections of the garbage collector took 0.1 s for the empty containers of 17,000 windows.
_NO_ROWS: dict[RowId, Any] = {}
_NO_HEAD: dict[str, Any] = {}
_NO_KEYS: set[str] = set()
_NO_UPDATES: deque[int] = deque()


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows of a frame, in which shape. None among the names stands for the totals (key) and the counts (field).

    Equal selections share messages, so a selection is hashable. ``limited``: the subscriber may see the ``keys`` alone,
    so the frame must not tell of others.
    """

    keys: frozenset[str | None] | None = None
    fields: frozenset[str | None] | None = None
    records: bool = False
    top: int | None = None
    by: str = "count"
    limited: bool = False

    @property
    def everything(self) -> bool:
        return self.keys is None and self.fields is None and not self.records and self.top is None

    @property
    def filters(self) -> bool:
        """True if a frame may have rows of which none is selected."""
        return self.keys is not None or self.fields is not None or self.top is not None

    def within(self, granted: frozenset[str]) -> "Selection":
        """Return the selection of a subscriber who may see the rows of some keys alone, without ``__other__``."""
        visible: frozenset[str | None] = granted - {OTHER}
        return replace(self, limited=True, keys=visible if self.keys is None else visible & self.keys)

    def covers(self, row: Sequence[Any]) -> bool:
        """Return whether a row (or a ``[key, field]`` of ``gone``) is selected."""
        return (self.keys is None or row[0] in self.keys) and (self.fields is None or row[1] in self.fields)

    def apply(self, frame: Mapping[str, Any]) -> dict[str, Any]:
        """Return the frame with only the selected rows, in the selected shape."""
        columns = frame["columns"]
        rows = [row for row in frame["data"] if self.covers(row)]
        if self.top is not None and rows:
            rows = self._top(rows, columns.index(self.by))
        selected = {**frame, "data": [dict(zip(columns, row, strict=True)) for row in rows] if self.records else rows}
        if frame.get("gone"):
            selected["gone"] = [row for row in frame["gone"] if self.covers(row)]
        if frame.get("partial") and self.keys is not None:
            # Without a selected one it is left out: an empty list would tell of other keys.
            del selected["partial"]
            partial = [key for key in frame["partial"] if key in self.keys]
            if partial and not self.limited:
                selected["partial"] = partial
        if self.limited:
            selected.pop("full", None)  # some key has no row of its own
        return selected

    def shaped(self, texts: Sequence[bytes], columns: Sequence[str]) -> bytes:
        """Return the texts of rows, joined and in the selected shape, without brackets."""
        if not self.records:
            return b",".join(texts)
        return orjson.dumps([dict(zip(columns, row, strict=True)) for row in parse_rows(texts)])[1:-1]

    def _top(self, rows: list[list[Any]], column: int) -> list[list[Any]]:
        """Return the totals, then all rows of the keys with the greatest values, in that order."""
        best: dict[str, float] = {}
        for row in rows:
            if row[0] is not None and row[column] is not None:
                best[row[0]] = max(best.get(row[0], row[column]), row[column])
        kept = {key: rank for rank, key in enumerate(sorted(best, key=lambda key: (-best[key], key))[: self.top])}
        return sorted((row for row in rows if row[0] is None or row[0] in kept), key=lambda row: kept.get(row[0], -1))


EVERYTHING = Selection()


def _slices(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    return (rows[start : start + _PUT] for start in range(0, len(rows), _PUT))


class WindowState:
    """The rows of one statistics log, and the entry that changed each of them last.

    It answers at once what changed since any entry: for a slow stream, a resumed one, or one with an interval of its
    own. ``sequence`` and ``offset`` are those of the last entry. The texts of the rows have ``bytes``. At least
    ``removed`` removed rows are remembered.
    """

    __slots__ = (
        "__weakref__",
        "_changed",
        "_empty",
        "_head",
        "_horizon",
        "_most_removed",
        "_partial",
        "_removed",
        "_replaced",
        "_rows",
        "_staged",
        "_tails",
        "_updates",
        "bytes",
        "exists",
        "log",
        "offset",
        "sequence",
    )  # fmt: skip

    def __init__(self, log: Log, *, removed: int = _REMOVED) -> None:
        self.log = log
        self.exists = False
        self.sequence = self.offset = self.bytes = 0
        self._most_removed = removed
        self._rows: dict[RowId, bytes] = _NO_ROWS
        self._empty: dict[RowId, None] = _NO_ROWS  # rows that count zero, but for totals
        # What follows the key in the rows' ids: a key has at most a row of each.
        self._tails: dict[RowId, None] = _NO_ROWS
        # Row: sequence of its last change, if that is after the horizon; oldest first, as is _removed.
        self._changed: dict[RowId, int] = _NO_ROWS
        self._removed: dict[RowId, int] = _NO_ROWS
        self._horizon = 0  # changes up to this sequence are not known row by row
        self._updates = _NO_UPDATES
        self._partial = _NO_KEYS
        self._head = _NO_HEAD
        # The next entry's sequence, the state with it, and the sequence of the state that it was made from.
        self._staged: tuple[int, WindowState, int] | None = None
        self._replaced: list[dict[RowId, Any]] | None = None

    def _prepare(self) -> None:
        """Make the containers, before the first entry."""
        if self._rows is _NO_ROWS:
            self._rows, self._empty, self._tails, self._changed, self._removed = {}, {}, {}, {}, {}
            self._updates, self._partial = deque(maxlen=_COUNTED), set()

    def apply(self, entry: StatisticsEntry) -> None:
        self._prepare()
        frame = self._head = entry.frame
        staged, self._staged = self._staged, None
        if entry.kind is FrameKind.UPDATE:
            self._updates.append(entry.sequence)
        if staged is not None and (staged[0], staged[2]) == (entry.sequence, self.sequence):
            self._replace(staged[1])
        elif entry.kind is FrameKind.UPDATE:
            self._put(frame, entry.sequence)
        elif entry.kind is FrameKind.SNAPSHOT or not self.exists:
            self._clear(entry.sequence)
            self._put(frame, entry.sequence)
        else:  # a baseline repeats the rows that are known here
            self._partial = set(frame.get("partial", ()))
        self.exists = True
        self.sequence, self.offset = entry.sequence, entry.source

    def load(self, entry: StatisticsEntry, pause: Pause) -> None:
        """Apply an entry as ``apply`` does, in slices. The state must not be used before it is complete."""
        self._prepare()
        try:
            text = FrameText(entry.data, pause)
        except ValueError:  # another program wrote it
            self.apply(entry)
            return
        frame = self._head = text.head
        if entry.kind is FrameKind.BASELINE and self.exists:
            self._partial = set(frame.get("partial", ()))
        else:
            if entry.kind is FrameKind.UPDATE:
                self._updates.append(entry.sequence)
            else:
                self._clear(entry.sequence)
            for rows in text.rows(pause):
                self._put_rows(rows, frame["columns"], entry.sequence)
            self._partial.update(frame.get("partial", ()))
            for gone in text.gone(pause):
                self._remove(gone, entry.sequence)
        self.exists = True
        self.sequence, self.offset = entry.sequence, entry.source

    def stage(self, entry: StatisticsEntry, pause: Pause) -> None:
        """Do the work of ``apply`` for the next entry in slices, on a copy: others use the state meanwhile."""
        if entry.kind is FrameKind.BASELINE:
            return
        frame, before = entry.frame, self.sequence
        staged = WindowState(self.log, removed=self._most_removed)
        staged._prepare()
        staged._horizon = self._horizon
        if entry.kind is FrameKind.SNAPSHOT:
            staged._horizon = entry.sequence
        else:
            staged._partial.update(self._partial)
            staged.bytes = self.bytes
            for known, copied in zip(self._containers, staged._containers, strict=True):
                rows = iter(known.items())
                while part := list(islice(rows, _COPIED)):
                    copied.update(part)
                    pause()
                    if self.sequence != before:
                        return
        for row_list in _slices(frame["data"]):
            staged._put_rows(row_list, frame["columns"], entry.sequence)
            pause()
        staged._partial.update(frame.get("partial", ()))
        for gone in _slices(frame.get("gone", ())):
            staged._remove(gone, entry.sequence)
            pause()
        self._staged = entry.sequence, staged, before

    @property
    def _containers(self) -> tuple[dict[RowId, Any], ...]:
        return self._rows, self._empty, self._tails, self._changed, self._removed

    def _replace(self, staged: "WindowState") -> None:
        self._replaced = [*(self._replaced or ()), *self._containers]
        self._rows, self._empty, self._tails, self._changed, self._removed = staged._containers
        self._partial, self._horizon, self.bytes = staged._partial, staged._horizon, staged.bytes

    def retire(self) -> None:
        """Leave the rows of a state without users to ``drop_replaced``. What works on it in slices ends."""
        if self._rows is not _NO_ROWS:
            self._replace(WindowState(self.log))
            self.sequence = -1

    def drop_replaced(self, pause: Pause) -> None:
        """Free in slices what a staged entry has replaced: the destruction of its rows would take as long as they."""
        replaced, self._replaced = self._replaced, None
        for rows in replaced or ():
            while rows:
                for _ in range(min(_COPIED, len(rows))):
                    rows.popitem()
                pause()

    def _clear(self, sequence: int) -> None:
        self.bytes = 0
        self._rows.clear()
        self._empty.clear()
        self._tails.clear()
        self._changed.clear()
        self._removed.clear()
        self._partial.clear()
        self._horizon = sequence

    def _put(self, frame: Mapping[str, Any], sequence: int) -> None:
        self._put_rows(frame["data"], frame["columns"], sequence)
        self._partial.update(frame.get("partial", ()))
        self._remove(frame.get("gone", ()), sequence)

    def _put_rows(self, rows: Iterable[Row], columns: Sequence[str], sequence: int) -> None:
        row_id_of, count = row_id_getter(columns), columns.index("count")
        for row in rows:
            row_id = row_id_of(row)
            known, text = self._rows.get(row_id), row_text(row)
            if known is None:
                self._tails[row_id[1:]] = None
            self.bytes += len(text) - len(known or b"")
            self._rows[row_id] = text
            if row[count] or row[0] is None:
                self._empty.pop(row_id, None)
            else:
                self._empty[row_id] = None
            self._changed.pop(row_id, None)
            if sequence > self._horizon:
                self._changed[row_id] = sequence
            self._removed.pop(row_id, None)
            self._partial.discard(row[0])

    def _remove(self, gone: Iterable[Sequence[Any]], sequence: int) -> None:
        for listed in gone:
            row_id = tuple(listed)
            self.bytes -= len(self._rows.get(row_id, b""))
            for rows in (self._rows, self._empty, self._changed, self._removed):
                rows.pop(row_id, None)
            self._removed[row_id] = sequence
        while len(self._removed) > max(self._most_removed, len(self._rows)):
            self._horizon = self._removed.pop(next(iter(self._removed)))

    def head(self) -> dict[str, Any]:
        """Return a snapshot frame whose ``data`` is empty."""
        if not self.exists:
            return {
                "topic": self.log.topic, "window": self.log.window, "exists": False, "from": None, "to": None,
                "offset": 0, "since": None, "columns": list(_COLUMNS), "data": [],
            }  # fmt: skip
        frame = {name: value for name, value in self._head.items() if name not in ("gone", "partial")}
        frame["data"] = []
        if self._partial:
            frame["partial"] = sorted(self._partial)
        return frame

    def snapshot(self, selection: Selection = EVERYTHING) -> dict[str, Any]:
        """Return the selected rows as a snapshot frame, without rows that count zero, but with the totals.

        Its rows can be encoded, not read. The number of keys of a ``selection`` is not limited: see rankings.
        """
        frame = selection.apply(self.head())
        frame["data"] = self._selected(self._rows, selection, empty=False)
        return frame

    def _selected(self, row_ids: Iterable[RowId], selection: Selection, *, empty: bool) -> list[Any]:
        """Return the rows that are selected, as ``orjson`` encodes them; those that count zero if ``empty``."""
        rows, covers, left_out = self._rows, selection.covers, () if empty else self._empty
        texts = [rows[row_id] for row_id in row_ids if covers(row_id) and row_id not in left_out]
        if selection.records:
            columns = self._head["columns"] if texts else ()
            return [dict(zip(columns, row, strict=True)) for row in parse_rows(texts)]
        return [orjson.Fragment(text) for text in texts]

    @property
    def size(self) -> int:
        """Return the number of rows."""
        return len(self._rows)

    @property
    def memory(self) -> int:
        """Return about how many bytes the rows take in this process: a key is in a text and in an id."""
        return 2 * self.bytes + _ROW * len(self._rows)

    def estimate(self, selection: Selection) -> int:
        """Return about how many bytes the selected rows have in a message, if all keys have equally many rows."""
        if not self._rows:
            return 0
        fields = selection.fields
        tails = len(self._tails) if fields is None else sum(tail[0] in fields for tail in self._tails)
        keys = -(-len(self._rows) // len(self._tails))
        if selection.keys is not None:
            keys = min(keys, len(selection.keys))
        if selection.top is not None:
            keys = min(keys, selection.top + 1)
        names = sum(len(name) + 3 for name in self._head["columns"]) if selection.records else 0
        return keys * tails * (self.bytes // len(self._rows) + 1 + names)

    def shown(self) -> tuple[list[RowId], list[bytes]]:
        """Return the ids and the texts of the rows that a snapshot has. They do not change: changes replace them."""
        if not self._empty:
            return list(self._rows), list(self._rows.values())
        row_ids = [row_id for row_id in self._rows if row_id not in self._empty]
        return row_ids, [self._rows[row_id] for row_id in row_ids]

    def keys(self) -> set[str | None]:
        return {row_id[0] for row_id in self._rows}

    def column(self, name: str) -> int:
        """Return the index of a column. The window exists."""
        columns: list[str] = self._head["columns"]
        return columns.index(name)

    def texts_of(self, key: str | None, selection: Selection = EVERYTHING) -> list[bytes]:
        """Return the texts of the selected rows of a key, None for the totals, that a snapshot has."""
        return [self._rows[row_id] for row_id in self.ids_of(key) if selection.covers(row_id) and self.shows(row_id)]

    def rows_of(self, key: str | None, selection: Selection = EVERYTHING) -> list[Row]:
        """Return the rows whose texts are those of ``texts_of``."""
        return parse_rows(self.texts_of(key, selection))

    def ids_of(self, key: str | None) -> list[RowId]:
        """Return the ids of the rows of a key, also of those that count zero."""
        return [row_id for tail in self._tails if (row_id := (key, *tail)) in self._rows]

    def shows(self, row_id: RowId) -> bool:
        """Return whether a snapshot has a row."""
        return row_id in self._rows and row_id not in self._empty

    def changes_since(self, sequence: int) -> tuple[list[RowId], list[RowId]] | None:
        """Return the rows that changed and those that were removed after a sequence, oldest first; None if unknown."""
        if not self.exists or sequence < self._horizon:
            return None
        changed = list(takewhile(lambda row_id: self._changed[row_id] > sequence, reversed(self._changed)))
        removed = list(takewhile(lambda row_id: self._removed[row_id] > sequence, reversed(self._removed)))
        return changed[::-1], removed[::-1]

    def changed_within(self, sequence: int, most: int) -> bool:
        """Return whether the changes after a sequence are known, and at most that many."""
        if not self.exists or sequence < self._horizon:
            return False
        return not any(
            next(islice(reversed(changes.values()), most, None), 0) > sequence
            for changes in (self._changed, self._removed)
        )

    def since(self, sequence: int, selection: Selection = EVERYTHING) -> dict[str, Any] | None:
        """Return the selected changes after a sequence as one update; None if they are not known or longer than a
        snapshot. Its rows can be encoded, not read."""
        changes = self.changes_since(sequence)
        if changes is None or sum(map(len, changes)) > len(self._rows):
            return None
        changed, removed = changes
        frame = {name: value for name, value in self._head.items() if name != "partial"}
        partial = self._partial.intersection(row_id[0] for row_id in changed if row_id[0] is not None)
        if partial:
            frame["partial"] = sorted(partial)
        selected = selection.apply({**frame, "data": [], "gone": [*map(list, removed)]})
        selected["data"] = self._selected(changed, selection, empty=True)
        return selected

    def updates_since(self, sequence: int) -> int:
        """Return how many of the remembered updates came after a sequence."""
        return sum(1 for _ in takewhile(lambda update: update > sequence, reversed(self._updates)))
