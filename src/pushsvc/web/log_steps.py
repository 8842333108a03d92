"""Reads a topic's log in steps, upwards and downwards: all its entries, or the events that its index lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pushsvc.broker.broker import Broker
from pushsvc.broker.index import FoundEntry
from pushsvc.broker.keys import Log
from pushsvc.broker.log import EventsEntry


@dataclass(frozen=True, slots=True)
class StepUp:
    """Entries above an offset, the oldest first, and the offset up to which there are no others to look at. ``more`` is
    true if the log may go on. ``first`` and ``last`` are offsets of the log; ``trimmed`` is as in LogRead."""

    epoch: int
    entries: Sequence[EventsEntry | FoundEntry]
    reached: int
    more: bool
    first: int
    last: int
    trimmed: int


@dataclass(frozen=True, slots=True)
class StepDown:
    """Entries from some place down, the newest first, the offset down to which there are no others to look at, and
    where the next step starts. ``more`` is true if there may be older ones."""

    epoch: int
    entries: Sequence[EventsEntry | FoundEntry]
    reached: int
    start: str
    more: bool


class LogSteps:
    """The entries of a topic. With ``terms`` only the events that have one of them, where the index by ``fields`` has
    the log; elsewhere all. Corrected events are in their ``current`` forms, or as they were published."""

    def __init__(
        self, broker: Broker, topic: str, fields: Sequence[str] = (), terms: Sequence[str] | None = None,
        *, current: bool = True,
    ) -> None:  # fmt: skip
        self._current = current
        self._broker = broker
        self._topic = topic
        self._fields = fields
        self._terms = terms

    def up(self, offset: int) -> StepUp:
        """Return a step that begins after an offset."""
        if self._terms is not None:
            found = self._broker.index.after(self._topic, self._fields, self._terms, offset)
            if found.covered:
                more = found.reached < found.last
                return StepUp(
                    found.epoch, found.entries, found.reached, more, found.first, found.last, found.trimmed
                )  # fmt: skip
        log = Log(self._topic)
        read = self._broker.read(log.partition, {log: offset}, current=self._current)
        logged = read.logs[log]
        entries = logged.entries
        first, reached = (entries[0].first, entries[-1].last) if entries else (logged.last + 1, offset)
        return StepUp(read.epoch, entries, reached, logged.more and bool(entries), first, logged.last, logged.trimmed)

    def down(self, start: str) -> StepDown:
        """Return a step that begins at the entry that ``start`` names as in ``Broker.read_back``, with this entry."""
        if self._terms is not None:
            found = self._broker.index.before(self._topic, self._fields, self._terms, start)
            if found.covered:
                more = found.reached > found.first
                return StepDown(found.epoch, found.entries, found.reached, str(found.reached - 1), more)
        read = self._broker.read_back(self._topic, start, current=self._current)
        if not read.entries:
            return StepDown(read.epoch, (), 0, start, more=False)
        reached = read.entries[-1].first
        return StepDown(read.epoch, read.entries, reached, str(reached - 1), read.more)
