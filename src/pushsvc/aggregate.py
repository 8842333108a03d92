"""Entries of a topic's log in, frames of its windows out. The caller brings the clock and asks ``wake_at``.

The state of a reader that takes each frame as it comes (``snapshot``: forget all, take the rows; ``update``: replace
the rows by (key, field), drop those in ``gone``) is the state that ``snapshot`` would say, column for column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
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
    rows: list[list[Any]]
    gone: list[list[Any]]
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

    def __init__(self, cadence: int, bytes_per_second: float) -> None:
        self.cadence = cadence
        self._bytes_per_second = bytes_per_second
        self._sent: int | None = None
        self._rest = 0

    def interval(self) -> int:
        return max(self.cadence, self._rest)

    def ready_at(self) -> int:
        return 0 if self._sent is None else self._sent + self.interval()

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
        self._ledgers = [Ledger(self._rolling, number) for number in self._numbers.values()]
        share = BYTES_PER_SECOND / len(settings.windows)
        self._paces = [_Pace(settings.idle_cadence, share) for _ in settings.windows]

    # -- in

    def apply(self, offset: int, arrival: int, events: Sequence[Event]) -> None:
        """Count the events of an entry whose last offset is ``offset``; an event without time has ``arrival`` (ms)."""
        self.offset = offset
        if not events:
            return
        times = [arrival if event.time is None else event.time for event in events]
        stamps = np.array(times, np.int64)
        fit = self._judge_wall(arrival, times, stamps) if self._wall else self._judge_event(times, stamps)
        self._count(events, stamps, fit)

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
        times = [pace.ready_at() for pace, ledger in zip(self._paces, self._ledgers, strict=True) if ledger.pending()]
        if self._wall and (edge := self._rolling.next_change()) is not None:
            times.append(edge)
        return min(times, default=None)

    def due(self, now: int) -> list[Frame]:
        """Return the updates of the windows that changed and whose cadence allows it."""
        return self._updates(now, [number for number, pace in enumerate(self._paces) if pace.ready_at() <= now])

    def flush(self, now: int) -> list[Frame]:
        """Return the updates of all windows that changed, whatever the cadence."""
        return self._updates(now, range(len(self._paces)))

    def snapshot(self, window: str) -> Frame:
        """Return all rows of a window. It says everything: no update repeats it, and nothing before it is needed."""
        number = self._numbers[window]
        frame = self._frame(number, "snapshot", self._ledgers[number].snapshot(), None)
        self._release()
        return frame

    # -- judging

    def _judge_wall(self, arrival: int, times: list[int], stamps: Ints) -> Ints | None:
        """Move to the arrival; return which events are neither late everywhere nor too far ahead, None for all."""
        self._rolling.move(arrival)
        limit = arrival + ROOM
        if min(times) >= self._rolling.all_from and max(times) <= limit:
            return None
        early = stamps > limit
        self.ahead += int(np.count_nonzero(early))
        return np.flatnonzero(~early & ~self._note_late(stamps, self._rolling.heads))

    def _judge_event(self, times: list[int], stamps: Ints) -> Ints | None:
        """Move along the event times; an event is late if it was when its turn came, as if each came alone."""
        if not self._begun:
            self._rolling.begin(times[0])
            self._begun = True
        before = self._rolling.heads
        self._rolling.move(max(times))
        if min(times) >= self._rolling.all_from:
            return None
        self._note_late(stamps, np.maximum(before, self._rolling.panes_of(np.maximum.accumulate(stamps))))
        return np.flatnonzero(stamps >= self._rolling.any_from)

    def _note_late(self, stamps: Ints, heads: Ints) -> NDArray[np.bool_]:
        late = self._rolling.late(stamps, heads)
        for name, count in zip(self.late_by_window, np.count_nonzero(late, axis=1).tolist(), strict=True):
            self.late_by_window[name] += count
        everywhere = np.asarray(late.all(axis=0))
        self.late += int(np.count_nonzero(everywhere))
        return everywhere

    # -- counting

    def _count(self, events: Sequence[Event], stamps: Ints, fit: Ints | None) -> None:
        totals = len(self._rows.totals)
        if not totals:
            self._rows.open_count(self._rows.totals)
        if self._rows.room() < len(events):
            self._release()
        at, rows, values = self._lookup(events, range(len(events)) if fit is None else fit.tolist())
        if len(self._rows.totals) > totals:
            self._rolling.touch(list(self._rows.totals.values()))
        if at:
            self._rolling.add(stamps[at], np.array(rows, np.int64), np.array(values, np.float64))

    def _lookup(self, events: Sequence[Event], fit: Sequence[int]) -> tuple[list[int], list[int], list[float]]:
        """Return, for each thing to count: which event it is of, its row, and its value."""
        table = self._rows
        at: list[int] = []
        rows: list[int] = []
        values: list[float] = []
        for index in fit:
            event = events[index]
            own = table.of(event.key)
            self.folded += own is table.other
            row = own.get(None)
            at.append(index)
            rows.append(table.open_count(own) if row is None else row)
            values.append(0.0)
            for name, value in event.numbers().items():
                row = own.get(name)
                if row is None and (row := table.open(own, name)) is None:
                    self.ignored += 1
                    continue
                at.append(index)
                rows.append(row)
                values.append(value)
        return at, rows, values

    # -- frames

    def _updates(self, now: int, numbers: Sequence[int]) -> list[Frame]:
        frames = []
        for number in numbers:
            ledger = self._ledgers[number]
            report = ledger.update() if ledger.pending() else None
            if report:
                frames.append(self._frame(number, "update", report, now))
        if any(frame.gone for frame in frames):
            self._release()
        return frames

    def _frame(self, number: int, kind: Literal["snapshot", "update"], report: Report, sent: int | None) -> Frame:
        ring, pace = self._rolling.rings[number], self._paces[number]
        rows = self._table(report, ring.window.length / 1_000)
        gone = [[self._rows.keys[row], self._rows.fields[row]] for row in report.gone.tolist()]
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

    def _table(self, report: Report, seconds: float) -> list[list[Any]]:
        rows = report.rows.tolist()
        keys = [self._rows.keys[row] for row in rows]
        fields = [self._rows.fields[row] for row in rows]
        figures = [_nullable(column) for column in report.figures]
        columns = [keys, fields, report.count.tolist(), (report.count / seconds).tolist(), *figures]
        return [list(row) for row in zip(*columns, strict=True)]

    def _release(self) -> None:
        """Free the rows that are empty in every window and that no reader holds."""
        unused = self._rolling.unused()
        for ledger in self._ledgers:
            unused = unused[ledger.absent(unused)]
        if len(unused):
            self._rolling.changed[:, unused] = False
            self._rows.close(unused.tolist())


def _nullable(figures: Floats) -> list[float | None]:
    """Return a column with null where the figure does not exist or is beyond the range of doubles."""
    wrong = ~np.isfinite(figures)
    if not wrong.any():
        return list(figures.tolist())
    cells = figures.astype(object)
    cells[wrong] = None
    return list(cells.tolist())
