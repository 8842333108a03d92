"""Log entries as Redis holds them (a header of numbers, and bytes), what a read returns, and log notifications."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

import orjson

from pushsvc.broker.keys import Log
from pushsvc.event import Event
from pushsvc.frame_text import FrameText
from pushsvc.pause import Pause

# Instead of the offset to read after:
FROM_SNAPSHOT = -1  # from a statistics log's last snapshot on
NO_ENTRIES = -2  # only metadata, and when the log changed last


@dataclass(frozen=True, slots=True)
class Correction:
    """What an entry of one offset changes: the event at ``offset``, which arrived at ``arrival`` (ms).

    ``old`` and ``new`` are its forms before and after, in their stored form: no ``new`` one deletes it. An erased
    correction has neither. ``latest`` has what changes in the newest events of keys: key, offset, arrival and stored
    form of the event that is the newest now; None in place of the form if the key has none. ``previous`` is the offset
    of the correction before of the same event; 0: it is the first. ``deletes`` says what the header says.
    """

    offset: int
    arrival: int
    old: bytes | None
    new: bytes | None
    latest: tuple[tuple[str, int, int, str | None], ...] = ()
    previous: int = 0
    deletes: bool = False

    @classmethod
    def parse(cls, data: bytes, *, deletes: bool) -> Correction:
        head, old, new = data.split(b"\n")
        offset, arrival, latest, previous = orjson.loads(head)
        return cls(offset, arrival, old or None, new or None, tuple(map(tuple, latest)), previous, deletes)

    def encode(self) -> bytes:
        head = orjson.dumps([self.offset, self.arrival, self.latest, self.previous])
        return b"\n".join([head, self.old or b"", self.new or b""])


class Mark(NamedTuple):
    """The last correction of an event: its offset, and its arrival in ms."""

    offset: int
    at: int


@dataclass(slots=True)
class EventsEntry:
    """Accepted events of one request or of several merged ones, with offsets ``first`` to ``last``.

    Each event has its own sequence, so a cursor can point between two events of an entry; ``sequence`` is that of the
    last event. ``arrival`` is Redis's time in ms. An entry with a ``correction`` has one offset and no events. Of an
    entry in its current form ``marks`` has the corrected events by offset, and ``offsets`` those of the events that are
    left; None: nothing was corrected.
    """

    first: int
    last: int
    sequence: int
    arrival: int
    data: bytes
    correction: Correction | None = None
    marks: dict[int, Mark] | None = None
    offsets: list[int] | None = None
    _events: list[Event] | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, header: bytes, data: bytes) -> EventsEntry:
        sequence, first, count, _least, _greatest, arrival, *kind = header.split()
        begin, end = int(first), int(first) + int(count) - 1
        entry = cls(begin, end, int(sequence), int(arrival), data)
        if kind:
            entry._set_kind(kind[-1])
        return entry

    def _set_kind(self, kind: bytes) -> None:
        """Read the data of a correction, or of an entry in its current form."""
        if kind.startswith(b"x"):
            self.correction, self.data = Correction.parse(self.data, deletes=kind == b"x2"), b""
            return
        marks, _, lines = self.data.partition(b"\n")
        self.marks = {}
        for mark in marks.split():
            place, offset, at = map(int, mark.split(b":"))
            self.marks[self.first + place] = Mark(offset, at)
        left = [(offset, line) for offset, line in enumerate(lines.split(b"\n"), self.first) if line]
        self.offsets, self.data = [offset for offset, _ in left], b"\n".join([line for _, line in left])

    @property
    def events(self) -> list[Event]:
        """The events; ``offsets`` says which are missing."""
        if self._events is None:
            self._events = [Event.decode(line) for line in self.data.split(b"\n")] if self.data else []
        return self._events

    @property
    def size(self) -> int:
        """The bytes that it takes, about."""
        found = self.correction
        return len(self.data) if found is None else 100 + len(found.old or b"") + len(found.new or b"")

    @property
    def count(self) -> int:
        return self.last - self.first + 1

    @property
    def left(self) -> int:
        """The number of events, without those that were deleted."""
        if not self.data:
            return 0
        return self.count if self.offsets is None else len(self.offsets)

    def lines(self) -> list[tuple[int, bytes]]:
        """Return the events in their stored form, with their offsets."""
        if not self.data:
            return []
        lines = self.data.split(b"\n")
        return list(enumerate(lines, self.first) if self.offsets is None else zip(self.offsets, lines, strict=True))

    def offset_at(self, place: int) -> int:
        """Return the offset of the event at a place among those that are left."""
        return self.first + place if self.offsets is None else self.offsets[place]

    @property
    def before(self) -> int:
        """The offset just before the entry."""
        return self.first - 1

    def sequence_of(self, offset: int) -> int:
        return self.sequence - (self.last - offset)


class FrameKind(StrEnum):
    """Kinds of statistics frames, with the letters that Redis stores."""

    SNAPSHOT = "s"  # all rows, for every subscriber
    BASELINE = "b"  # all rows, for new subscribers only: subscribers that follow the log already have its content
    UPDATE = "u"  # the rows that changed


_FRAME_KINDS = {kind.value.encode(): kind for kind in FrameKind}


@dataclass(slots=True)
class StatisticsEntry:
    """One frame of a window, the entry ``last`` of its log; exact up to the offset ``source`` of the events log."""

    kind: FrameKind
    sequence: int
    source: int
    arrival: int
    last: int
    data: bytes
    _frame: dict[str, Any] | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, header: bytes, data: bytes) -> StatisticsEntry:
        sequence, kind, source, arrival, last = header.split()
        return cls(_FRAME_KINDS[kind], int(sequence), int(source), int(arrival), int(last), data)

    @property
    def before(self) -> int:
        """The number of the entry before."""
        return self.last - 1

    @property
    def frame(self) -> dict[str, Any]:
        if self._frame is None:
            self._frame = orjson.loads(self.data)
        return self._frame

    def decode(self, pause: Pause) -> None:
        """Parse a large frame in slices, so that ``frame`` need not. The rows of a baseline are left out."""
        if self._frame is not None:
            return
        try:
            text = FrameText(self.data, pause)
        except ValueError:
            return  # another program wrote it
        frame = text.head
        if self.kind is not FrameKind.BASELINE:
            frame["data"] = [row for rows in text.rows(pause) for row in rows]
            if gone := [row_id for row_ids in text.gone(pause) for row_id in row_ids]:
                frame["gone"] = gone
        self._frame = frame


LogEntry = EventsEntry | StatisticsEntry


def parse_entry(log: Log, header: bytes, data: bytes) -> LogEntry:
    return EventsEntry.parse(header, data) if log.window is None else StatisticsEntry.parse(header, data)


@dataclass(frozen=True, slots=True)
class LogRead:
    """A log's entries after an offset.

    ``more`` is true if the byte budget cut the read short. ``trimmed`` and ``deleted`` are the sequences at which that
    last happened (0: never), ``created`` is the time in ms at which the topic was created (0: there is no topic).
    ``changed`` is the sequence of the last change, None if it is unknown or was not asked for (see NO_ENTRIES).
    """

    after: int
    last: int
    trimmed: int
    deleted: int
    created: int
    more: bool
    entries: list[Any]
    changed: int | None = None

    @classmethod
    def parse(cls, log: Log, values: Sequence[Any]) -> LogRead:
        """Return one log's part of the answer of read.lua."""
        after, last, trimmed, deleted, created, more, flat, *changed = values
        entries = [parse_entry(log, header, data) for header, data in zip(flat[::2], flat[1::2], strict=True)]
        return cls(after, last, trimmed, deleted, created, bool(more), entries, changed[0] if changed else None)


