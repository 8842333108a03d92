"""The newest event of each key of topics with the setting ``latest``, as Redis keeps them beside the log.

The publish script changes them with each append. ``latest`` in the metadata is the offset up to which they are those of
the log. Where it lags behind, because the setting was switched on or a process ran without it, ``fill`` folds the rest
of the log in.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec

from pushsvc.broker import script
from pushsvc.broker.connection_pool import Connections
from pushsvc.broker.keys import Keys, Log
from pushsvc.broker.log import EventsEntry, PartitionRead
from pushsvc.broker.replies import as_text, raise_first
from pushsvc.broker.script import RUN, ScriptCall
from pushsvc.errors import PushError
from pushsvc.event.latest import latest_changes
from pushsvc.pause import Pause, no_pause
from pushsvc.settings import TopicSettings

_MARKS = 500  # topics whose marks are read in one round trip
Read = Callable[..., PartitionRead]  # that of the broker


@dataclass(frozen=True, slots=True)
class LatestEvent:
    """The newest event of a key, in its stored form; ``arrival`` in ms."""

    offset: int
    arrival: int
    line: bytes

    @classmethod
    def parse(cls, value: bytes) -> LatestEvent:
        offset, arrival, line = value.split(b" ", 2)
        return cls(int(offset), int(arrival), line)


@dataclass(slots=True)
class LatestEvents:
    """The newest events of a topic at one instant: by key, in the order of their offsets.

    They are those of the log up to ``last``, an offset, and of its partition up to ``sequence``. ``evicted`` counts the
    keys that went for lack of room, ever.
    """

    epoch: int = 0
    sequence: int = 0
    last: int = 0
    evicted: int = 0
    events: dict[str, LatestEvent] = field(default_factory=dict)


class _Page:
    """The answer of latest_read.lua."""

    def __init__(self, answer: Sequence[Any]) -> None:
        (
            _, self.epoch, self.sequence, self.last, folded, self.evicted, self.count, more, flat, listed,
            self.corrected,
        ) = answer  # fmt: skip
        self.folded, self.more = bool(folded), bool(more)
        values = map(LatestEvent.parse, flat[1::2])
        self.events = dict(zip(as_text(flat[::2]), values, strict=True))
        self.keys = as_text(listed)


class LatestStore:
    """The newest events of all topics. One call returns ``page_bytes`` of them.

    Methods raise errors of ``pushsvc.errors``.
    """

    def __init__(
        self, keys: Keys, connections: Connections, read: Read, open_partitions: Callable[[Sequence[int]], None],
        page_bytes: int = 250_000,
    ) -> None:  # fmt: skip
        self.page_bytes = page_bytes
        self._keys = keys
        self._connections = connections
        self._read = read
        self._open_partitions = open_partitions

    def read(
        self, topic: str, settings: TopicSettings, *, pause: Pause = no_pause,
        on_size: Callable[[int], None] = lambda _: None,
    ) -> LatestEvents:  # fmt: skip
        """Return the newest events of all keys, page by page; ``on_size`` is called with the bytes so far."""
        while True:
            found = self._read_all(topic, pause, on_size)
            if found is not None:
                return found
            self.fill(topic, settings, pause)

    def _read_all(self, topic: str, pause: Pause, on_size: Callable[[int], None]) -> LatestEvents | None:
        """Return the newest events; None if the log has to be folded in first.

        An event that replaces another has a greater offset, so the pages have each key in its last form. Keys that were
        removed between two pages are found by a list of all keys, which is read with the last page. A correction may
        bring an event back that has a smaller offset: then the pages are read again.
        """
        found = LatestEvents()
        size, list_keys = 0, False
        after, corrected = 0, None
        while True:
            page = self._page(topic, after, list_keys=list_keys)
            if not page.folded or (found.epoch and page.epoch != found.epoch):
                return None
            if corrected not in (None, page.corrected):
                return None
            corrected = page.corrected
            for key, event in page.events.items():
                found.events.pop(key, None)
                found.events[key] = event
                after = event.offset
                size += len(event.line)
                pause()
            on_size(size)
            found.epoch, found.sequence = page.epoch, page.sequence
            found.last, found.evicted = page.last, page.evicted
            if page.more:
                list_keys = False
            elif len(found.events) == page.count:
                return found
            elif list_keys:
                there = set(page.keys)
                found.events = {key: event for key, event in found.events.items() if key in there}
                return found
            else:
                list_keys = True

    def pick(self, topic: str, settings: TopicSettings, keys: Collection[str]) -> LatestEvents:
        """Return the newest events of some keys: of few, as one call returns them."""
        while True:
            page = self._page(topic, 0, keys=keys)
            if page.folded:
                break
            self.fill(topic, settings)
        ordered = sorted(page.events.items(), key=lambda item: item[1].offset)
        return LatestEvents(page.epoch, page.sequence, page.last, page.evicted, dict(ordered))

    def _page(self, topic: str, after: int, *, list_keys: bool = False, keys: Collection[str] | None = None) -> _Page:
        log, budget = Log(topic), self.page_bytes if keys is None else 0
        names = [self._keys.partition(log.partition), self._keys.metadata(log), *self._keys.latest(topic)]
        call = ScriptCall(script.LATEST_READ, names, [RUN, after, budget, int(list_keys), *(keys or ())])
        answer = raise_first(self._connections.calls([call]))[0]
        if not answer[0]:
            self._open_partitions([log.partition])
            answer = raise_first(self._connections.calls([call]))[0]
        return _Page(answer)

    def size(self, topic: str) -> int | None:
        """Return about how many bytes of Redis the newest events take; None if it does not tell (not each provider has
        the command)."""
        events, _ = self._keys.latest(topic)
        with suppress(PushError):
            return self._connections.at(events).command("MEMORY", "USAGE", events) or 0
        return None

    # Folding the log in

    def behind(self, topics: Sequence[str]) -> list[str]:
        """Return those of some topics of one partition whose log has to be folded in."""
        found = []
        for start in range(0, len(topics), _MARKS):
            piece = topics[start : start + _MARKS]
            marks = self._marks(piece)
            found += [topic for topic, (last, folded) in zip(piece, marks, strict=True) if last != folded]
        return found

    def _marks(self, topics: Sequence[str]) -> list[tuple[int | None, int | None]]:
        """Return of each topic its last offset and that up to which it is folded in; None and None without a topic."""
        replies = self._connections.commands(
            [("HMGET", self._keys.metadata(Log(topic)), "created", "last", "latest") for topic in topics]
        )
        return [(int(last), int(folded or 0)) if created else (None, None) for created, last, folded in replies]

    def fill(self, topic: str, settings: TopicSettings, pause: Pause = no_pause) -> None:
        """Fold in what the log has and the newest events lack. Several processes may do so at the same time."""
        log = Log(topic)
        keys = [self._keys.metadata(log), *self._keys.latest(topic)]
        known = 0  # corrections up to this offset were made before the first entry was read
        while True:
            [(last, folded)] = self._marks([topic])
            if last is None or folded is None or last == folded:
                return
            read = self._read(log.partition, {log: folded}, current=True).logs[log]
            corrected = any(entry.correction is not None and entry.last > known for entry in read.entries)
            if folded and (corrected or not read.entries or read.entries[0].first > folded + 1):
                # Events were trimmed before they were folded in, perhaps some that removed a key, or an event was
                # corrected that is folded in.
                folded = 0
                read = self._read(log.partition, {log: 0}, current=True).logs[log]
            if not folded:
                known = read.last
            upto = read.entries[-1].last if read.entries else read.last
            changes = [list(_values(entry, settings.latest_deletes, pause)) for entry in read.entries]
            packed = msgspec.msgpack.encode(changes)
            self._connections.call(script.LATEST_FILL, keys, [folded or "", upto, settings.max_keys, packed])


def _values(entry: EventsEntry, deletes: Collection[str], pause: Pause) -> Iterator[str | int]:
    """Yield for each key of an entry what latest_fill.lua takes. Redis reads text of MessagePack, and no bytes."""
    for key, change in latest_changes(entry.data, deletes).items():
        offset = entry.offset_at(change.place)
        yield key
        yield offset
        yield "" if change.line is None else f"{offset} {entry.arrival} {change.line.decode()}"
        pause()
