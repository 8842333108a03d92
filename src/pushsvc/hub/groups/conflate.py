"""Statistics of a group that are not sent entry by entry: changes since a position, at an interval, or as a ranking."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from time import monotonic
from typing import Any

from gevent import get_hub

from pushsvc import sse
from pushsvc.broker.keys import Log
from pushsvc.broker.log import FrameKind, StatisticsEntry
from pushsvc.cursor import Position, decode
from pushsvc.frame import RowId
from pushsvc.hub import messages as sse_messages
from pushsvc.hub import metrics
from pushsvc.hub.delivery.backlog import Chunk
from pushsvc.hub.delivery.channel import Channel
from pushsvc.hub.delivery.chunked import frame
from pushsvc.hub.delivery.connection import Connection
from pushsvc.hub.feed.tail import Tail
from pushsvc.hub.groups.positions import SentPositions
from pushsvc.hub.groups.rankings import LARGE, Edition, Ranking, Rankings
from pushsvc.hub.groups.tables import FAR, LARGE_ROWS, Table, few_changes
from pushsvc.hub.query import Query
from pushsvc.hub.window_state import WindowState
from pushsvc.pause import Pause, no_pause
from pushsvc.system_clock import now_ms

log = logging.getLogger(__name__)


class _NotReady:
    """The source of a connection whose rankings are not prepared yet."""

    def resume(self, connection: Connection) -> None:
        """Send nothing: the connection recovers once they are."""


_NOT_READY = _NotReady()
_MANY_WINDOWS = 50  # in the first message of a stream, from which on it is made in a turn of the loop of its own
_CURSORS = 64  # cursors with cached changes: after a disconnect most streams come back with the same few


@dataclass(slots=True)
class Given:
    """What clients may have of a ranking: the ``keys`` that were sent at a ``sequence``, and ``others`` sent since."""

    sequence: int
    keys: tuple[str, ...]
    others: set[str] = field(default_factory=set)


class PreparedCalls:
    """Functions that wait until snapshots are prepared.

    While they run, everything counts as prepared: a part may have been dropped meanwhile, and to prepare that again
    would drop another part. So the functions must not yield.
    """

    def __init__(self) -> None:
        self._waiting: dict[Callable[[], None], None] = {}
        self.running = False

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, function: Callable[[], None]) -> None:
        """Let a function wait; once, even if it is added again."""
        self._waiting[function] = None

    def run(self) -> None:
        """Call and remove the functions in the order in which they were added, until ``clear`` is called."""
        self.running = True
        try:
            while self._waiting:
                function = next(iter(self._waiting))
                del self._waiting[function]
                function()
        finally:
            self.running = False

    def clear(self) -> None:
        self._waiting.clear()


class Conflation:
    """Makes messages of the newest rows of a group's windows: those of its ``logs`` that hold statistics.

    ``paces_cursor`` is true while no log of the group holds events, so that the cursor may wait with the updates.
    """

    def __init__(
        self, query: Query, logs: Collection[Log], sent: SentPositions, channel: Channel, rankings: Rankings
    ) -> None:
        self.paces_cursor = True
        self._query = query
        self._selection = query.selection
        self._top = query.selection.top
        self._every = query.every
        self.logs = logs
        self._sent = sent
        self._channel = channel
        self._pending: dict[Log, int] = {}  # log: the sequence after which its changes are pending
        self._emitted_at = 0.0
        self._timer: Any = None
        self._rankings = rankings
        self._ranking_of: dict[Log, Ranking] = {}
        self._given: dict[Log, Given] = {}
        self._tables: dict[Log, Table] = {}
        self._prepared_calls = PreparedCalls()
        # Caches, each with the key for which it is valid.
        self._initial: tuple[int, str, bytes] | None = None
        self._since_chunks: tuple[Chunk, dict[str, bytes]] | None = None
        self._for_cursors: tuple[tuple[int, str], dict[str, bytes]] | None = None

    # At an interval

    def note(self, of: Log, entry: StatisticsEntry) -> None:
        """Note that a window changed."""
        if entry.kind is not FrameKind.BASELINE:
            if not self._pending and self.paces_cursor:
                self._sent.paced_cursor = self._sent.cursors(of.partition)(entry.sequence - 1)
            self._pending.setdefault(of, entry.sequence - 1)

    @property
    def has_pending(self) -> bool:
        """Return whether a change was noted that was not broadcast."""
        return bool(self._pending)

    def emit(self) -> None:
        """Broadcast the pending changes, now or as soon as the interval has passed."""
        if not self._pending or self._timer is not None:
            return
        wait = self._emitted_at + self._every - monotonic()
        if wait <= 0 and (self._top is not None or self._unprepared(self._pending)):
            self._rankings.submit(self)
        elif wait <= 0:
            self._emit()
        else:
            self._timer = get_hub().loop.timer(wait)
            self._timer.start(self._on_time)

    def _on_time(self) -> None:
        self._timer.close()
        self._timer = None
        try:
            self.emit()
        except Exception:
            log.exception("the streams of %s failed", self._channel.name)
            self._channel.fail()

    def _emit(self) -> None:
        pending, self._pending = self._pending, {}
        self._sent.paced_cursor = None
        self._emitted_at = monotonic()
        self._broadcast([message for of, sequence in pending.items() for message in self.since(of, sequence)])

    def _broadcast(self, messages: Sequence[sse.Pieces]) -> None:
        self._channel.broadcast([b"".join(message) for message in self._with_id(messages)])

    # Large messages

    def prepare(self, lacking: Mapping[Log, int | None] | None = None) -> bool:
        """Make what messages need, in slices: they themselves cannot yield. Return whether there was anything to do.

        A client has the logs in ``lacking`` up to a sequence, and nothing of one with None. By default it has nothing.
        """
        logs = self._logs_to_prepare(lacking)
        if not logs:
            return False
        with self._rankings.turn() as pause:
            self._prepare(logs, pause)
        return True

    def await_turn(self, lacking: Mapping[Log, int | None] | None = None) -> None:
        """Return in a turn of the event loop of its own, if the first message of a stream has many rows or windows and
        is not yet made."""
        if self._initial is not None and self._initial[:2] == (self._channel.clock.tick, self._sent.cursor()):
            return
        logs = dict.fromkeys(self.logs) if lacking is None or self._top is not None else lacking
        full = [of for of, at in logs.items() if of.window is not None and (at is None or self._is_far(of, at))]
        if len(full) > _MANY_WINDOWS or sum(self._window_state(of).size for of in full) > LARGE_ROWS:
            with self._rankings.turn() as pause:
                get_hub().wait(get_hub().loop.timer(0))
                self._prepare(self._logs_to_prepare(lacking), pause)  # again: many may have had their turns before

    def size(self, lacking: Mapping[Log, int | None] | None = None) -> int:
        """Return about how many bytes of rows the snapshots have that a client needs. ``lacking`` as in ``prepare``."""
        logs = dict.fromkeys(self.logs) if lacking is None or self._top is not None else lacking
        return sum(
            self._window_state(of).estimate(self._query.selection_of(of.topic))
            for of, at in logs.items()
            if of.window is not None and (at is None or self._is_far(of, at))
        )

    def _logs_to_prepare(self, lacking: Mapping[Log, int | None] | None = None) -> Collection[Log]:
        if self._top is not None:
            return self.logs
        return self._unprepared(dict.fromkeys(self.logs) if lacking is None else lacking)

    def _prepare(self, logs: Iterable[Log], pause: Pause) -> None:
        for of in list(logs):
            if self._channel.closed:
                return
            if self._top is not None:
                self._renew(of, self._top, pause)
            else:
                table = self._table(of)
                table.renew(pause)
                self._rankings.note_used(table)

    def is_prepared(self, lacking: Mapping[Log, int | None]) -> bool:
        """Return whether messages with what a client lacks take little time. ``lacking`` as in ``prepare``."""
        if self._prepared_calls.running:
            return True
        if self._top is not None:
            return all(self._edition(of) is not None for of in lacking)
        return not self._unprepared(lacking)

    def takes_long(self, logs: Collection[Log]) -> bool:
        """Return whether snapshots of windows are better prepared before they are made."""
        windows = [of for of in logs if of.window is not None]
        rows = sum(self._window_state(of).size for of in windows)
        return rows > LARGE_ROWS and not self.is_prepared(dict.fromkeys(windows))

    def _unprepared(self, lacking: Mapping[Log, int | None]) -> list[Log]:
        """Return the windows whose snapshots are needed and would take long together."""
        logs: list[Log] = []
        rows = 0
        for of, sequence in lacking.items():
            if of.window is not None and (sequence is None or self._is_far(of, sequence)):
                logs.append(of)
                rows += self._window_state(of).size
        return [of for of in logs if not self._table(of).is_ready] if rows > LARGE_ROWS else []

    def _is_far(self, of: Log, sequence: int) -> bool:
        """Return whether a snapshot of a large window is to replace its changes after a sequence."""
        state = self._window_state(of)
        return state.size > LARGE_ROWS and not state.changed_within(sequence, FAR)

    def _table(self, of: Log) -> Table:
        if of not in self._tables:
            self._tables[of] = self._rankings.table(self._window_state(of), self._query.selection_of(of.topic))
        return self._tables[of]

    def prepare_soon(self, when_prepared: Callable[[], None]) -> None:
        """Make what snapshots need, in slices and in a greenlet, and then call back."""
        self._prepared_calls.add(when_prepared)
        self._rankings.submit(self)

    def recover(self, connection: Connection) -> None:
        """Prepare in slices, and then let a connection recover."""
        connection.source = _NOT_READY
        self.prepare_soon(partial(self._resume, connection))

    def _resume(self, connection: Connection) -> None:
        if connection.source is _NOT_READY and not connection.closed:
            connection.source = self._channel
            self._channel.resume(connection)

    def work(self, pause: Pause) -> None:
        if self._channel.closed:
            return
        if self._pending and self._timer is None:
            if self._top is not None:
                self._emit_rankings(self._top, pause)
            else:
                self._prepare(self._unprepared(self._pending), pause)
                self._emit()
        if self._prepared_calls and not self._channel.closed:
            self._prepare(self._logs_to_prepare(), pause)
            self._prepared_calls.run()

    def fail(self) -> None:
        self._channel.fail()

    def _emit_rankings(self, top: int, pause: Pause) -> None:
        """Broadcast the rankings that changed. If no member can take them now, make none: members recover later."""
        self._emitted_at = monotonic()
        if self._channel.restart():
            self._pending.clear()
            self._given.clear()
            self._sent.paced_cursor = None
            return
        editions = {}
        for of in list(self._pending):
            ranking = self._ranking(of)
            editions[of] = ranking, self._renew(of, top, pause)
        if self._channel.closed:
            return
        messages = []
        for of, (ranking, edition) in editions.items():
            if of in self._pending and self._ranking_of.get(of) is ranking:
                del self._pending[of]
                if edition.sequence < self._window_state(of).sequence:
                    self._pending[of] = edition.sequence  # it changed during a pause
                if (message := self._update(of, edition, top)) is not None:
                    messages.append(message)
        self._sent.paced_cursor = None
        if self._pending:
            partition = next(iter(self._pending)).partition  # all rankings of a group are of one topic
            self._sent.paced_cursor = self._sent.cursors(partition)(min(self._pending.values()))
        self._broadcast(messages)
        self.emit()

    def _update(self, of: Log, edition: Edition, top: int) -> sse.Pieces | None:
        """Return all rows of a ranking with those that left it in ``gone``; None if nothing changed.

        It is a snapshot if it is not known which rows left.
        """
        state, before, keys = self._window_state(of), self._given.get(of), edition.keys(top)
        self._given[of] = Given(edition.sequence, keys)
        changes = few_changes(state, before.sequence) if before is not None else None
        if before is None or changes is None:
            return edition.message("snapshot", top)
        known, had = {*keys, None}, {*before.keys, *before.others, None}
        covers = self._selection.covers
        touched = [row_id for row_ids in changes for row_id in row_ids if row_id[0] in known and covers(row_id)]
        if before.keys == keys and had == known and not touched:
            return None
        gone: dict[RowId, None] = {}
        for row_id in (*touched, *changes[1], *(one for key in had - known for one in state.ids_of(key))):
            if row_id[0] in had and covers(row_id) and (row_id[0] not in known or not state.shows(row_id)):
                gone[row_id] = None
        return edition.message("update", top, gone=[*map(list, gone)])

    def _ranking(self, of: Log) -> Ranking:
        if of not in self._ranking_of:
            self._ranking_of[of] = self._rankings.of(self._window_state(of), self._selection)
        return self._ranking_of[of]

    def _renew(self, of: Log, top: int, pause: Pause) -> Edition:
        ranking = self._ranking(of)
        edition = ranking.renew(top, pause)
        self._rankings.note_used(ranking)
        return edition

    def _edition(self, of: Log) -> Edition | None:
        """Return the edition for a snapshot, if it is known. What came after it must be pending."""
        edition, top = self._ranking(of).edition, self._top or 0
        if edition is None or not edition.has(top, encoded=True):
            return None
        is_newest = edition.sequence == self._window_state(of).sequence
        return edition if is_newest or edition.sequence >= self._pending.get(of, edition.sequence + 1) else None

    def _ranked_snapshot(self, of: Log, top: int, **extra: Any) -> sse.Pieces:
        edition = self._edition(of)
        if edition is None:
            ranking = self._ranking(of)
            if ranking.busy:
                ranking = Ranking(self._window_state(of), ranking.order)
            edition = ranking.renew(top, no_pause)
        keys, given = edition.keys(top), self._given.get(of)
        if given is None:
            self._given[of] = Given(edition.sequence, keys)
        elif given.keys != keys:
            given.others.update(keys)
        return edition.message("snapshot", top, **extra)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.close()
            self._timer = None
        self._prepared_calls.clear()
        self._ranking_of.clear()
        self._tables.clear()

    def reset(self, of: Log) -> None:
        """Forget what was emitted of a window: its log starts over."""
        self._ranking_of.pop(of, None)
        self._tables.pop(of, None)
        self._given.pop(of, None)
        self._pending.pop(of, None)
        if not self._pending:
            self._sent.paced_cursor = None

    # States

    def _tail(self, of: Log) -> Tail:
        return self._sent.followers[of.partition].tails[of]

    def _window_state(self, of: Log) -> WindowState:
        state = self._tail(of).window_state
        if state is None:
            raise LookupError(f"{of} is a log of events")
        return state

    def state(self, of: Log, **extra: Any) -> list[sse.Pieces]:
        """Return a snapshot of a window, and if it was encoded before, an update with what changed since."""
        if self._tail(of).stale:
            extra["stale"] = True
        if self._top is not None:
            return [self._ranked_snapshot(of, self._top, **extra)]
        state, selection = self._window_state(of), self._query.selection_of(of.topic)
        table = self._table(of) if state.size > LARGE_ROWS else self._tables.get(of)
        if table is not None and (table.edition is not None or state.size > LARGE_ROWS):
            edition = table.current()
            self._rankings.note_used(table)
            changes = state.since(edition.sequence, selection)
            if changes is not None:
                update = sse_messages.update({**changes, "at": now_ms()})
                return [edition.message(**extra), *([] if update is None else [(update,)])]
        return [(sse_messages.snapshot({**state.snapshot(selection), "at": now_ms(), **extra}),)]

    def broadcast_states(self, logs: Iterable[Log]) -> None:
        """Broadcast all rows. Only the last message has an id, so that a disconnect in between skips no part."""
        self._broadcast(self._states(logs))

    def _states(self, logs: Iterable[Log]) -> list[sse.Pieces]:
        return [message for of in logs if of.window is not None for message in self.state(of)]

    def _with_id(self, messages: Sequence[sse.Pieces]) -> Iterator[sse.Pieces]:
        """Yield messages with an id for the last one."""
        yield from messages[:-1]
        if messages:
            yield sse.id_line(self._sent.cursor()), *messages[-1]

    def _beginning(self, messages: Sequence[sse.Pieces]) -> bytes:
        """Return the beginning of a stream, framed."""
        return frame(sse_messages.OPENING, *chain.from_iterable(self._with_id(messages)))

    def initial_state(self) -> bytes:
        """Return the beginning of a new stream, framed. Streams of the same second get the same bytes."""
        key = (self._channel.clock.tick, self._sent.cursor())
        if self._initial is None or self._initial[:2] != key:
            self._initial = (*key, self._beginning(self._states(self.logs)))
            self._expire(self._initial[2])
        return self._initial[2]

    def since(self, of: Log, sequence: int | None, *, skipping: bool = False) -> list[sse.Pieces]:
        """Return what changed after a sequence as one message; as ``state`` if that is shorter, or without a sequence.

        Empty if no selected row changed. If ``skipping``, it counts the updates that it replaces.
        """
        state = self._window_state(of)
        full_snapshot = sequence is None or self._top is not None or self._is_far(of, sequence)
        selection = self._query.selection_of(of.topic)
        frame = None if sequence is None or full_snapshot else state.since(sequence, selection)
        skipped = state.updates_since(sequence or 0) if skipping else 0
        extra = {"skipped": skipped} if skipped and not selection.limited else {}
        if skipped:
            metrics.CONFLATED.inc(skipped)
        if frame is None:
            return self.state(of, **extra)
        update = sse_messages.update({**frame, "at": now_ms(), **extra})
        return [] if update is None else [(update,)]

    def since_chunk(self, chunk: Chunk) -> bytes:
        """Return what a connection at a chunk lacks, framed. Connections at the same chunk get the same bytes."""
        end = self._channel.backlog.end
        if self._since_chunks is None or self._since_chunks[0] is not end:
            self._since_chunks = (end, {})
        made = self._since_chunks[1]
        if chunk.cursor not in made:
            made[chunk.cursor] = frame(
                *chain.from_iterable(self._with_id(self._since(decode(chunk.cursor), skipping=True)))
            )
            self._expire(made[chunk.cursor])
        return made[chunk.cursor]

    def changes_for(self, cursor: str, positions: Mapping[int, Position]) -> bytes:
        """Return the beginning of a stream with what a client with a cursor lacks, framed.

        Clients of the same second get the same bytes.
        """
        key = (self._channel.clock.tick, self._sent.cursor())
        if self._for_cursors is None or self._for_cursors[0] != key:
            self._for_cursors = (key, {})
        made = self._for_cursors[1]
        if cursor not in made:
            if len(made) == _CURSORS:
                made.clear()
            made[cursor] = self._beginning(self._since(positions, skipping=False))
            self._expire(made[cursor])
        return made[cursor]

    def _expire(self, made: bytes) -> None:
        """Keep a large message for a second at most, and only the newest one of the process."""
        if len(made) > LARGE:
            self._rankings.keep_large(self)

    def forget(self) -> None:
        """Drop the messages that are kept for others that want the same."""
        self._initial = self._since_chunks = self._for_cursors = None

    def lacking(self, positions: Mapping[int, Position]) -> dict[Log, int | None]:
        """Return up to which sequence a client with positions has each log, None for nothing."""
        found: dict[Log, int | None] = {}
        for of in self.logs:
            position = positions.get(of.partition)
            known = position is not None and position.epoch == self._sent.followers[of.partition].position.epoch
            found[of] = position.sequence if position is not None and known else None
        return found

    def _since(self, positions: Mapping[int, Position], *, skipping: bool) -> list[sse.Pieces]:
        """Return messages with what a client with positions lacks."""
        lacking = self.lacking(positions)
        return [message for of, known in lacking.items() for message in self.since(of, known, skipping=skipping)]
