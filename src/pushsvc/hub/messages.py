"""Log entries as event-stream messages. Streams with equal wishes share a message, but for its id line."""

from collections.abc import Hashable, Iterable, Iterator, Mapping
from random import randrange
from typing import Any

import orjson

from pushsvc import sse
from pushsvc.broker.keys import Log
from pushsvc.broker.log import EventsEntry, FrameKind, StatisticsEntry
from pushsvc.clock import format_time
from pushsvc.event import Event
from pushsvc.event.conditions import EventFilter
from pushsvc.hub.window_state import Selection
from pushsvc.pause import Pause
from pushsvc.system_clock import now_ms

_RETRY = 2_000
_ROWS_A_SLICE = 250
OPENING = sse.retry(_RETRY) + sse.comment("pushsvc")
_EVENT_NAMES = {FrameKind.UPDATE: "update", FrameKind.SNAPSHOT: "snapshot"}


class Rendering:
    """The messages of the entries of one read, each made once. Lives as long as the entries are handed out."""

    def __init__(self) -> None:
        self._made: dict[Hashable, Any] = {}
        self._prepared: list[Hashable] = []

    def prepare(self, entry: StatisticsEntry, selection: Selection, pause: Pause) -> None:
        """Make the message of a large frame in slices, for the consumer that asks for it next."""
        key = (id(entry), selection)
        if selection.everything or entry.kind is FrameKind.BASELINE or key in self._made:
            return
        self._made[key] = _selected_in_slices(entry, selection, pause)
        self._prepared.append(key)

    def forget_prepared(self) -> None:
        """Drop what was prepared: consumers with equal selections are few, and a message may have 10 MB."""
        for key in self._prepared:
            del self._made[key]
        self._prepared.clear()

    def statistics(self, entry: StatisticsEntry, selection: Selection) -> bytes | None:
        """Return the message of a frame; None for a baseline, or if the selection has none of its rows."""
        key = (id(entry), selection)
        if key not in self._made:
            self._made[key] = self._statistics(entry, selection)
        message: bytes | None = self._made[key]
        return message

    def _statistics(self, entry: StatisticsEntry, selection: Selection) -> bytes | None:
        if entry.kind is FrameKind.BASELINE:
            return None
        if selection.everything:
            return sse.encode(entry.data, event=_EVENT_NAMES[entry.kind])
        make = update if entry.kind is FrameKind.UPDATE else snapshot
        return make(selection.apply(entry.frame))

    def events(self, of: Log, entry: EventsEntry, reserved: frozenset[str] | None) -> list[bytes]:
        """Return a message for each event of an entry, as ``events``."""
        key = (id(entry), reserved)
        if key not in self._made:
            self._made[key] = events(of, entry, reserved)
        messages: list[bytes] = self._made[key]
        return messages

    def selected(
        self, of: Log, entry: EventsEntry, filter: EventFilter, reserved: frozenset[str] | None
    ) -> Iterable[tuple[int, bytes]]:
        """Return the offsets and messages of the events of an entry that a filter selects, or of its correction."""
        if entry.correction is not None:
            message = correction(of, entry, filter, reserved)
            return () if message is None else ((entry.last, message),)
        if filter.selects_all:
            return enumerate(self.events(of, entry, reserved), entry.first)
        chosen = (offset for offset, event in enumerate(entry.events, entry.first) if filter.matches(event))
        return ((offset, self.event(of, entry, offset, reserved)) for offset in chosen)

    def event(self, of: Log, entry: EventsEntry, offset: int, reserved: frozenset[str] | None) -> bytes:
        """Return the message of the event at an offset of an entry, as ``events``."""
        key = (id(entry), offset, reserved)
        if key not in self._made:
            self._made[key] = event(of, entry, offset, reserved)
        message: bytes = self._made[key]
        return message


def events(of: Log, entry: EventsEntry, reserved: frozenset[str] | None) -> list[bytes]:
    """Return a message for each event. Its type is the event name, unless it is ``reserved`` (None: all types are)."""
    return [event(of, entry, offset, reserved) for offset in range(entry.first, entry.last + 1)]


def event(of: Log, entry: EventsEntry, offset: int, reserved: frozenset[str] | None) -> bytes:
    """Return the message of the event at an offset of an entry."""
    event = entry.events[offset - entry.first]
    name = _event_name(event, reserved)
    return sse.encode(orjson.dumps(event.public(of.topic, offset, entry.arrival)), event=name)


