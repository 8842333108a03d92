"""Entries of a topic's log in, frames of its windows out. The caller brings the clock and asks ``wake_at``.

The state of a reader that takes each frame as it comes (``snapshot``: forget all, take the rows; ``update``: replace
the rows by (key, field), drop those in ``gone``) is the state that ``snapshot`` would say, column for column.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import orjson
from numpy.typing import NDArray

from pushsvc.clock import format_time
from pushsvc.event import Event
from pushsvc.stats.ledger import Ledger, Report
from pushsvc.stats.moments import Floats, Ints
from pushsvc.stats.ring import ROOM
from pushsvc.stats.rolling import Rolling
from pushsvc.stats.rows import Rows

if TYPE_CHECKING:
    from pushsvc.settings import TopicSettings

Table = list[tuple[Any, ...]]
COLUMNS = ("key", "field", "count", "rate", "sum", "mean", "min", "max", "std")
BYTES_PER_SECOND = 2_000_000
"""Bound of all updates of a topic together; the cadence stretches to keep it."""


@dataclass(frozen=True)
class Frame:
    """What to tell the readers of a window: ``rows`` in the order of COLUMNS, ``gone`` as [key, field].

    It is exact over the log up to ``offset`` and the event times in [``start``, ``end``) ms. ``since`` is when the
    topic began, ``cadence`` the ms until the next update may come, ``body`` rows and gone as a JSON object.
    """

    topic: str
    window: str
    kind: Literal["snapshot", "update"]
    start: int
    end: int
    offset: int
    since: int
    cadence: int
    rows: Table
    gone: Table
    body: bytes = field(repr=False)

    def to_json(self, at: int) -> bytes:
        """Return the frame as one JSON object without newlines; ``at`` is the server's time in ms."""
        head = orjson.dumps(
            {
                "topic": self.topic,
                "window": self.window,
                "from": format_time(self.start),
                "to": format_time(self.end),
                "offset": self.offset,
                "since": format_time(self.since),
                "at": at,
                "cadence_ms": self.cadence,
                "columns": COLUMNS,
            }
        )
        return head[:-1] + b"," + self.body[1:]


class _Pace:
    """When the next update of one window may be sent. Times in ms."""

    def __init__(self, since: int, cadence: int, bytes_per_second: float) -> None:
        self.cadence = cadence
        self._since = since
        self._bytes_per_second = bytes_per_second
        self._sent: int | None = None
        self._rest = 0

    def interval(self) -> int:
        return max(self.cadence, self._rest)

    def ready_at(self) -> int:
        return self._since if self._sent is None else self._sent + self.interval()

    def spend(self, now: int, size: int) -> None:
        """Note that an update of ``size`` bytes was sent."""
        self._sent = now
        self._rest = int(size * 1_000 / self._bytes_per_second)


