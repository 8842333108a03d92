"""Statistics of a group beyond entry by entry: what changed behind a position, at a pace, or as a ranking."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any

from gevent import get_hub

from pushsvc import sse
from pushsvc.broker.keys import Log
from pushsvc.broker.log import FrameKind, StatisticsEntry
from pushsvc.cursor import Position, decode
from pushsvc.hub import messages as frames
from pushsvc.hub import metrics
from pushsvc.hub.delivery.backlog import Chunk
from pushsvc.hub.window_state import Mirror, Selection, encode_frame
from pushsvc.system_clock import now_ms

if TYPE_CHECKING:
    from pushsvc.hub.groups.group import Group

log = logging.getLogger(__name__)

_CURSORS = 64
"""Positions for which is kept what they lack: after a cut most streams come back from the same few."""


class Conflation:
    """Says the newest rows of a group's windows. ``told`` is the cursor of who has what was said, while more waits."""

    def __init__(self, group: Group) -> None:
        self.told: str | None = None
        self._group = group
        self._selection = group.query.selection
        self._every = group.query.every
        self._waiting: dict[Log, int] = {}  # the position behind which changes wait to be said
        self._told_at = 0.0
        self._timer: Any = None
        self._rankings: dict[Log, Ranking] = {}
        self._first: tuple[int, str, bytes] | None = None
        self._caught: tuple[Chunk, dict[str, bytes]] | None = None
        self._resumed: tuple[tuple[int, str], dict[str, bytes]] | None = None

    # At a pace

    def note(self, of: Log, entry: StatisticsEntry) -> None:
        """Take up that a window changed."""
        if entry.kind is not FrameKind.BASELINE:
            if not self._waiting and not self._group.has_events:
                self.told = self._group.cursor_at(of.partition, entry.sequence - 1)
            self._waiting.setdefault(of, entry.sequence - 1)

    def tell(self) -> None:
        """Say what waits, now or as soon as the pace allows."""
        if not self._waiting or self._timer is not None:
            return
        wait = self._told_at + self._every - monotonic()
        if wait <= 0:
            self._tell()
        else:
            self._timer = get_hub().loop.timer(wait)
            self._timer.start(self._on_time)

    def _on_time(self) -> None:
        self._timer.close()
        self._timer = None
        try:
            self._tell()
        except Exception:
            metrics.ERRORS.inc()
            log.exception("a group of streams, %s", self._group.query)
            self._group.fail()

    def _tell(self) -> None:
        waiting, self._waiting = self._waiting, {}
        self.told = None
        self._told_at = monotonic()
        messages = [message for of, sequence in waiting.items() if (message := self._update(of, sequence))]
        if messages:
            messages[-1] = sse.with_id(messages[-1], self._group.cursor())
            self._group.say(messages)

    def _update(self, of: Log, sequence: int) -> bytes | None:
        if self._selection.top is not None:
            return self._ranking(of).update(self._mirror(of))
        return self.since(of, sequence, whole=False)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.close()
            self._timer = None

    def renew(self, of: Log) -> None:
        """Forget what was said of a window: it begins anew."""
        self._rankings.pop(of, None)
        self._waiting.pop(of, None)
        if not self._waiting:
            self.told = None

    # The state

    def _mirror(self, of: Log) -> Mirror:
        mirror = self._group.tail(of).mirror
        assert mirror is not None, "an events log has no state"
        return mirror

    def _ranking(self, of: Log) -> Ranking:
        if of not in self._rankings:
            self._rankings[of] = Ranking(self._selection, self._mirror(of))
        return self._rankings[of]

    def snapshot(self, of: Log) -> bytes:
        """Return the state of a window; of a ranking, the one that was last said."""
        if self._selection.top is not None:
            return self._ranking(of).snapshot()
        return frames.snapshot({**self._mirror(of).snapshot(), "at": now_ms()}, self._selection)

    def first(self) -> bytes:
        group = self._group
        key = (group.hub.tick, group.cursor())
        if self._first is None or self._first[:2] != key:
            self._first = (*key, b"".join(group.snapshots()))
        return self._first[2]

    def since(self, of: Log, sequence: int, *, whole: bool, slow: bool = False) -> bytes | None:
        """Return what changed behind a sequence as one message; None where nothing that is selected did.

        A snapshot if ``whole``, and where it is shorter. To a ``slow`` stream it says how many updates it stands for.
        """
        mirror = self._mirror(of)
        frame = None if whole or self._selection.top is not None else mirror.since(sequence)
        skipped = mirror.updates_since(sequence) if slow else 0
        told: dict[str, Any] = {"at": now_ms(), **({"skipped": skipped} if skipped else {})}
        if skipped:
            metrics.CONFLATED.inc(skipped)
        if frame is not None:
            return frames.update({**frame, **told}, self._selection)
        if self._selection.top is not None:
            return self._ranking(of).snapshot(**told)
        return frames.snapshot({**mirror.snapshot(), **told}, self._selection)

    def since_chunk(self, at: Chunk) -> bytes:
        """Return what who stands at a chunk lacks, the same bytes for all who stand there now."""
        end = self._group.tape.end
        if self._caught is None or self._caught[0] is not end:
            self._caught = (end, {})
        found = self._caught[1]
        if at.cursor not in found:
            found[at.cursor] = self._since(decode(at.cursor), slow=True)
        return found[at.cursor]

    def resumed(self, cursor: str, positions: Mapping[int, Position]) -> bytes:
        """Return what who comes with a cursor lacks, the same bytes for all in the same second."""
        key = (self._group.hub.tick, self._group.cursor())
        if self._resumed is None or self._resumed[0] != key:
            self._resumed = (key, {})
        found = self._resumed[1]
        if cursor not in found:
            if len(found) == _CURSORS:
                found.clear()
            found[cursor] = self._since(positions, slow=False)
        return found[cursor]

    def _since(self, positions: Mapping[int, Position], *, slow: bool) -> bytes:
        messages = []
        for of in self._group.logs:
            position = positions.get(of.partition)
            follower = self._group.followers[of.partition]
            known = position is not None and position.epoch == follower.position.epoch
            sequence = position.sequence if position is not None else 0
            if (message := self.since(of, sequence, whole=not known, slow=slow)) is not None:
                messages.append(message)
        cursor = self._group.cursor()
        if not messages:
            return sse.move_cursor(cursor)
        return b"".join(messages[:-1]) + sse.with_id(messages[-1], cursor)


