"""The newest event of each key of a topic, and the entry that changed each of them last."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import takewhile

import orjson

from pushsvc.broker.latest import LatestEvents
from pushsvc.broker.log import Correction, EventsEntry
from pushsvc.event import Event
from pushsvc.event.latest import latest_changes
from pushsvc.pause import Pause
from pushsvc.settings import TopicSettings

_REMOVED = 1_000  # removed keys that are remembered, unless there are more keys than this
_OVERHEAD = 300  # bytes of memory that an event takes beside its data, about


@dataclass(frozen=True, slots=True)
class NewestEvent:
    """An event as subscribers see it, as JSON, with the sequence of the entry that brought it, and its own offset."""

    sequence: int
    data: bytes
    offset: int


class LatestState:
    """The newest events of a topic, up to ``offset`` of its log and ``sequence`` of its partition.

    It answers at once what changed since any sequence: for a slow stream or a resumed one. ``evicted`` counts the keys
    that went for lack of room, ``size`` the bytes of memory, about.
    """

    def __init__(self, topic: str, settings: TopicSettings, found: LatestEvents, pause: Pause) -> None:
        self.epoch, self.sequence, self.offset, self.evicted = found.epoch, found.sequence, found.last, found.evicted
        self.size = 0
        self._topic = topic
        self._most, self._deletes = settings.max_keys, frozenset(settings.latest_deletes)
        self._events: dict[str, NewestEvent] = {}  # in the order of their sequences
        self._in_order = True  # this is that of their offsets too: no correction has brought an older event back
        self._removed: dict[str, int] = {}  # key: sequence of its removal; oldest first
        self._horizon = found.sequence  # changes up to this sequence are not known key by key
        for key, event in found.events.items():
            self._put(key, Event.decode(event.line), event.offset, event.arrival, found.sequence)
            pause()

    def apply(self, entry: EventsEntry) -> tuple[Collection[str], Collection[str]]:
        """Fold an entry in; return the keys that have a new event, and those that were removed. An entry that the state
        includes changes nothing."""
        if entry.last <= self.offset:
            return (), ()
        changed: list[str] = []
        gone: list[str] = []
        if entry.correction is not None:
            self._correct(entry, entry.correction, changed, gone)
        for key, change in latest_changes(entry.data, self._deletes).items():
            offset = entry.first + change.place
            sequence = entry.sequence_of(offset)
            if change.line is not None:
                self._put(key, Event.decode(change.line), offset, entry.arrival, sequence)
                changed.append(key)
            elif key in self._events:
                self._remove(key, sequence)
                gone.append(key)
        while changed and len(self._events) > self._most:  # as the scripts do, after each entry
            oldest = self._oldest()
            self._remove(oldest, entry.sequence)
            self.evicted += 1
            gone.append(oldest)
        self.offset, self.sequence = entry.last, entry.sequence
        return changed, gone

    def _correct(self, entry: EventsEntry, found: Correction, changed: list[str], gone: list[str]) -> None:
        """Fold a correction in, which says what changes; but for an erased event not which keys it had."""
        erased = found.old is None and found.new is None
        for key in [key for key, one in self._events.items() if erased and one.offset == found.offset]:
            self._remove(key, entry.sequence)
            gone.append(key)
        for key, offset, arrival, line in found.latest:
            if line is not None:
                self._put(key, Event.decode(line.encode()), offset, arrival, entry.sequence)
                self._in_order = False
                changed.append(key)
                if key in gone:
                    gone.remove(key)
            elif key in self._events:
                self._remove(key, entry.sequence)
                gone.append(key)

    def _oldest(self) -> str:
        """Return the key whose event has the least offset."""
        if self._in_order:
            return next(iter(self._events))
        return min(self._events, key=lambda key: self._events[key].offset)

    def _put(self, key: str, event: Event, offset: int, arrival: int, sequence: int) -> None:
        data = orjson.dumps(event.public(self._topic, offset, arrival))
        self._drop(key)
        self._events[key] = NewestEvent(sequence, data, offset)
        self._removed.pop(key, None)
        self.size += len(data) + len(key) + _OVERHEAD

    def _remove(self, key: str, sequence: int) -> None:
        self._drop(key)
        self._removed.pop(key, None)
        self._removed[key] = sequence
        while len(self._removed) > max(_REMOVED, len(self._events)):
            self._horizon = max(self._horizon, self._removed.pop(next(iter(self._removed))))

    def _drop(self, key: str) -> None:
        before = self._events.pop(key, None)
        if before is not None:
            self.size -= len(before.data) + len(key) + _OVERHEAD

    def __contains__(self, key: str) -> bool:
        return key in self._events

    def events(self, keys: Collection[str] | None) -> list[bytes]:
        """Return the events, or those of some keys, the oldest first."""
        if keys is None:
            return [event.data for event in self._events.values()]
        found = [event for key in keys if (event := self._events.get(key)) is not None]
        return [event.data for event in sorted(found, key=lambda event: event.sequence)]

    def event(self, key: str) -> bytes:
        """Return the event of a key that has one."""
        return self._events[key].data

    def since(self, sequence: int, keys: Collection[str] | None) -> tuple[list[bytes], list[str]] | None:
        """Return the events of the keys that changed after a sequence, oldest first, and the removed keys; None if that
        is unknown."""
        if sequence < self._horizon:
            return None
        selected = _Selected(keys)
        changed = takewhile(lambda item: item[1].sequence > sequence, reversed(self._events.items()))
        gone = takewhile(lambda item: item[1] > sequence, reversed(self._removed.items()))
        events = [event.data for key, event in changed if key in selected]
        return events[::-1], [key for key, _ in gone if key in selected][::-1]


class _Selected:
    """Contains some keys, or every key."""

    def __init__(self, keys: Collection[str] | None) -> None:
        self._keys = keys

    def __contains__(self, key: str) -> bool:
        return self._keys is None or key in self._keys


def merge_changes(changes: Iterable[tuple[Collection[str], Collection[str]]]) -> tuple[list[str], list[str]]:
    """Return the keys that several entries changed, in the order of their events, and those that they removed."""
    changed: dict[str, None] = {}
    gone: dict[str, None] = {}
    for now_changed, now_gone in changes:
        for key in now_changed:
            changed.pop(key, None)
            changed[key] = None
            gone.pop(key, None)
        for key in now_gone:
            gone[key] = None
            changed.pop(key, None)
    return list(changed), list(gone)
