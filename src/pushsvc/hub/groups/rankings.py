"""Rankings of windows: one of a window and an order for all streams, kept up to date in slices.

Nothing here depends on how many keys a stream asks for: the ``top`` keys of a stream are the first ones of the ranking,
and their rows are the first ones of its encoded blocks.
"""

from __future__ import annotations

import logging
from bisect import bisect_left, insort
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from time import monotonic
from typing import Any, Protocol
from weakref import WeakKeyDictionary, WeakValueDictionary

import gevent
import orjson
from gevent.event import Event
from gevent.lock import BoundedSemaphore

from pushsvc import sse
from pushsvc.hub.groups.tables import Table, few_changes
from pushsvc.hub.window_state import Selection, WindowState
from pushsvc.pause import Pause, no_pause
from pushsvc.slices import Slices
from pushsvc.system_clock import now_ms

log = logging.getLogger(__name__)

BLOCK = 32  # keys whose rows are encoded together
LARGE = 64_000  # bytes of a message that is not kept longer than needed
_RESTARTS = 3  # after so many changes during the slices of an edition it is made in one
_KEPT = 16_000_000  # bytes of encoded blocks of all editions
_EXPIRE = 2.0  # seconds for which an edition is kept after its last use


class Edition:
    """A ranking at a ``sequence`` of its window. Its rows do not change. They are encoded when they are asked for."""

    def __init__(self, state: WindowState, selection: Selection, order: list[str]) -> None:
        self.sequence = state.sequence
        self.size = 0  # bytes of the blocks
        self._selection = selection
        self._order = order
        self._head = selection.apply(state.head())
        del self._head["data"]
        self._totals = self._shaped(state.texts_of(None, selection))
        self._texts: list[list[bytes]] = []  # of the rows of the first keys
        self._blocks: list[bytes] = []

    def keys(self, top: int) -> tuple[str, ...]:
        return tuple(islice(self._order, top))

    def capture(self, state: WindowState, top: int, pause: Pause) -> None:
        """Take the rows of the first keys, as long as their window is at this sequence."""
        for key in self._order[len(self._texts) : top]:
            if state.sequence != self.sequence:
                return
            self._texts.append(state.texts_of(key, self._selection))
            pause()

    def has(self, top: int, *, encoded: bool = False) -> bool:
        """Return whether the rows of the first keys are known, and ``encoded`` in whole blocks."""
        known = min(top, len(self._order))
        return len(self._texts) >= known and (not encoded or len(self._blocks) >= known // BLOCK)

    def encode(self, top: int, pause: Pause) -> int:
        """Encode the whole blocks of the first keys; return the number of rows that were not encoded before."""
        rows = 0
        while (len(self._blocks) + 1) * BLOCK <= min(top, len(self._texts)):
            start = len(self._blocks) * BLOCK
            block, count = self._encoded_keys(start, start + BLOCK)
            self._blocks.append(block)
            self.size += len(block)
            rows += count
            pause()
        return rows

    def _encoded_keys(self, start: int, end: int) -> tuple[bytes, int]:
        texts = [text for texts in self._texts[start:end] for text in texts]
        return self._shaped(texts), len(texts)

    def _shaped(self, texts: list[bytes]) -> bytes:
        return self._selection.shaped(texts, self._head["columns"])

    def message(self, event: str, top: int, **extra: Any) -> sse.Pieces:
        """Return the rows of the totals and of the first keys, in order, as a message without an id."""
        self.encode(top, no_pause)
        top = min(top, len(self._texts))
        whole = top // BLOCK
        blocks = filter(None, (self._totals, *self._blocks[:whole], self._encoded_keys(whole * BLOCK, top)[0]))
        head = orjson.dumps({**self._head, "at": now_ms(), **extra})
        rows = [piece for block in blocks for piece in (b",", block)]
        return sse.encode_json((head[:-1], b',"data":[', *rows[1:], b"]}"), event=event)


class Ranking:
    """The keys of a window, those with the greatest values first.

    ``ranked`` and ``encoded`` count the keys that were compared and the rows that were encoded. While it is ``busy``,
    a greenlet works on it and pauses.
    """

    def __init__(self, state: WindowState, order: Selection) -> None:
        self.edition: Edition | None = None
        self.used_at = 0.0
        self.busy = False
        self.ranked = self.encoded = 0
        self._state = state
        self.order = order
        self._sequence = -1
        self._values: dict[str, float] = {}
        self._order: list[tuple[float, str]] = []

    def renew(self, top: int, pause: Pause) -> Edition:
        """Return the edition of now, with its first keys."""
        self.busy = True
        try:
            attempts = 0
            while (edition := self._capture(top, pause)).sequence != self._state.sequence:
                attempts += 1
                if attempts == _RESTARTS:
                    pause = no_pause
            self.edition = edition
            self.encoded += edition.encode(top, pause)
            return edition
        finally:
            self.busy = False
            self.used_at = monotonic()

    def _capture(self, top: int, pause: Pause) -> Edition:
        """Return an edition with the first keys. It is outdated if the window changed during a pause."""
        self._catch_up(pause)
        edition = self.edition
        if edition is None or edition.sequence != self._sequence:
            edition = Edition(self._state, self.order, [key for _, key in self._order])
        edition.capture(self._state, top, pause)
        return edition

    def _catch_up(self, pause: Pause) -> None:
        """Compare the keys that changed. The window may change during a pause."""
        rounds = 0
        while self._sequence != self._state.sequence:
            rounds += 1
            if rounds > _RESTARTS:
                pause = no_pause
            changes = few_changes(self._state, self._sequence)
            self._sequence = self._state.sequence
            if changes is None:
                keys = self._state.keys()
                for gone in self._values.keys() - keys:
                    self._place(gone, None)
            else:
                keys = {row_id[0] for row_ids in changes for row_id in row_ids}
            column = self._state.column(self.order.by) if keys else 0
            for key in keys:
                if key is not None and (self.order.keys is None or key in self.order.keys):
                    self._place(key, self._value(key, column))
                    pause()

    def _value(self, key: str, column: int) -> float | None:
        values = [row[column] for row in self._state.rows_of(key, self.order)]
        return max((value for value in values if value is not None), default=None)

    def _place(self, key: str, value: float | None) -> None:
        self.ranked += 1
        before = self._values.get(key)
        if before == value:
            return
        if before is not None:
            del self._order[bisect_left(self._order, (-before, key))]
            del self._values[key]
        if value is not None:
            self._values[key] = value
            insort(self._order, (-value, key))


class RankedGroup(Protocol):
    """Has work on rankings to do. ``fail`` ends its streams, ``forget`` drops the messages that it keeps."""

    def work(self, pause: Pause) -> None: ...
    def fail(self) -> None: ...
    def forget(self) -> None: ...


class Rankings:
    """The rankings of a process, and the groups with work on them, which take turns.

    It waits for ``room`` before a group makes messages. A turn yields to the event loop after each ``slice_``
    seconds. What is made in a turn is kept until its greenlet yields after it, however large it is: else the first
    windows of a message would be dropped for the last ones, and encoded again in one step when it is put together.
    """

    def __init__(self, room: Event, slice_: float) -> None:
        self._room = room
        self._slice = slice_
        self._turn = BoundedSemaphore()
        self._in_turn = False
        self._waiting: dict[RankedGroup, None] = {}
        self._greenlet: gevent.Greenlet[..., None] | None = None
        self._known: WeakKeyDictionary[WindowState, WeakValueDictionary[Selection, Ranking]] = WeakKeyDictionary()
        self._tables: WeakKeyDictionary[WindowState, WeakValueDictionary[Selection, Table]] = WeakKeyDictionary()
        self._recent: dict[Ranking | Table, None] = {}  # with an edition, the last used at the end
        self._large: RankedGroup | None = None  # keeps a large message
        self._expiry: gevent.Greenlet[..., None] | None = None

    def of(self, state: WindowState, selection: Selection) -> Ranking:
        """Return the ranking of a window for a selection, the same for every ``top``."""
        order = replace(selection, top=None)
        rankings = self._known.setdefault(state, WeakValueDictionary())
        ranking = rankings.get(order)
        if ranking is None:
            ranking = rankings[order] = Ranking(state, order)
        return ranking

    def table(self, state: WindowState, selection: Selection) -> Table:
        """Return the rows of a window for a selection."""
        tables = self._tables.setdefault(state, WeakValueDictionary())
        table = tables.get(selection)
        if table is None:
            table = tables[selection] = Table(state, selection)
        return table

    @contextmanager
    def turn(self) -> Iterator[Pause]:
        """Wait for a turn; give the function that lets the event loop have one."""
        with self._turn:
            self._in_turn = True
            try:
                yield Slices(self._slice)
            finally:
                self._in_turn = False
                self._make_room_soon()

    def submit(self, group: RankedGroup) -> None:
        """Let a group work soon."""
        self._waiting[group] = None
        if self._greenlet is None:
            self._greenlet = gevent.spawn(self._run)

    def _run(self) -> None:
        try:
            while self._waiting:
                self._room.wait()
                with self.turn() as pause:
                    group = next(iter(self._waiting))
                    del self._waiting[group]
                    try:
                        group.work(pause)
                    except Exception:
                        log.exception("a ranking failed")
                        group.fail()
                    pause()
        finally:
            self._greenlet = None

    def note_used(self, ranking: Ranking | Table) -> None:
        """Keep the edition of a ranking for a while, and of all not more than fits."""
        self._recent.pop(ranking, None)
        self._recent[ranking] = None
        self._make_room_soon()
        self._start_expiry()

    def _make_room_soon(self) -> None:
        gevent.get_hub().loop.run_callback(self._make_room)

    def _make_room(self) -> None:
        """Drop the editions that do not fit, but for the last used one. During a turn its end does that."""
        if self._in_turn:
            return
        held = sum(one.edition.size for one in self._recent if one.edition is not None)
        while held > _KEPT and len(self._recent) > 1:
            oldest = next(iter(self._recent))
            del self._recent[oldest]
            held -= oldest.edition.size if oldest.edition is not None else 0
            oldest.edition = None

    def keep_large(self, group: RankedGroup) -> None:
        """Let a group keep a large message for a second. Others drop theirs."""
        if self._large is not None and self._large is not group:
            self._large.forget()
        self._large = group
        self._start_expiry()

    def _start_expiry(self) -> None:
        if self._expiry is None:
            self._expiry = gevent.spawn(self._expire)

    def _expire(self) -> None:
        while self._recent or self._large is not None:
            gevent.sleep(_EXPIRE / 2)
            if self._large is not None:
                self._large.forget()
                self._large = None
            old = monotonic() - _EXPIRE
            for ranking in [one for one in self._recent if one.used_at < old and not one.busy]:
                ranking.edition = None
                del self._recent[ranking]
        self._expiry = None
