"""Statistics of a group that are not sent entry by entry: changes since a position, at an interval, or as a ranking."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from operator import itemgetter
from time import monotonic
from typing import Any

import orjson
from gevent import get_hub

from pushsvc import sse
from pushsvc.broker.keys import Log
from pushsvc.broker.log import FrameKind, StatisticsEntry
from pushsvc.cursor import Position, decode
from pushsvc.frame import RowId, row_id_getter
from pushsvc.hub import messages as sse_messages
from pushsvc.hub import metrics
from pushsvc.hub.delivery.backlog import Chunk
from pushsvc.hub.delivery.channel import Channel
from pushsvc.hub.delivery.chunked import frame
from pushsvc.hub.feed.tail import Tail
from pushsvc.hub.groups.positions import SentPositions
from pushsvc.hub.query import Query
from pushsvc.hub.window_state import Selection, WindowState
from pushsvc.system_clock import now_ms

log = logging.getLogger(__name__)

_CURSORS = 64  # cursors with cached changes: after a disconnect most streams come back with the same few


class Conflation:
    """Makes messages of the newest rows of a group's windows: those of its ``logs`` that hold statistics.

    ``paces_cursor`` is true while no log of the group holds events, so that the cursor may wait with the updates.
    """

    def __init__(self, query: Query, logs: Collection[Log], sent: SentPositions, channel: Channel) -> None:
        self.paces_cursor = True
        self._selection = query.selection
        self._every = query.every
        self.logs = logs
        self._sent = sent
        self._channel = channel
        self._pending: dict[Log, int] = {}  # log: the sequence after which its changes are pending
        self._emitted_at = 0.0
        self._timer: Any = None
        self._rankings: dict[Log, Ranking] = {}
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

    def emit(self) -> None:
        """Broadcast the pending changes, now or as soon as the interval has passed."""
        if not self._pending or self._timer is not None:
            return
        wait = self._emitted_at + self._every - monotonic()
        if wait <= 0:
            self._emit()
        else:
            self._timer = get_hub().loop.timer(wait)
            self._timer.start(self._on_time)

    def _on_time(self) -> None:
        self._timer.close()
        self._timer = None
        try:
            self._emit()
        except Exception:
            log.exception("the streams of %s failed", self._channel.name)
            self._channel.fail()

    def _emit(self) -> None:
        pending, self._pending = self._pending, {}
        self._sent.paced_cursor = None
        self._emitted_at = monotonic()
        messages = [message for of, sequence in pending.items() if (message := self._update(of, sequence))]
        if messages:
            messages[-1] = sse.with_id(messages[-1], self._sent.cursor())
            self._channel.broadcast(messages)

    def _update(self, of: Log, sequence: int) -> bytes | None:
        if self._selection.top is not None:
            return self._ranking(of).update(self._window_state(of))
        return self.since(of, sequence, full_snapshot=False)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.close()
            self._timer = None

    def reset(self, of: Log) -> None:
        """Forget what was emitted of a window: its log starts over."""
        self._rankings.pop(of, None)
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

    def _ranking(self, of: Log) -> Ranking:
        if of not in self._rankings:
            self._rankings[of] = Ranking(self._selection, self._window_state(of))
        return self._rankings[of]

    def snapshot(self, of: Log, **extra: Any) -> bytes:
        """Return all rows of a window, or its ranking as it was emitted last."""
        if self._tail(of).stale:
            extra["stale"] = True
        if self._selection.top is not None:
            return self._ranking(of).snapshot(**extra)
        frame = {**self._window_state(of).snapshot(), "at": now_ms(), **extra}
        return sse_messages.snapshot(frame, self._selection)

    def snapshots(self, logs: Iterable[Log]) -> list[bytes]:
        """Return all rows as messages. Only the last has an id, so that a disconnect in between skips no part."""
        messages = [self.snapshot(of) for of in logs if of.window is not None]
        if messages:
            messages[-1] = sse.with_id(messages[-1], self._sent.cursor())
        return messages

    def initial_state(self) -> bytes:
        """Return the snapshots for a new stream. Streams of the same second get the same bytes."""
        key = (self._channel.clock.tick, self._sent.cursor())
        if self._initial is None or self._initial[:2] != key:
            self._initial = (*key, b"".join(self.snapshots(self.logs)))
        return self._initial[2]

    def since(self, of: Log, sequence: int, *, full_snapshot: bool, skipping: bool = False) -> bytes | None:
        """Return what changed after a sequence as one message; None if no selected row did.

        It is a snapshot if ``full_snapshot`` or if that is shorter. If ``skipping``, it counts the updates it replaces.
        """
        state = self._window_state(of)
        frame = None if full_snapshot or self._selection.top is not None else state.since(sequence)
        skipped = state.updates_since(sequence) if skipping else 0
        extra = {"skipped": skipped} if skipped else {}
        if skipped:
            metrics.CONFLATED.inc(skipped)
        if frame is None:
            return self.snapshot(of, **extra)
        return sse_messages.update({**frame, "at": now_ms(), **extra}, self._selection)

    def since_chunk(self, chunk: Chunk) -> bytes:
        """Return what a connection at a chunk lacks, framed. Connections at the same chunk get the same bytes."""
        end = self._channel.backlog.end
        if self._since_chunks is None or self._since_chunks[0] is not end:
            self._since_chunks = (end, {})
        made = self._since_chunks[1]
        if chunk.cursor not in made:
            made[chunk.cursor] = frame(self._since(decode(chunk.cursor), skipping=True))
        return made[chunk.cursor]

    def changes_for(self, cursor: str, positions: Mapping[int, Position]) -> bytes:
        """Return what a client with a cursor lacks. Clients of the same second get the same bytes."""
        key = (self._channel.clock.tick, self._sent.cursor())
        if self._for_cursors is None or self._for_cursors[0] != key:
            self._for_cursors = (key, {})
        made = self._for_cursors[1]
        if cursor not in made:
            if len(made) == _CURSORS:
                made.clear()
            made[cursor] = self._since(positions, skipping=False)
        return made[cursor]

    def _since(self, positions: Mapping[int, Position], *, skipping: bool) -> bytes:
        messages = []
        for of in self.logs:
            position = positions.get(of.partition)
            follower = self._sent.followers[of.partition]
            known = position is not None and position.epoch == follower.position.epoch
            sequence = position.sequence if position is not None else 0
            if (message := self.since(of, sequence, full_snapshot=not known, skipping=skipping)) is not None:
                messages.append(message)
        cursor = self._sent.cursor()
        if not messages:
            return b""
        return b"".join(messages[:-1]) + sse.with_id(messages[-1], cursor)


class Ranking:
    """The keys with the greatest values, as they were emitted last. Every update has all their rows, in order."""

    def __init__(self, selection: Selection, state: WindowState) -> None:
        self._selection = selection
        self._frame: Mapping[str, Any] = selection.apply(state.snapshot())

    def snapshot(self, **extra: Any) -> bytes:
        return sse.encode(orjson.dumps({**self._frame, "at": now_ms(), **extra}), event="snapshot")

    def update(self, state: WindowState) -> bytes | None:
        """Return the current rows, with those that left since the last time in ``gone``; None if nothing changed."""
        frame = self._selection.apply(state.snapshot())
        before, self._frame = self._frame, frame
        if before["data"] == frame["data"]:
            return None
        row_id_of = self._row_id_getter(frame["columns"])
        current = set(map(row_id_of, frame["data"]))
        gone = [list(row_id) for row in before["data"] if (row_id := row_id_of(row)) not in current]
        return sse.encode(orjson.dumps({**frame, "at": now_ms(), "gone": gone}), event="update")

    def _row_id_getter(self, columns: Sequence[str]) -> Callable[[Any], RowId]:
        if self._selection.records:
            return itemgetter("key", "field", "by") if "by" in columns else itemgetter("key", "field")
        return row_id_getter(columns)
