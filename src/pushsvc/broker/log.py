"""Entries, as the logs hold them: a small header of numbers, and the bytes."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import orjson

from pushsvc.broker.keys import Log
from pushsvc.event import Event


@dataclass(slots=True)
class EventsEntry:
    """Accepted events of one request or of some that came together: offsets ``first`` to ``last``, ``sequence`` that
    of the last event.

    Each event has a sequence of its own, so a cursor can point between two events of an entry.
    ``arrival`` is Redis's time in ms.
    """

    first: int
    last: int
    sequence: int
    arrival: int
    data: bytes
    _events: list[Event] | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, header: bytes, data: bytes) -> EventsEntry:
        sequence, first, count, _least, _greatest, arrival = map(int, header.split())
        return cls(first, first + count - 1, sequence, arrival, data)

    @property
    def events(self) -> list[Event]:
        if self._events is None:
            self._events = [Event.decode(line) for line in self.data.split(b"\n")]
        return self._events

    @property
    def before(self) -> int:
        """The offset after which the log goes on with it."""
        return self.first - 1

    def sequence_of(self, offset: int) -> int:
        return self.sequence - (self.last - offset)

    @property
    def last_sequence_before(self) -> int:
        return self.sequence - (self.last - self.first + 1)


class FrameKind(StrEnum):
    """What an entry of a statistics log holds; the values are the letters in its header."""

    UPDATE = "u"
    """The rows that changed."""
    SNAPSHOT = "s"
    """All rows: every reader starts over with it."""
    BASELINE = "b"
    """All rows, for readers that start here. Readers of the entries before it have these rows already."""


_FRAME_KINDS = {kind.value.encode(): kind for kind in FrameKind}


@dataclass(slots=True)
class StatisticsEntry:
    """One frame of a window. ``source`` is the offset of the events log for which it is exact; ``last`` is the
    number of the entry in its own log."""

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
        """The number after which the log goes on with it."""
        return self.last - 1

    @property
    def frame(self) -> dict[str, Any]:
        if self._frame is None:
            self._frame = orjson.loads(self.data)
        return self._frame


Entry = EventsEntry | StatisticsEntry


def parse(of: Log, header: bytes, data: bytes) -> Entry:
    """Return an entry of a log as Redis holds it."""
    return EventsEntry.parse(header, data) if of.window is None else StatisticsEntry.parse(header, data)


@dataclass(slots=True)
class WakeUp:
    """Word that a log has grown by an entry, in an epoch; ``born`` as in Read, at that moment."""

    epoch: int
    born: int
    entry: Entry

    @classmethod
    def parse(cls, of: Log, message: bytes) -> WakeUp | None:
        """Return what was said on a log's channel; None where nothing is to be had from it but to read."""
        head, line_end, data = message.partition(b"\n")
        if not line_end:
            return None
        epoch, born, header = head.split(b" ", 2)
        return cls(int(epoch), int(born), parse(of, header, data))