class Ranking:
    """The keys with the greatest values, as they were last said. Every update has all their rows, in order."""

    def __init__(self, selection: Selection, mirror: Mirror) -> None:
        self._selection = selection
        self._frame: Mapping[str, Any] = selection.apply(mirror.snapshot())

    def snapshot(self, **told: Any) -> bytes:
        return sse.encode(encode_frame({**self._frame, "at": now_ms(), **told}), event="snapshot")

    def update(self, mirror: Mirror) -> bytes | None:
        """Return the rows of now, and in ``gone`` those that left since the last time; None if nothing changed."""
        frame = self._selection.apply(mirror.snapshot())
        before, self._frame = self._frame, frame
        if before["data"] == frame["data"]:
            return None
        there = set(map(self._place, frame["data"]))
        gone = [list(place) for row in before["data"] if (place := self._place(row)) not in there]
        return sse.encode(encode_frame({**frame, "at": now_ms(), "gone": gone}), event="update")

    def _place(self, row: Any) -> tuple[Any, ...]:
        """Return the key and field of a row, and by what it is grouped where there are several ways."""
        columns = self._frame["columns"]
        names = ("key", "field", "by") if "by" in columns else ("key", "field")
        return tuple(row[name] if self._selection.records else row[columns.index(name)] for name in names)