def correction(of: Log, entry: EventsEntry, filter: EventFilter, reserved: frozenset[str] | None) -> bytes | None:
    """Return the message of a correction to those that a filter lets see some events; None if it concerns none of them.

    The event that they see may be another one now, be gone, or be new to them, as the filter selects either form of it.
    """
    found = entry.correction
    assert found is not None
    old, new = _selected_form(found.old, filter), _selected_form(found.new, filter)
    mark = {"offset": entry.last, "at": format_time(entry.arrival)}
    if new is None:
        if old is None and not (found.old is None and found.new is None):
            return None
        names: dict[str, Any] = {"$topic": of.topic, "$offset": found.offset}
        if old is not None:  # an erased one has no names either
            names |= {name: value for name, value in (("id", old.id), ("key", old.key)) if value is not None}
        return sse.encode(orjson.dumps(names | {"$deleted": mark}), event="deleted")
    public = new.public(of.topic, found.offset, found.arrival)
    if old is not None:
        return sse.encode(orjson.dumps({"$corrected": mark, **public}), event="corrected")
    return sse.encode(orjson.dumps(public), event=_event_name(new, reserved))


def _selected_form(line: bytes | None, filter: EventFilter) -> Event | None:
    """Return a form of an event, if there is one and the filter selects it."""
    form = None if line is None else Event.decode(line)
    return form if form is not None and filter.matches(form) else None


def _event_name(event: Event, reserved: frozenset[str] | None) -> str | None:
    plain = reserved is None or event.type == "message" or event.type in reserved
    return None if plain else event.type


def snapshot(frame: Mapping[str, Any]) -> bytes:
    """Return the selected rows of a window as a message."""
    return sse.encode(orjson.dumps(frame), event="snapshot")


def update(frame: Mapping[str, Any]) -> bytes | None:
    """Return the selected changes of rows as a message; None if there are none."""
    if not frame["data"] and not frame.get("gone"):
        return None
    return sse.encode(orjson.dumps(frame), event="update")


def _selected_in_slices(entry: StatisticsEntry, selection: Selection, pause: Pause) -> bytes | None:
    """Return the selected rows of a large frame as a message; None if it changes none of them."""
    frame = entry.frame
    rows, columns = frame["data"], frame["columns"]
    head = selection.apply({**frame, "data": []})
    del head["data"]
    pieces: list[bytes] = []
    for start in range(0, len(rows), _ROWS_A_SLICE):
        block = selection.apply({"columns": columns, "data": rows[start : start + _ROWS_A_SLICE]})["data"]
        if block:
            pieces += (b",", orjson.dumps(block)[1:-1])
        pause()
    if entry.kind is FrameKind.UPDATE and not pieces and not head.get("gone"):
        return None
    data = orjson.dumps(head)[:-1], b',"data":[', *pieces[1:], b"]}"
    return b"".join(sse.encode_json(data, event=_EVENT_NAMES[entry.kind]))


def latest_document(topic: str, events: Iterable[bytes], evicted: int | None) -> Iterator[bytes]:
    """Yield the newest events of a topic as pieces of a JSON object, with the number of keys that went for lack of room
    unless that is None."""
    yield b'{"topic":%b,"events":[' % orjson.dumps(topic)
    comma = b""
    for event in events:
        yield comma + event
        comma = b","
    yield b"]}" if evicted is None else b'],"evicted":%d}' % evicted


def reset(topic: str, reason: str) -> bytes:
    """Return the message that a client's position in a topic is lost."""
    return sse.encode(orjson.dumps({"topic": topic, "reason": reason}), event="reset")


def heartbeat(visible: bool, id: str | None) -> bytes:
    """Return a heartbeat: an event if it moves the cursor or is ``visible`` to the client's code, else a comment."""
    if visible or id is not None:
        return sse.encode(b'{"at":%d}' % now_ms(), event="heartbeat", id=id)
    return sse.comment("heartbeat")


def farewell(reason: str, wait: float = 0) -> bytes:
    """Return the end of a stream whose client shall come back. Any status but 200 stops an EventSource for ever.

    The delay is one to two times the usual one, so that many clients do not come back at once, and at least ``wait``
    seconds.
    """
    return sse.retry(max(_RETRY, int(wait * 1_000)) + randrange(_RETRY)) + sse.comment(reason)
