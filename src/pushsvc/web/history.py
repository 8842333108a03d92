"""Pages of a topic's history, read from its log in both directions, and filtered by conditions such as ``rating<3``."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from pushsvc.broker.broker import Broker
from pushsvc.broker.index import FoundEntry
from pushsvc.broker.keys import Log
from pushsvc.broker.log import Correction, EventsEntry
from pushsvc.clock import format_time
from pushsvc.cursor import Position, UnreadableCursor, decode, encode
from pushsvc.errors import InvalidParameter
from pushsvc.event import Event
from pushsvc.event.conditions import EventFilter
from pushsvc.pause import Pause
from pushsvc.web.log_steps import LogSteps


@dataclass(frozen=True, slots=True)
class ScanLimits:
    """How much of a log one request reads, at most, and one entry more; and the bytes of its ``answer``, with one event
    more. ``next`` continues from there."""

    events: int = 200_000
    bytes: int = 32_000_000
    answer: int = 16_000_000


@dataclass(frozen=True, slots=True)
class HistoryFilter:
    """Which events a request selects. Times are in ms; ``until`` is exclusive. ``index`` lists the fields by
    which the topic finds events. With ``corrections`` events are as they were published, and what corrected them
    follows in its place."""

    since: int | None
    until: int | None
    events: EventFilter
    index: tuple[str, ...] = ()
    corrections: bool = False

    def matches(self, event: Event, arrival: int) -> bool:
        time = arrival if event.time is None else event.time
        return (
            (self.since is None or time >= self.since)
            and (self.until is None or time < self.until)
            and self.events.matches(event)
        )


class EventRows(Protocol):
    """Takes the events of a page in their public form, in the order in which they are read."""

    def add(self, event: Mapping[str, Any]) -> int:
        """Add an event; return how many bytes it adds to the answer."""
        ...

    def reverse(self) -> None:
        """Turn the order of the events around."""
        ...


@dataclass(frozen=True, slots=True)
class PageRequest:
    """At most ``limit`` events after or before a cursor. Without one they are the first of the log, or with ``at_end``
    the last. ``newest_first`` is the order in which they are wanted. None is above the sequence ``through``."""

    limit: int
    after: str | None = None
    before: str | None = None
    at_end: bool = False
    newest_first: bool = False
    through: int | None = None

    @property
    def backwards(self) -> bool:
        """Return whether the log is read from its end, or from the cursor, towards its beginning."""
        return self.before is not None or (self.after is None and self.at_end)


@dataclass(slots=True)
class HistoryPage:
    """Cursors of what is beside a page: of ``newer`` events for ``after``, of ``older`` ones for ``before``. None if
    there is nothing, or for newer ones nothing yet.

    ``first_kept`` is the first offset of the log, set if events between this page and the one before were trimmed.
    """

    newer: str | None = None
    older: str | None = None
    first_kept: int | None = None


class _Scan:
    """One pass over entries, until the page is full or too much was read."""

    def __init__(self, log: Log, request: PageRequest, limits: ScanLimits, rows: EventRows) -> None:
        self._log = log
        self._request = request
        self._limits = limits
        self._rows = rows
        self._events = self._bytes = self._found = self._answered = 0
        self._edges: list[int] = []  # sequences of the first and of the last event that was found

    def take(self, entry: EventsEntry | FoundEntry, events: Iterable[tuple[int, dict[str, Any]]]) -> int | None:
        """Add the selected events of an entry; return the sequence of the last one if the page is full then."""
        for sequence, public in events:
            self._answered += self._rows.add(public)
            self._found += 1
            self._edges = [*self._edges[:1], sequence]
            if self._found == self._request.limit or self._answered >= self._limits.answer:
                return sequence
        self._events += entry.count
        self._bytes += entry.size
        return None

    @property
    def exhausted(self) -> bool:
        """Return whether one request has read as much as it may."""
        return self._events >= self._limits.events or self._bytes >= self._limits.bytes

    def cursor(self, epoch: int, sequence: int) -> str:
        return encode({self._log.partition: Position(epoch, sequence)})

    def first_found(self, otherwise: int) -> int:
        """Return the sequence of the event that was found first."""
        return self._edges[0] if self._edges else otherwise


def read_page(
    broker: Broker, topic: str, selected: HistoryFilter, request: PageRequest, limits: ScanLimits, rows: EventRows,
    pause: Pause,
) -> HistoryPage:  # fmt: skip
    """Add the events of a page to ``rows``. ``pause`` is called for each event read.

    Raise InvalidParameter for an unusable cursor.
    """
    scan = _Scan(Log(topic), request, limits, rows)
    read = _read_backwards if request.backwards else _read_forwards
    page = read(broker, topic, selected, request, scan, pause)
    if request.backwards is not request.newest_first:
        rows.reverse()
    return page


def _read_forwards(
    broker: Broker, topic: str, selected: HistoryFilter, request: PageRequest, scan: _Scan, pause: Pause
) -> HistoryPage:
    log, steps = Log(topic), _steps(broker, topic, selected)
    begin, epoch = _position("after", request.after, log)
    offset = broker.seek_sequence(topic, begin) if begin else 0
    below = 0 if request.through is None else request.through + 1
    page, last, is_first = HistoryPage(), None, True
    while True:
        step = steps.up(offset)
        _check_epoch("after", epoch, step.epoch)
        if 0 < begin < step.trimmed if is_first else offset + 1 < step.first:
            page.first_kept = step.first
        is_first = False
        for entry in map(partial(_within, above=begin, below=below), step.entries):
            if request.through is not None and entry.sequence_of(entry.first) > request.through:
                return page
            end = min(entry.last, step.reached)  # an index may list more of the entry
            events = _matching(entry, topic, selected, pause, above=begin, below=below)
            last, more = scan.take(entry, events), end < step.last
            if last is not None or (scan.exhausted and more):
                reached = entry.sequence_of(end) if last is None else last
                if more or reached < entry.sequence:
                    page.newer = scan.cursor(step.epoch, reached)
                break
        if page.newer is not None or not step.more or last is not None:
            break
        offset = step.reached
    if begin:
        page.older = scan.cursor(step.epoch, scan.first_found(begin + 1))
    return page


def _read_backwards(
    broker: Broker, topic: str, selected: HistoryFilter, request: PageRequest, scan: _Scan, pause: Pause
) -> HistoryPage:
    log, steps = Log(topic), _steps(broker, topic, selected)
    end, epoch = _position("before", request.before, log)
    # The entry after the last one below the cursor may have events on both sides of it.
    start = f">{broker.seek_sequence(topic, end - 1)}" if end else "+"
    page, last = HistoryPage(), None
    while True:
        step = steps.down(start)
        _check_epoch("before", epoch, step.epoch)
        for number, entry in enumerate(map(partial(_within, above=0, below=end), step.entries), 1):
            more = step.more or number < len(step.entries)
            first = entry.sequence_of(max(entry.first, step.reached))  # an index may list more of the entry
            if end and first >= end:
                continue
            last = scan.take(entry, _matching(entry, topic, selected, pause, below=end, newest_first=True))
            if last is not None or (scan.exhausted and more):
                reached = first if last is None else last
                if more or reached > first:
                    page.older = scan.cursor(step.epoch, reached)
                break
        if page.older is not None or not step.more or last is not None:
            break
        start = step.start
    if end:
        page.newer = scan.cursor(step.epoch, scan.first_found(end - 1))
    return page


def _steps(broker: Broker, topic: str, selected: HistoryFilter) -> LogSteps:
    if selected.corrections:
        return LogSteps(broker, topic, current=False)
    return LogSteps(broker, topic, selected.index, selected.events.terms(selected.index))


def _position(name: str, cursor: str | None, log: Log) -> tuple[int, int | None]:
    """Return the sequence and the epoch of a cursor; 0 in any epoch without one."""
    if cursor is None:
        return 0, None
    try:
        position = decode(cursor)[log.partition]
    except (UnreadableCursor, KeyError):
        raise InvalidParameter(name, "not a cursor of this topic's history") from None
    return position.sequence, position.epoch


def _check_epoch(name: str, cursor: int | None, present: int) -> None:
    if cursor is not None and cursor != present:
        raise InvalidParameter(name, "the cursor is from before a restart of Redis; begin again without it")


def _matching(
    entry: EventsEntry | FoundEntry, topic: str, selected: HistoryFilter, pause: Pause, *, above: int = 0,
    below: int = 0, newest_first: bool = False,
) -> Iterator[tuple[int, dict[str, Any]]]:  # fmt: skip
    """Yield the sequence and the public form of the selected events of an entry, ``above`` and ``below`` sequences (0:
    no bound)."""
    if isinstance(entry, EventsEntry) and entry.correction is not None:
        inside = entry.sequence > above and not (below and entry.sequence >= below)
        if selected.corrections and inside and (public := _correction(entry, entry.correction, topic, selected)):
            yield entry.sequence, public
        return
    lines = entry.lines()
    for offset, line in reversed(lines) if newest_first else lines:
        pause()
        sequence = entry.sequence_of(offset)
        if sequence <= above or (below and sequence >= below):
            continue
        event = Event.decode(line)
        if selected.matches(event, entry.arrival):
            yield sequence, event.public(topic, offset, entry.arrival)


def _within(entry: EventsEntry | FoundEntry, above: int, below: int) -> EventsEntry | FoundEntry:
    """Return what a page looks at of an entry. Events beyond its cursor must not count as read: a page of nothing else
    would end where it began."""
    return entry.within(above, below) if isinstance(entry, FoundEntry) else entry


def _correction(entry: EventsEntry, found: Correction, topic: str, selected: HistoryFilter) -> dict[str, Any] | None:
    """Return the public form of a correction; None if the request selects neither form of its event."""
    forms = [None if line is None else Event.decode(line) for line in (found.old, found.new)]
    if not any(form is not None and selected.matches(form, found.arrival) for form in forms):
        return None
    old, new = (None if form is None else form.public(topic, found.offset, found.arrival) for form in forms)
    head = {"$topic": topic, "$offset": entry.last, "$corrects": found.offset, "time": format_time(entry.arrival)}
    return head | {"old": old, "new": new}
