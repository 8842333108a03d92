"""Pages of a topic's history, read from its log and filtered by conditions such as ``rating<3``."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pushsvc.broker.broker import Broker
from pushsvc.broker.keys import Log
from pushsvc.broker.log import EventsEntry
from pushsvc.cursor import Position, UnreadableCursor, decode, encode
from pushsvc.errors import InvalidParameter
from pushsvc.event import Event
from pushsvc.event.conditions import EventFilter
from pushsvc.pause import Pause


@dataclass(frozen=True, slots=True)
class ScanLimits:
    """How much of a log one request reads, at most, and one entry more; and the bytes of its ``answer``, with one event
    more. ``next`` continues from there."""

    events: int = 200_000
    bytes: int = 32_000_000
    answer: int = 16_000_000


@dataclass(frozen=True, slots=True)
class HistoryFilter:
    """Which events a request selects. Times are in ms; ``until`` is exclusive. ``keys`` None selects all."""

    since: int | None
    until: int | None
    events: EventFilter

    def matches(self, event: Event, arrival: int) -> bool:
        time = arrival if event.time is None else event.time
        return (
            (self.since is None or time >= self.since)
            and (self.until is None or time < self.until)
            and self.events.matches(event)
        )


class EventRows(Protocol):
    """Takes the events of a page in their public form, in order of offset."""

    def add(self, event: Mapping[str, Any]) -> int:
        """Add an event; return how many bytes it adds to the answer."""
        ...


@dataclass(slots=True)
class HistoryPage:
    """The cursor of the next page; None if there is none.

    ``first_kept`` is the first offset of the log, set if events between this page and the one before were trimmed.
    """

    next: str | None = None
    first_kept: int | None = None


def read_page(
    broker: Broker, topic: str, selected: HistoryFilter, limit: int, after: str | None, scan: ScanLimits,
    rows: EventRows, pause: Pause,
) -> HistoryPage:  # fmt: skip
    """Add at most ``limit`` events after the cursor ``after`` to ``rows``. ``pause`` is called for each event read.

    Raise InvalidParameter for an unusable cursor.
    """
    log = Log(topic)
    begin, epoch = _begin(after, log)
    offset = broker.seek_sequence(topic, begin) if begin else 0
    page = HistoryPage()
    sequence = begin
    events = size = found = answered = 0
    while True:
        read = broker.read(log.partition, {log: offset})
        if epoch is not None and read.epoch != epoch:
            raise InvalidParameter("after", "the cursor is from before a restart of Redis; begin again without it")
        logged = read.logs[log]
        if 0 < sequence < logged.trimmed:
            page.first_kept = logged.entries[0].first if logged.entries else logged.last + 1
        for entry in logged.entries:
            offset, sequence = entry.last, entry.sequence
            is_last = entry.last == logged.last
            for event_sequence, public in _matching(entry, topic, selected, begin, pause):
                answered += rows.add(public)
                found += 1
                if found == limit or answered >= scan.answer:
                    if not (is_last and event_sequence == entry.sequence):
                        page.next = encode({log.partition: Position(read.epoch, event_sequence)})
                    return page
            events += entry.last - entry.first + 1
            size += len(entry.data)
            if (events >= scan.events or size >= scan.bytes) and not is_last:
                page.next = encode({log.partition: Position(read.epoch, entry.sequence)})
                return page
        if not logged.more:
            return page


def _begin(after: str | None, log: Log) -> tuple[int, int | None]:
    """Return the sequence and the epoch of a cursor; without one, the beginning in any epoch."""
    if after is None:
        return 0, None
    try:
        position = decode(after)[log.partition]
    except (UnreadableCursor, KeyError):
        raise InvalidParameter("after", "not a cursor of this topic's history") from None
    return position.sequence, position.epoch


def _matching(
    entry: EventsEntry, topic: str, selected: HistoryFilter, after: int, pause: Pause
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the sequence and the public form of the selected events of an entry."""
    for offset, line in enumerate(entry.data.split(b"\n"), entry.first):
        pause()
        sequence = entry.sequence_of(offset)
        if sequence <= after:
            continue
        event = Event.decode(line)
        if selected.matches(event, entry.arrival):
            yield sequence, event.public(topic, offset, entry.arrival)
