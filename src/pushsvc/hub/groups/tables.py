"""Snapshots of large windows: the rows are encoded in slices, once for all streams with equal selections."""

from __future__ import annotations

from time import monotonic
from typing import Any

import orjson

from pushsvc import sse
from pushsvc.frame import RowId
from pushsvc.hub.window_state import Selection, WindowState
from pushsvc.pause import Pause, no_pause
from pushsvc.system_clock import now_ms

BLOCK = 250  # rows that are encoded together
LARGE_ROWS = 2_000  # rows of snapshots from which on they are made in slices
FAR = 8_000  # rows that changed since an edition, or a client's position, from which on a new snapshot takes less
_ATTEMPTS = 3  # editions that are made before one is used from which too many rows differ
_RECENT = 1.0  # seconds for which an edition counts as new, however many rows changed


def few_changes(state: WindowState, sequence: int) -> tuple[list[RowId], list[RowId]] | None:
    """Return the changes of a window after a sequence; None if they are unknown, or so many that to list them would
    take long."""
    return state.changes_since(sequence) if state.changed_within(sequence, FAR) else None


class TableEdition:
    """The selected rows of a window at a ``sequence``, as JSON. Later changes are an update after them."""

    def __init__(self, state: WindowState, selection: Selection) -> None:
        self.sequence = state.sequence
        self.size = 0  # bytes of the blocks
        self.made_at = 0.0
        self._selection = selection
        self._head = selection.apply(state.head())
        del self._head["data"]
        self._row_ids, self._texts = state.shown()
        self._pieces: list[bytes] = []  # encoded blocks, and commas between them

    def encode(self, pause: Pause) -> int:
        """Encode the rows; return their number."""
        row_ids, texts, encoded = self._row_ids, self._texts, 0
        self._row_ids, self._texts = [], []
        covers = self._selection.covers
        for start in range(0, len(texts), BLOCK):
            ids = row_ids[start : start + BLOCK]
            block = [text for row_id, text in zip(ids, texts[start : start + BLOCK], strict=True) if covers(row_id)]
            if block:
                encoded += len(block)
                text = self._selection.shaped(block, self._head["columns"])
                self._pieces += (b",", text) if self._pieces else (text,)
                self.size += len(text)
            pause()
        self.made_at = monotonic()
        return encoded

    def message(self, **extra: Any) -> sse.Pieces:
        """Return the snapshot as a message without an id."""
        head = orjson.dumps({**self._head, "at": now_ms(), **extra})
        return sse.encode_json((head[:-1], b',"data":[', *self._pieces, b"]}"), event="snapshot")


class Table:
    """The rows of a window for a selection, in the order of the window. ``encoded`` counts the rows that were encoded.

    While it is ``busy``, a greenlet works on it and pauses.
    """

    def __init__(self, state: WindowState, selection: Selection) -> None:
        self.edition: TableEdition | None = None
        self.used_at = 0.0
        self.busy = False
        self.encoded = 0
        self._state = state
        self._selection = selection

    @property
    def is_ready(self) -> bool:
        """Return whether a snapshot takes little time: an edition, and what changed since."""
        edition = self.edition
        return edition is not None and (
            edition.made_at > monotonic() - _RECENT or self._state.changed_within(edition.sequence, FAR)
        )

    def renew(self, pause: Pause) -> TableEdition:
        """Return an edition that differs little from the window now."""
        self.busy = True
        try:
            edition = self.edition
            for _ in range(_ATTEMPTS):
                if edition is not None and self._state.changed_within(edition.sequence, FAR):
                    break
                edition = TableEdition(self._state, self._selection)
                self.encoded += edition.encode(pause)
            assert edition is not None
            self.edition = edition
            return edition
        finally:
            self.busy = False
            self.used_at = monotonic()

    def current(self) -> TableEdition:
        """Return an edition at once."""
        edition = self.edition
        if edition is None:
            edition = TableEdition(self._state, self._selection)
            self.encoded += edition.encode(no_pause)
        self.used_at = monotonic()
        return edition
