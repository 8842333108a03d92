"""Entries of topics' logs in, frames of their windows out. The caller brings the clock and asks ``wake_at``.

The state of a reader that takes each frame as it comes (``snapshot``: forget all, take the rows; ``update``: replace
the rows by (key, field), drop those in ``gone``) is the state that ``snapshot`` would say, column for column.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import numpy as np
import orjson

from pushsvc.aggregate.cadence import Paces
from pushsvc.aggregate.row_updates import Counting, Topic
from pushsvc.aggregate.statistics_frame import Frame, Heads, Pieces, counts_to_json, divide
from pushsvc.event.columns import NO_TIME, Columns
from pushsvc.stats.arrays import Flags, Index, Ints
from pushsvc.stats.engine import engine_of
from pushsvc.stats.ledger import Ledger, RowChanges
from pushsvc.stats.pause import Pause, no_pause
from pushsvc.stats.rows import ALL_KEYS, EVENTS
from pushsvc.stats.schema import CLASSES, PARAMETERS
from pushsvc.stats.serialize import InvalidState, deserialize, serialize_parts
from pushsvc.stats.statistic_names import is_of_values
from pushsvc.stats.window import TimeRange

if TYPE_CHECKING:
    from pushsvc.settings import TopicSettings

ROOM = 10_000
"""Milliseconds ahead of its arrival for which an event is kept: the 5 s that producers may be ahead, and as much again
for clocks that differ between machines."""

ENGINE_BYTES = 512_000_000
"""Bound of an engine's memory: beyond it, new keys are counted under ``__other__``."""


