"""Turns the entries of topics' logs into frames of their windows. The caller brings the clock and asks ``wake_at``.

A reader applies each frame: a ``snapshot`` replaces all rows; an ``update`` replaces rows by (key, field) and removes
those in ``gone``. Its rows are then those of a snapshot of that moment, column for column.
"""

from collections.abc import Container, Mapping, Sequence
from functools import partial
from itertools import pairwise
from types import MappingProxyType
from typing import ClassVar, Literal, Self

import numpy as np
import orjson

from pushsvc.aggregate.cadence import BYTES_PER_SECOND, EVER, Cadence
from pushsvc.aggregate.lifetime_record import EncodedRows, LifetimeHead, LifetimeRow, encode_rows, load_rows
from pushsvc.aggregate.reading import TopicReading
from pushsvc.aggregate.row_updates import RowUpdater, TopicCounts
from pushsvc.aggregate.statistics_frame import Frame, JsonRows, RowNames, counts_to_json, encode_ranges
from pushsvc.event.columns import NO_TIME, Columns
from pushsvc.pause import Pause, no_pause
from pushsvc.settings import FUTURE_ALLOWANCE, TopicSettings
from pushsvc.stats.arrays import Flags, Index, Ints
from pushsvc.stats.cells import CellAccount, CellLedger
from pushsvc.stats.engine import Engine, EngineOptions
from pushsvc.stats.ledger import Ledger, RowChanges
from pushsvc.stats.rows import ALL_KEYS, EVENTS
from pushsvc.stats.schema import CLASSES, PARAMETERS
from pushsvc.stats.serialize import InvalidState, deserialize, serialize
from pushsvc.stats.statistic_names import is_of_values
from pushsvc.stats.window import LIFETIME, TimeRange

# Milliseconds that an event may be ahead of its arrival: what producers may be, twice, because machines' clocks differ.
EARLY_ALLOWANCE = 2 * FUTURE_ALLOWANCE
FreshWindows = Mapping[str, Container[str]]
"""Topics with windows that were resumed and of which no frame was returned since."""
NONE_FRESH: FreshWindows = MappingProxyType({})
ENGINE_BYTES = 512_000_000  # bound of an engine's memory: beyond it, new keys are counted under ``__other__``