@dataclass(frozen=True, slots=True)
class BackwardRead:
    """Entries of an events log, the newest first. ``more`` is true if there may be older ones."""

    epoch: int
    more: bool
    entries: list[EventsEntry]

    @classmethod
    def parse(cls, answer: Sequence[Any]) -> BackwardRead:
        """Return the answer of read_back.lua."""
        _, epoch, more, flat = answer
        entries = [EventsEntry.parse(header, data) for header, data in zip(flat[::2], flat[1::2], strict=True)]
        return cls(epoch, bool(more), entries)


@dataclass(frozen=True, slots=True)
class PartitionRead:
    """Several logs of a partition at one instant, ``now`` in Redis's ms: everything up to ``sequence``.

    ``owned`` is true while an aggregator holds the partition's lease. ``newest_topic_sequence`` is the sequence of the
    first event of the topic that was created last.
    """

    epoch: int
    sequence: int
    now: int
    owned: bool
    newest_topic_sequence: int
    logs: dict[Log, LogRead]

    @classmethod
    def parse(cls, logs: Iterable[Log], answer: Sequence[Any]) -> PartitionRead:
        """Return the answer of read.lua about logs."""
        _, (epoch, sequence, now, owned, newest_topic_sequence), *found = answer
        read = {log: LogRead.parse(log, values) for log, values in zip(logs, found, strict=True)}
        return cls(epoch, sequence, now, bool(owned), newest_topic_sequence, read)


@dataclass(frozen=True, slots=True)
class ChangedLogs:
    """Logs of a partition, by name, with the sequence of their last change (their last entry, or their deletion).

    Every change up to ``through`` is in ``sequences``. ``more`` is true if there may be later ones.
    """

    epoch: int
    through: int
    more: bool
    sequences: dict[str, int]


@dataclass(slots=True)
class LogNotification:
    """A message on a log's channel: one entry was appended. ``newest_topic_sequence`` as in PartitionRead."""

    epoch: int
    newest_topic_sequence: int
    entry: LogEntry

    @classmethod
    def parse(cls, log: Log, message: bytes) -> LogNotification | None:
        """Return a message's content; None if it has no entry, so that the log has to be read."""
        head, line_end, data = message.partition(b"\n")
        if not line_end:
            return None
        epoch, newest_topic_sequence, header = head.split(b" ", 2)
        return cls(int(epoch), int(newest_topic_sequence), parse_entry(log, header, data))