class Aggregate:
    """The windows of topics that share settings and a clock, in one engine.

    ``time`` (ms) is where the clock begins, ``most_bytes`` the memory beyond which no key gets rows of its own.
    Nothing here takes much longer than a few milliseconds without calling ``pause``, which may do anything but call
    this aggregate.
    """

    STATE: ClassVar[tuple[str, ...]] = (
        "topics", "_by_number", "_form", "_wall", "_begun", "_columns", "_places", "_rolling", "_timed", "_numbers",
        "_ledger", "_paces", "_most_bytes", "_released_at", "_measured_at", "_unmeasured", "_wake", "_wake_known",
    )  # fmt: skip
    DERIVED: ClassVar[tuple[str, ...]] = ("_settings", "_heads", "_counting", "_pause")

    def __init__(
        self, settings: TopicSettings, time: int, most_bytes: int = ENGINE_BYTES, pause: Pause = no_pause
    ) -> None:
        self.topics: dict[str, Topic] = {}
        self._by_number: dict[int, Topic] = {}
        self._settings = settings
        self._form = repr(settings)
        self._wall = settings.clock == "wall"
        self._begun = self._wall
        self._columns = settings.columns
        self._places = [n - _FIGURES for n, name in enumerate(self._columns) if _is_value(name)]
        self._pause = pause
        self._rolling = engine_of(
            settings.windows,
            time,
            settings.percents,
            settings.exact,
            settings.max_events,
            pause,
            settings.value_statistics,
            settings.max_values,
        )
        self._heads = Heads(self._rolling.rows, ends=len(settings.key) > 1)
        self._counting = Counting(self._rolling, settings.values)
        self._timed = [window for window in settings.windows if not window.events]
        self._numbers = {window.name: number for number, window in enumerate(settings.windows)}
        self._ledger = Ledger(self._rolling)
        self._paces = Paces(len(settings.windows))
        self._most_bytes = most_bytes
        self._released_at = self._measured_at = self._rolling.step
        self._unmeasured = 0
        self._wake: int | None = None
        self._wake_known = False

    # -- state

    def save(self) -> list[bytes]:
        """Return the state, in parts of any size. What is restored from it says the same as this, byte for byte."""
        self._rolling.settle()
        return list(serialize_parts(self, (type(self), *_CLASSES), PARAMETERS, self._pause))

    @classmethod
    def restore(cls, settings: TopicSettings, data: bytes, pause: Pause = no_pause) -> Self:
        """Return an aggregate as it was saved with equal settings; raise InvalidState if it cannot be had."""
        restored = deserialize(data, (cls, *_CLASSES), PARAMETERS, pause)
        if not isinstance(restored, cls) or restored._form != repr(settings):
            raise InvalidState("a state of other settings")
        restored._settings = settings
        restored._pause = restored._rolling.pause = pause
        restored._heads = Heads(restored._rolling.rows, ends=len(settings.key) > 1)
        restored._counting = Counting(restored._rolling, settings.values)
        return restored

    # -- topics

    def open(self, name: str, since: int) -> Topic:
        """Begin a topic that began at ``since`` (ms)."""
        settings = self._settings
        table = self._rolling.rows.add_topic(settings.max_keys, settings.max_fields, settings.key, settings.values)
        self.topics[name] = topic = Topic(name, since, table, dict.fromkeys(self._numbers, 0))
        self._by_number[table.number] = topic
        self._paces.open(table.number, since, settings.idle_cadence)
        return topic

    def close(self, name: str) -> None:
        """Forget a topic."""
        topic = self.topics.pop(name)
        del self._by_number[topic.table.number]
        self._ledger.discard(topic.table)
        self._wake_known = False

    def watch(self, name: str, window: str, watched: bool) -> None:
        """Choose the cadence of a window by whether somebody watches it."""
        settings = self._settings
        cadence = settings.cadence if watched else settings.idle_cadence
        if self._paces.set(self._numbers[window], self.topics[name].table.number, cadence):
            self._wake_known = False

    # -- in

    def reach(self, arrival: int) -> int:
        """Tell up to which arrival (ms) entries may be applied as one with an entry of ``arrival``, the next of all:
        the clock goes there, and cannot tell them apart."""
        settings = self._settings
        if not self._wall or settings.exact or settings.largest_count_window:
            return arrival
        self.advance(arrival)
        return self._rolling.time

    def apply(self, name: str, offset: int, arrival: int | Ints, events: Columns) -> None:
        """Count the events of an entry whose last offset is ``offset``; an event without time has ``arrival`` (ms).

        Of several entries that are applied as one (``reach``), ``arrival`` has that of each event [n].
        """
        topic = self.topics[name]
        topic.offset = offset
        if not len(events):
            return
        if not topic.begun:
            topic.begun = True
            self._rolling.touch(topic.table.totals())
        times = None if events.times is None else np.where(events.times == NO_TIME, arrival, events.times)
        if self._wall:
            self.advance(int(np.max(arrival)))
            fit = None if times is None else self._judge_wall(topic, arrival, times)
        else:
            times = np.full(len(events), arrival) if times is None else times
            fit = self._judge_event(topic, times)
        self._make_room(topic, len(events))
        times = np.full(len(events), arrival) if times is None else times
        self._counting.count(topic, events, times, fit, self._own(events))
        self._wake_for(topic)

    def _own(self, events: Columns) -> Sequence[Flags] | None:
        """Return the events of each grouping that are to be counted here; None for all."""
        return None

    def advance(self, now: int) -> None:
        """Tell that every entry up to ``now`` (ms) is applied: on the wall clock the windows move there, never back."""
        if self._wall and self._rolling.move(now):
            self._wake_known = False

    # -- out

    def wake_at(self) -> int | None:
        """Return the ms at which ``advance`` and ``due`` may have something to say; None: not before an ``apply``."""
        if not self._wake_known:
            self._wake, self._wake_known = self._next_wake(), True
        return self._wake

    def _next_wake(self) -> int | None:
        windows = range(len(self._settings.windows))
        edges = self._rolling.next_changes(self._paces.ready_at) if self._wall else [None] * len(windows)
        times = [edge for edge in edges if edge is not None]
        for window in windows:
            topics = self._rolling.rows.topic[self._ledger.pending(window)]
            if len(topics):
                times.append(int(self._paces.ready_at(window, topics).min()))
        return min(times, default=None)

    def _wake_for(self, topic: Topic) -> None:
        """Note that a topic has something to say as soon as its cadence allows."""
        if self._wake_known:
            topics = np.array([topic.table.number])
            ready = min(int(self._paces.ready_at(w, topics)[0]) for w in range(len(self._settings.windows)))
            self._wake = ready if self._wake is None else min(self._wake, ready)

    def due(self, now: int) -> list[Frame]:
        """Return the updates of the windows that changed and whose cadence allows it."""
        wake = self.wake_at()
        return [] if wake is None or wake > now else self._updates(now, paced=True)

    def flush(self, now: int) -> list[Frame]:
        """Return the updates of all windows that changed, whatever the cadence."""
        return self._updates(now, paced=False)

    def snapshot(self, name: str, window: str) -> Frame:
        """Return all rows of a window. It says everything: no update repeats it, and nothing before it is needed."""
        number, topic = self._numbers[window], self.topics[name]
        report = self._ledger.snapshot(number, topic.table) if topic.begun else self._ledger.nothing()
        size = len(report.rows)
        (data,) = divide([(0, size)], size, partial(self._encode, number, report))
        (extent,) = self._rolling.extents(number, [topic.table])
        parts = self._parts(topic, data, b"[]", report.rows, extent)
        cadence = int(self._paces.intervals(number, np.array([topic.table.number]))[0])
        frame = self._frame(number, topic, "snapshot", extent, cadence, False, parts)
        self._ledger.release()
        self._wake_known = False
        return frame

    # -- judging

    def _judge_wall(self, topic: Topic, arrival: int | Ints, times: Ints) -> Flags | None:
        """Tell which events are neither late everywhere nor too far ahead; None for all. Our own lag is nobody's."""
        if times.max() <= np.min(arrival) + ROOM and times.min() >= np.max(arrival) - self._shortest():
            return None
        early = times > arrival + ROOM
        topic.ahead += int(np.count_nonzero(early))
        return ~early & ~self._note_late(topic, times, np.full(len(times), arrival))

    def _judge_event(self, topic: Topic, times: Ints) -> Flags | None:
        """Move along the event times; an event is late if it was when its turn came, as if each came alone."""
        if not self._begun:
            self._rolling.begin(int(times[0]))
            self._begun = True
        before = self._rolling.time
        if self._rolling.move(int(times.max())):
            self._wake_known = False
        if times.min() >= self._rolling.time - self._shortest():
            return None
        return ~self._note_late(topic, times, np.maximum(before, np.maximum.accumulate(times)))

    def _shortest(self) -> int:
        return min((window.length - window.pane for window in self._timed), default=_EVER)

    def _note_late(self, topic: Topic, times: Ints, heads: Ints) -> Flags:
        """Tell which events had left every window when its head was at ``heads`` (ms)."""
        everywhere = np.full(
            len(times), not self._settings.largest_count_window
        )  # the last events may be as old as they like
        for window in self._timed:
            late = times // window.pane <= heads // window.pane - window.panes
            topic.late_by_window[window.name] += int(np.count_nonzero(late))
            everywhere &= late
        topic.late += int(np.count_nonzero(everywhere))
        return everywhere

    # -- room

    def _make_room(self, topic: Topic, keys: int) -> None:
        """Free rows nobody needs when they may be short, and look at the memory; each at most once a pane.

        A look takes milliseconds. When a log whose events lie panes apart is read again, that was half of the time: so
        it waits until they may have taken a tenth of the memory.
        """
        self._unmeasured += keys * _EVENT_BYTES
        due = self._rolling.rows.full or self._unmeasured >= self._most_bytes / 10
        if due and self._measured_at != self._rolling.step:
            self._measured_at, self._unmeasured = self._rolling.step, 0
            self._rolling.measure(self._most_bytes)
        self._rolling.tidy()
        if topic.table.room() < keys and self._released_at != self._rolling.step:
            self._ledger.release()
            self._released_at = self._rolling.step

    # -- frames

    def _updates(self, now: int, *, paced: bool) -> list[Frame]:
        frames: list[Frame] = []
        self._wake_known = False
        ended = False
        for window in range(len(self._settings.windows)):
            rows = self._ledger.pending(window)
            if paced and len(rows):
                rows = rows[self._paces.ready_at(window, self._rolling.rows.topic[rows]) <= now]
            if not len(rows):
                continue
            report = self._ledger.update(window, rows)
            ended |= bool(len(report.gone))
            frames += self._frames(window, report, now)
        if ended:
            self._ledger.release()
        return frames

    def _frames(self, window: int, report: RowChanges, now: int) -> list[Frame]:
        """Return an update for each topic in a report."""
        owners, left = (self._rolling.rows.topic[rows] for rows in (report.rows, report.gone))
        numbers = np.unique(np.concatenate([owners, left]))
        edges = _edges(owners, numbers)
        rows, gone = list(pairwise(edges.tolist())), pairwise(_edges(left, numbers).tolist())
        data = divide(rows, len(report.rows), partial(self._encode, window, report))
        topics = [self._by_number[number] for number in numbers.tolist()]
        extents = self._rolling.extents(window, [topic.table for topic in topics])
        bodies = [
            self._parts(topic, array, self._gone(report.gone[slice(*away)]), report.rows[slice(*own)], extent)
            for topic, array, own, away, extent in zip(topics, data, rows, gone, extents, strict=True)
        ]
        self._paces.spend(window, numbers, now, np.array([sum(map(len, parts)) for parts in bodies]))
        cadences = self._paces.intervals(window, numbers).tolist()
        return [
            self._frame(window, topic, "update", *told)
            for topic, *told in zip(topics, extents, cadences, self._ending(report, edges), bodies, strict=True)
        ]

    def _ending(self, report: RowChanges, edges: Ints) -> list[bool]:
        """Tell between which edges [n + 1] there is a row of a key that is said to be zero."""
        zero = (report.count == 0) & (self._rolling.rows.key[report.rows] != ALL_KEYS)
        before = np.concatenate([[0], np.cumsum(zero)])[edges]
        return list((before[:-1] < before[1:]).tolist())

    def _encode(self, window: int, report: RowChanges, part: slice) -> Pieces:
        rows = report.rows[part]
        valued = self._rolling.rows.kind[rows] != EVENTS
        figures = self._rolling.read(window, rows[valued])
        values = self._rolling.read_values(window, rows)
        self._pause()
        pieces = Pieces(
            self._heads.of(rows),
            counts_to_json(report.count[part], self._settings.windows[window].length / 1_000 or None),
            figures,
            valued,
            self._heads.ends_of(rows),
            list(zip(self._places, values, strict=True)),
        )
        self._pause()
        return pieces

    def _gone(self, rows: Ints) -> bytes:
        if not len(rows):
            return b"[]"
        heads, ends = self._heads.of(rows), self._heads.ends_of(rows)
        whole = heads if ends is None else [b"%b,%b" % pair for pair in zip(heads, ends, strict=True)]
        return b"[%b]" % b",".join([b"%b]" % row for row in whole])

    def _parts(self, topic: Topic, data: list[bytes], gone: bytes, rows: Ints, extent: TimeRange) -> list[bytes]:
        """Return the body of a frame: data, gone, and partial if there is any."""
        parts = [b'"data":', *data, b',"gone":', gone]
        keys = [] if extent.start is None else topic.table.partial(rows, extent.start)
        if keys:
            parts += (b',"partial":', orjson.dumps(keys))
        return parts

    def _frame(
        self,
        window: int,
        topic: Topic,
        kind: Literal["snapshot", "update"],
        extent: TimeRange,
        cadence: int,
        ending: bool,
        parts: Sequence[bytes],
    ) -> Frame:
        return Frame(
            topic=topic.name,
            window=self._settings.windows[window].name,
            kind=kind,
            start=extent.start,
            end=extent.end,
            truncated=extent.truncated,
            offset=topic.offset,
            since=topic.since,
            cadence=cadence,
            columns=self._columns,
            ending=ending,
            parts=parts,
        )


def _edges(owners: Index, numbers: Index) -> Ints:
    """Return where the part of each number [n] begins among the owners, in order, and where the last one ends."""
    return np.append(np.searchsorted(owners, numbers), len(owners))


def _is_value(column: str) -> bool:
    return column == "approximate" or is_of_values(column)


_EVER = 1 << 62
_EVENT_BYTES = 500_000
"""What an event takes at most: a place in every window for each of many fields, under each of several keys."""

_FIGURES = 4
"""Columns before the first figure: key, field, count and rate."""

_CLASSES = (Paces, Topic, *CLASSES)