class Aggregate:
    """The windows of topics that share settings and a clock.

    The clock begins at ``time`` (ms). Beyond ``most_bytes`` of memory no new key gets rows of its own. Every few
    milliseconds of work ``pause`` is called; it may do anything but call this aggregate. ``cells`` bounds its rows
    together with those of other aggregates of the process.
    """

    STATE: ClassVar[tuple[str, ...]] = (
        "topics", "_by_number", "_form", "_begun", "_engine", "_ledger", "_cadence", "_most_bytes", "_released_at",
        "_measured_at", "_unmeasured", "_wake", "_wake_known",
    )  # fmt: skip
    DERIVED: ClassVar[tuple[str, ...]] = (
        "_settings", "_pause", "_wall", "_columns", "_value_places", "_timed", "_numbers", "_shortest", "_row_names",
        "_suspends", "_updater", "_endless", "_kept_at", "_asked_at",
    )  # fmt: skip

    def __init__(
        self, settings: TopicSettings, time: int, most_bytes: int = ENGINE_BYTES, pause: Pause = no_pause,
        *, bytes_per_second: int = BYTES_PER_SECOND, cells: CellLedger | None = None,
    ) -> None:  # fmt: skip
        self.topics: dict[str, TopicCounts] = {}
        self._by_number: dict[int, TopicCounts] = {}
        self._form = repr(settings)
        self._begun = settings.clock == "wall"
        options = EngineOptions(
            settings.windows, settings.percents, settings.exact, settings.max_events, settings.value_statistics,
            settings.max_values,
        )  # fmt: skip
        self._engine = Engine(options, time, pause, CellAccount(cells or CellLedger(), len(settings.windows)))
        self._ledger = Ledger(self._engine, len(settings.windows))
        self._cadence = Cadence(len(settings.windows), bytes_per_second)
        self._most_bytes = most_bytes
        self._released_at = self._measured_at = self._engine.step
        self._unmeasured = 0
        self._wake: int | None = None
        self._wake_known = False
        self._derive(settings, pause)

    def _derive(self, settings: TopicSettings, pause: Pause) -> None:
        """Set what is not saved."""
        self._settings = settings
        self._pause = pause
        self._suspends = False
        self._kept_at = -1
        self._asked_at = 0
        self._engine.use_pause(pause)
        self._wall = settings.clock == "wall"
        self._columns = settings.columns
        valued = [name == "approximate" or is_of_values(name) for name in self._columns]
        self._value_places = [n - _BEFORE_NUMBERS for n in np.flatnonzero(valued).tolist()]
        self._timed = [window for window in settings.windows if window.length]
        self._endless = settings.windows == (LIFETIME,)  # every event counts, whatever its time
        self._numbers = {window.name: number for number, window in enumerate(settings.windows)}
        self._shortest = min((window.length - window.pane for window in self._timed), default=EVER)
        self._row_names = RowNames(self._engine.rows, several=len(settings.key) > 1)
        self._updater = RowUpdater(self._engine, settings.values)

    # -- state

    def save(self) -> list[bytes]:
        """Return the state in parts of any size. A restored aggregate emits the same frames, byte for byte."""
        self._engine.settle()
        if self._suspends:  # rows that left a suspended window are not reported as gone, which would free them
            self._ledger.release()
        return list(serialize(self, (type(self), *SAVED_CLASSES), PARAMETERS, self._pause))

    @classmethod
    def restore(
        cls, settings: TopicSettings, data: bytes, pause: Pause = no_pause, cells: CellLedger | None = None
    ) -> Self:
        """Return the aggregate that was saved with equal settings; raise InvalidState, also for too many cells."""
        restored = deserialize(data, (cls, *SAVED_CLASSES), PARAMETERS, pause)
        if not isinstance(restored, cls) or restored._form != repr(settings):
            raise InvalidState("a state of other settings")
        account, rows = CellAccount(cells or CellLedger(), len(settings.windows)), restored._engine.rows
        kept = restored._engine.kept_bytes
        if not account.admits(rows.open_count, kept):
            raise InvalidState(f"{rows.open_count} rows and {kept} bytes are more than this process has room for")
        account.draw(rows.open_count)
        account.keep(kept)
        account.is_crowded = True  # until it is counted again: it may have been when it was saved
        account.pledge(sum(topic.table.pledged for topic in restored.topics.values()))
        rows.cells = account
        restored._derive(settings, pause)
        return restored

    def release_cells(self) -> None:
        """Give the room of all rows back, because the aggregate is of no more use."""
        self._engine.rows.cells.close()

    # -- the window of all events

    def encode_lifetime(self, name: str) -> EncodedRows:
        """Return the rows of a topic for a record of the window ``all``."""
        return encode_rows(self._engine, self.topics[name].table, self._pause)

    def load_lifetime(self, name: str, head: LifetimeHead, rows: Sequence[LifetimeRow]) -> None:
        """Put the rows of a record into those of a new topic. Raise NoRoom, or another error for a record that makes no
        sense; the aggregate is then of no use."""
        counts = self.topics[name]
        counts.deleted, counts.offset, counts.begun = head.deleted, head.offset, True
        load_rows(head, self._own_rows(rows), self._engine, counts.table, self._settings.key, self._pause)

    def _own_rows(self, rows: Sequence[LifetimeRow]) -> Sequence[LifetimeRow]:
        """Return the rows of a record that belong here."""
        return rows

    def apply_form(self, name: str, offset: int, arrival: int, events: Columns, *, subtract: bool) -> bool:
        """Take an event out of the window ``all``, or add it; return False if it was not in its rows."""
        window = self._engine.lifetime
        window.subtracting, window.uneven = subtract, False
        try:
            self.apply(name, offset, arrival, events)
        finally:
            window.subtracting = False
        return not window.uneven

    # -- topics

    def open(self, name: str, since: int) -> TopicCounts:
        """Add a topic that was created at ``since`` (ms)."""
        settings = self._settings
        table = self._engine.rows.add_topic(settings.max_keys, settings.max_fields, settings.key, settings.values)
        self.topics[name] = topic = TopicCounts(name, since, table, dict.fromkeys(self._numbers, 0))
        self._by_number[table.number] = topic
        self._cadence.open(table.number, since, settings.idle_cadence)
        return topic

    def close(self, name: str) -> None:
        topic = self.topics.pop(name)
        del self._by_number[topic.table.number]
        self._cadence.close(topic.table.number)
        self._ledger.drop_topic(topic.table)
        self._wake_known = False

    def watch(self, name: str, window: str, watched: bool) -> None:
        """Choose the cadence of a window: it has subscribers or not."""
        settings = self._settings
        cadence = settings.cadence if watched else settings.idle_cadence
        if self._cadence.set(self._numbers[window], self.topics[name].table.number, cadence):
            self._wake_known = False

    def suspend(self, name: str, window: str) -> None:
        """Return no frames of a window, until ``resume``: nobody reads them."""
        number, table = self._numbers[window], self.topics[name].table
        self._suspends = True
        self._cadence.suspend(number, table.number)
        self._ledger.end(number, self._engine.rows.of_topic(table))
        self._wake_known = False

    def resume(self, name: str, window: str) -> None:
        """Return frames of a window again. The first one has all rows, and may follow at once."""
        number, topic = self._numbers[window], self.topics[name]
        self._cadence.resume(number, topic.table.number)
        if topic.begun:
            self._ledger.begin(number, topic.table)
        self._wake_known = False

    # -- in

    def reach(self, arrival: int) -> int:
        """Move the clock to ``arrival`` (ms), that of the next entry; return up to which arrival entries may be applied
        together with it, because the clock cannot tell them apart."""
        settings = self._settings
        if not self._wall or settings.exact or settings.largest_count_window:
            return arrival
        self.advance(arrival)
        return self._engine.time

    def apply(self, name: str, offset: int, arrival: int | Ints, events: Columns) -> None:
        """Count the events of an entry that ends with ``offset``; events without a time get ``arrival`` (ms). For
        several entries that are applied as one (``reach``), ``arrival`` has that of each event [n]."""
        topic = self.topics[name]
        topic.offset = offset
        if not len(events):
            return
        if not topic.begun:
            topic.begun = True
            self._engine.touch(topic.table.totals())
        times = None if events.times is None else np.where(events.times == NO_TIME, arrival, events.times)
        if self._endless:
            in_range = None
        elif self._wall:
            self.advance(int(np.max(arrival)))
            in_range = None if times is None else self._in_range_of_arrival(topic, arrival, times)
        else:
            times = np.full(len(events), arrival) if times is None else times
            in_range = self._in_range_of_events(topic, times)
        self._make_room(topic, events)
        times = np.full(len(events), arrival) if times is None else times
        self._updater.apply(topic, events, times, in_range, self._own(events))
        self._wake_for(topic)

    def _own(self, events: Columns) -> Sequence[Flags] | None:
        """Return the events of each grouping whose keys are counted here; None for all."""
        return None

    def advance(self, now: int) -> None:
        """Note that every entry up to ``now`` (ms) is applied: a wall clock moves there, never back."""
        if self._wall and self._engine.advance(now):
            self._wake_known = False

    # -- out

    def wake_at(self) -> int | None:
        """Return the ms at which ``advance`` and ``due`` may bring frames; None: not before an ``apply``."""
        if not self._wake_known:
            self._wake, self._wake_known = self._next_wake(), True
        return self._wake

    def _next_wake(self) -> int | None:
        windows = [window for window in range(len(self._settings.windows)) if self._cadence.reports(window)]
        changes = self._next_changes() if windows else []
        times = [change for change in changes if change is not None]
        for window in windows:
            topics = self._engine.rows.topic[self._pending(window)]
            if len(topics):
                times.append(int(self._cadence.ready_at(window, topics).min()))
        return min(times, default=None)

    def _next_changes(self) -> list[int | None]:
        """Return for each window the next ms at which the clock may bring an update."""
        changes = self._engine.next_changes(self._cadence.ready_at) if self._wall else []
        found = [change if self._cadence.reports(window) else None for window, change in enumerate(changes)]
        return found or [None] * len(self._settings.windows)

    def _pending(self, window: int) -> Ints:
        """Return the rows that an update may have to contain."""
        rows = self._ledger.pending(window)
        unread = self._cadence.suspended(window, self._engine.rows.topic[rows])
        if unread.any():
            self._ledger.end(window, rows[unread])
            rows = rows[~unread]
        return rows

    def _wake_for(self, topic: TopicCounts) -> None:
        """Note that a topic has an update as soon as its cadence allows."""
        if self._wake_known:
            topics = np.array([topic.table.number])
            ready = min(int(self._cadence.ready_at(w, topics)[0]) for w in range(len(self._settings.windows)))
            if ready < EVER:
                self._wake = ready if self._wake is None else min(self._wake, ready)

    def due(self, now: int, fresh: FreshWindows = NONE_FRESH) -> list[Frame]:
        """Return the updates of the windows that changed and whose cadence allows it.

        The first update of a window after ``resume`` has all of its rows, and costs less than a snapshot. For windows
        that are ``fresh`` it is called one, and as after any snapshot an update may follow at once.
        """
        if now < self._asked_at:
            self._cadence.set_back(now)
            self._wake_known = False
        self._asked_at = now
        wake = self.wake_at()
        return [] if wake is None or wake > now else self._updates(now, paced=True, fresh=fresh)

    def flush(self, now: int) -> list[Frame]:
        """Return the updates of all windows that changed, whatever the cadence."""
        return self._updates(now, paced=False)

    def snapshot(self, name: str, window: str) -> Frame:
        """Return all rows of a window; no later update repeats them."""
        number, topic = self._numbers[window], self.topics[name]
        changes = self._ledger.snapshot(number, topic.table) if topic.begun else self._ledger.no_changes()
        size = len(changes.rows)
        (data,) = encode_ranges([(0, size)], size, partial(self._encode, number, changes))
        (extent,) = self._engine.time_ranges(number, [topic.table])
        parts = self._parts(topic, data, b"[]", changes.rows, extent)
        cadence = int(self._cadence.intervals(number, np.array([topic.table.number]))[0])
        frame = self._frame(number, topic, "snapshot", extent, cadence, False, parts)
        self._ledger.release()
        self._wake_known = False
        return frame

    def reading(self, name: str) -> TopicReading:
        """Return the statistics of a topic for single questions, until entries are applied or the clock moves."""
        return TopicReading(self._engine, self._settings, self.topics[name].table)

    # -- lateness

    def _in_range_of_arrival(self, topic: TopicCounts, arrival: int | Ints, times: Ints) -> Flags | None:
        """Return which events are neither late nor too far ahead of their arrival; None for all. The arrival decides,
        not the clock: our own lag makes no event late."""
        if times.max() <= np.min(arrival) + EARLY_ALLOWANCE and times.min() >= np.max(arrival) - self._shortest:
            return None
        early = times > arrival + EARLY_ALLOWANCE
        topic.ahead += int(np.count_nonzero(early))
        return ~early & ~self._note_late(topic, times, np.full(len(times), arrival))

    def _in_range_of_events(self, topic: TopicCounts, times: Ints) -> Flags | None:
        """Move the clock along the event times; return which events were not late at their turn, None for all."""
        if not self._begun:
            self._engine.start(int(times[0]))
            self._begun = True
        before = self._engine.time
        if self._engine.advance(int(times.max())):
            self._wake_known = False
        if times.min() >= self._engine.time - self._shortest:
            return None
        return ~self._note_late(topic, times, np.maximum(before, np.maximum.accumulate(times)))

    def _note_late(self, topic: TopicCounts, times: Ints, clocks: Ints) -> Flags:
        """Return which events [n] were too old for every window with the clock at ``clocks`` [n] (ms); count them."""
        # A window of the last events takes events of any age.
        everywhere = np.full(len(times), not self._settings.largest_count_window)
        for window in self._timed:
            late = times < window.start(clocks)
            topic.late_by_window[window.name] += int(np.count_nonzero(late))
            everywhere &= late
        topic.late += int(np.count_nonzero(everywhere))
        return everywhere

    # -- room

    def _make_room(self, topic: TopicCounts, events: Columns) -> None:
        """Free unneeded rows when they may be short, and measure the memory; each at most once a pane."""
        # Measuring takes milliseconds, half of the time of replaying a log whose events lie panes apart. So it waits
        # until new events may have taken a tenth of the memory.
        rows = len(events) * len(events.keys) * (1 + len(events.fields) + 2 * len(events.values))
        self._unmeasured += rows * len(self._settings.windows) * _ROW_BYTES
        if self._kept_at != self._engine.step:
            self._kept_at = self._engine.step
            self._engine.count_kept()
        due = self._engine.rows.full or self._unmeasured >= self._most_bytes / 10
        if due and self._measured_at != self._engine.step:
            self._measured_at, self._unmeasured = self._engine.step, 0
            self._engine.check_memory(self._most_bytes)
        self._engine.sweep_values()
        if topic.table.room() < len(events) and self._released_at != self._engine.step:
            self._ledger.release()
            self._released_at = self._engine.step

    # -- frames

    def _updates(self, now: int, *, paced: bool, fresh: FreshWindows = NONE_FRESH) -> list[Frame]:
        frames: list[Frame] = []
        self._wake_known = False
        ended = False
        for window in range(len(self._settings.windows)):
            rows = self._pending(window)
            if paced and len(rows):
                rows = rows[self._cadence.ready_at(window, self._engine.rows.topic[rows]) <= now]
            if not len(rows):
                continue
            changes = self._ledger.update(window, rows)
            ended |= bool(len(changes.gone))
            frames += self._frames(window, changes, now, fresh)
        if ended:
            self._ledger.release()
        return frames

    def _frames(self, window: int, changes: RowChanges, now: int, fresh: FreshWindows) -> list[Frame]:
        """Return an update for each topic with changed rows, a snapshot for those whose window is ``fresh``."""
        owners, left = (self._engine.rows.topic[rows] for rows in (changes.rows, changes.gone))
        numbers = np.unique(np.concatenate([owners, left]))
        edges = _edges(owners, numbers)
        rows, gone = list(pairwise(edges.tolist())), pairwise(_edges(left, numbers).tolist())
        data = encode_ranges(rows, len(changes.rows), partial(self._encode, window, changes))
        topics = [self._by_number[number] for number in numbers.tolist()]
        extents = self._engine.time_ranges(window, [topic.table for topic in topics])
        bodies = [
            self._parts(topic, array, self._gone(changes.gone[slice(*away)]), changes.rows[slice(*own)], extent)
            for topic, array, own, away, extent in zip(topics, data, rows, gone, extents, strict=True)
        ]
        kinds: list[Literal["snapshot", "update"]]
        name = self._settings.windows[window].name
        kinds = ["snapshot" if name in fresh.get(topic.name, ()) else "update" for topic in topics]
        paced = [place for place, kind in enumerate(kinds) if kind == "update"]
        sizes = np.array([sum(map(len, bodies[place])) for place in paced], np.int64)
        self._cadence.spend(window, numbers[paced], now, sizes)
        cadences = self._cadence.intervals(window, numbers).tolist()
        return [
            self._frame(window, *frame)
            for frame in zip(topics, kinds, extents, cadences, self._ending(changes, edges), bodies, strict=True)
        ]

    def _ending(self, changes: RowChanges, edges: Ints) -> list[bool]:
        """Return for each range between two edges [n + 1] whether a row of a key is reported as zero."""
        zero = (changes.count == 0) & (self._engine.rows.key[changes.rows] != ALL_KEYS)
        before = np.concatenate([[0], np.cumsum(zero)])[edges]
        return list((before[:-1] < before[1:]).tolist())

    def _encode(self, window: int, changes: RowChanges, part: slice) -> JsonRows:
        rows = changes.rows[part]
        valued = self._engine.rows.kind[rows] != EVENTS
        numbers = self._engine.read(window, rows[valued])
        values = self._engine.read_values(window, rows)
        self._pause()
        names, groupings = self._row_names.of(rows), self._row_names.groupings_of(rows)
        counts = counts_to_json(changes.count[part], self._settings.windows[window].length / 1_000 or None)
        others = list(zip(self._value_places, values, strict=True))
        pieces = JsonRows(names, counts, numbers, valued, groupings, others)
        self._pause()
        return pieces

    def _gone(self, rows: Ints) -> bytes:
        if not len(rows):
            return b"[]"
        heads, ends = self._row_names.of(rows), self._row_names.groupings_of(rows)
        whole = heads if ends is None else [b"%b,%b" % pair for pair in zip(heads, ends, strict=True)]
        return b"[%b]" % b",".join([b"%b]" % row for row in whole])

    def _parts(self, topic: TopicCounts, data: list[bytes], gone: bytes, rows: Ints, extent: TimeRange) -> list[bytes]:
        """Return the body of a frame: data, gone, and partial if there are such keys."""
        parts = [b'"data":', *data, b',"gone":', gone]
        keys = [] if extent.start is None else topic.table.partial_keys(rows, extent.start)
        if keys:
            parts += (b',"partial":', orjson.dumps(keys))
        if extent.start is not None and topic.table.is_crowded(extent.start):
            parts.append(b',"full":true')
        return parts

    def _frame(
        self, window: int, topic: TopicCounts, kind: Literal["snapshot", "update"], extent: TimeRange, cadence: int,
        ending: bool, parts: Sequence[bytes],
    ) -> Frame:  # fmt: skip
        return Frame(
            topic=topic.name, window=self._settings.windows[window].name, kind=kind, start=extent.start,
            end=extent.end, truncated=extent.truncated, offset=topic.offset, since=topic.since, cadence=cadence,
            columns=self._columns, ending=ending, parts=parts, notes=self._notes(),
        )  # fmt: skip

    def _notes(self) -> Mapping[str, object]:
        """Return further members of frames."""
        return _NO_NOTES


def _edges(owners: Index, numbers: Index) -> Ints:
    """Return where the run of each number [n] begins among the ordered owners, and where the last one ends."""
    return np.append(np.searchsorted(owners, numbers), len(owners))


_ROW_BYTES = 8_000  # most bytes of a new row in a window: with quantiles, in each of 60 panes
_NO_NOTES: Mapping[str, object] = MappingProxyType({})
_BEFORE_NUMBERS = 4  # columns before the first number: key, field, count and rate
SAVED_CLASSES = (Cadence, TopicCounts, *CLASSES)