class TopicAggregate:
    """The windows of one topic. ``since`` is the ms at which the topic began.

    ``offset`` is that of the last event applied. ``late`` counts events that were too old for every window,
    ``late_by_window`` those that were for each; ``ahead`` those too far ahead of their arrival to be kept for later;
    ``folded`` those counted under ``__other__``; ``ignored`` the numbers in fields beyond the cap.
    """

    def __init__(self, topic: str, settings: TopicSettings, since: int) -> None:
        self.topic = topic
        self.since = since
        self.offset = 0
        self.late = self.ahead = self.folded = self.ignored = 0
        self.late_by_window = {window.name: 0 for window in settings.windows}
        self._settings = settings
        self._wall = settings.clock == "wall"
        self._begun = self._wall
        self._rows = Rows(settings.max_keys, settings.max_fields)
        self._rolling = Rolling(settings.windows, self._rows, since)
        self._numbers = {window.name: number for number, window in enumerate(settings.windows)}
        self._seconds: Floats = np.array([window.length / 1_000 for window in settings.windows])
        self._ledger = Ledger(self._rolling)
        self._released_at = self._rolling.heads
        share = BYTES_PER_SECOND / len(settings.windows)
        self._paces = [_Pace(since, settings.idle_cadence, share) for _ in settings.windows]

    # -- in

    def apply(self, offset: int, arrival: int, events: Sequence[Event]) -> None:
        """Count the events of an entry whose last offset is ``offset``; an event without time has ``arrival`` (ms)."""
        self.offset = offset
        if not events:
            return
        times = [arrival if event.time is None else event.time for event in events]
        fit = self._judge_wall(arrival, times) if self._wall else self._judge_event(times)
        self._count(events, times, fit)

    def advance(self, now: int) -> None:
        """Tell that every entry up to ``now`` (ms) is applied: on the wall clock the windows move there, never back."""
        if self._wall:
            self._rolling.move(now)

    def watch(self, window: str, watched: bool) -> None:
        """Choose the cadence of a window by whether somebody watches it."""
        settings = self._settings
        self._paces[self._numbers[window]].cadence = settings.cadence if watched else settings.idle_cadence

    # -- out

    def wake_at(self) -> int | None:
        """Return the ms at which ``advance`` and ``due`` may have something to say; None: not before an ``apply``."""
        ready = [pace.ready_at() for pace in self._paces]
        if not self._rolling.settled:
            return min(ready)
        edges = self._rolling.next_changes() if self._wall else [None] * len(ready)
        times = []
        for pending, at, edge in zip(self._ledger.pending(), ready, edges, strict=True):
            if pending:
                times.append(at)
            elif edge is not None:
                times.append(max(at, edge))
        return min(times, default=None)

    def due(self, now: int) -> list[Frame]:
        """Return the updates of the windows that changed and whose cadence allows it."""
        return self._updates(now, [number for number, pace in enumerate(self._paces) if pace.ready_at() <= now])

    def flush(self, now: int) -> list[Frame]:
        """Return the updates of all windows that changed, whatever the cadence."""
        return self._updates(now, list(range(len(self._paces))))

    def snapshot(self, window: str) -> Frame:
        """Return all rows of a window. It says everything: no update repeats it, and nothing before it is needed."""
        number = self._numbers[window]
        report = self._ledger.snapshot(number)
        frame = self._frame(number, "snapshot", self._table(report), [], None)
        self._ledger.release()
        return frame

    # -- judging

    def _judge_wall(self, arrival: int, times: list[int]) -> Iterable[bool]:
        """Move to the arrival; tell which events are neither late everywhere nor too far ahead."""
        self._rolling.move(arrival)
        limit = arrival + ROOM
        if min(times) >= self._rolling.all_from and max(times) <= limit:
            return repeat(True)
        stamps = np.array(times, np.int64)
        early = stamps > limit
        self.ahead += int(np.count_nonzero(early))
        late = self._note_late(stamps, self._rolling.heads)
        return list((~early & ~late).tolist())

    def _judge_event(self, times: list[int]) -> Iterable[bool]:
        """Move along the event times; an event is late if it was when its turn came, as if each came alone."""
        if not self._begun:
            self._rolling.begin(times[0])
            self._begun = True
        before = self._rolling.heads
        self._rolling.move(max(times))
        if min(times) >= self._rolling.all_from:
            return repeat(True)
        stamps = np.array(times, np.int64)
        self._note_late(stamps, np.maximum(before, self._rolling.panes_of(np.maximum.accumulate(stamps))))
        return list((stamps >= self._rolling.any_from).tolist())

    def _note_late(self, stamps: Ints, heads: Ints) -> NDArray[np.bool_]:
        late = self._rolling.late(stamps, heads)
        for name, count in zip(self.late_by_window, np.count_nonzero(late, axis=1).tolist(), strict=True):
            self.late_by_window[name] += count
        everywhere = np.asarray(late.all(axis=0))
        self.late += int(np.count_nonzero(everywhere))
        return everywhere

    # -- counting

    def _count(self, events: Sequence[Event], times: list[int], fit: Iterable[bool]) -> None:
        table = self._rows
        totals = len(table.totals)
        if not totals:
            table.open_count(table.totals)
        if table.room() < len(events) and self._released_at is not self._rolling.heads:
            self._ledger.release()
            self._released_at = self._rolling.heads
        self._rolling.put(*self._lookup(events, times, fit))
        if len(table.totals) > totals:
            self._rolling.touch(list(table.totals.values()))

    def _lookup(
        self, events: Sequence[Event], times: list[int], fit: Iterable[bool]
    ) -> tuple[list[int], list[int], list[float]]:
        """Return, for each thing to count, its time, its row and its value.

        An event that is not ``fit`` opens the totals of its fields, so that they do not depend on how late it was read.
        """
        table = self._rows
        when: list[int] = []
        rows: list[int] = []
        values: list[float] = []
        for event, time, counts in zip(events, times, fit, strict=False):
            own = table.of(event.key) if counts else table.totals
            if counts:
                self.folded += own is table.other
                row = own.get(None)
                when.append(time)
                rows.append(table.open_count(own) if row is None else row)
                values.append(0.0)
            for name, value in event.numbers().items():
                row = own.get(name)
                if row is None and (row := table.open(own, name)) is None:
                    self.ignored += 1
                elif counts:
                    when.append(time)
                    rows.append(row)
                    values.append(value)
        return when, rows, values

    # -- frames

    def _updates(self, now: int, numbers: list[int]) -> list[Frame]:
        pending = self._ledger.pending() if numbers else []
        windows = np.array([number for number in numbers if pending[number]], np.int64)
        if not len(windows):
            return []
        report = self._ledger.update(windows)
        table = self._table(report)
        gone: Table = [(self._rows.keys[row], self._rows.fields[row]) for row in report.gone_rows.tolist()]
        frames = []
        for number in windows.tolist():
            rows = table[_part(report.windows, number)]
            left = gone[_part(report.gone_windows, number)]
            if rows or left:
                frames.append(self._frame(number, "update", rows, left, now))
        if gone:
            self._ledger.release()
        return frames

    def _frame(
        self, number: int, kind: Literal["snapshot", "update"], rows: Table, gone: Table, sent: int | None
    ) -> Frame:
        ring, pace = self._rolling.rings[number], self._paces[number]
        body = orjson.dumps({"data": rows, "gone": gone})
        if sent is not None:
            pace.spend(sent, len(body))
        return Frame(
            topic=self.topic,
            window=ring.window.name,
            kind=kind,
            start=ring.start,
            end=ring.end,
            offset=self.offset,
            since=self.since,
            cadence=pace.interval(),
            rows=rows,
            gone=gone,
            body=body,
        )

    def _table(self, report: Report) -> Table:
        rows = report.rows.tolist()
        keys = [self._rows.keys[row] for row in rows]
        fields = [self._rows.fields[row] for row in rows]
        rate = (report.count / self._seconds[report.windows]).tolist()
        columns = [keys, fields, report.count.tolist(), rate, *_nullable(report.figures)]
        return list(zip(*columns, strict=True))


def _part(windows: Ints, number: int) -> slice:
    """Return where in the ordered ``windows`` that one is."""
    return slice(*np.searchsorted(windows, [number, number + 1]).tolist())


def _nullable(figures: Floats) -> list[list[float | None]]:
    """Return columns with null where a figure does not exist or is beyond the range of doubles."""
    wrong = ~np.isfinite(figures)
    if not wrong.any():
        return list(figures.tolist())
    cells = figures.astype(object)
    cells[wrong] = None
    return list(cells.tolist())
