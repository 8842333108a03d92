"""Corrections of stored events: finding an event, and replacing or deleting it by an entry of its own in the log.

The log keeps the forms that were published. Beside it, a hash has the current form of each entry with a corrected
event. ``Broker.read`` returns either; see scripts/correct.lua.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import orjson

from pushsvc.broker import script
from pushsvc.broker.connection_pool import Connections
from pushsvc.broker.keys import Keys, Log
from pushsvc.broker.latest import LatestEvent, LatestStore
from pushsvc.broker.log import BackwardRead, Correction, EventsEntry, Mark
from pushsvc.broker.publisher import Committing, window_age, window_events
from pushsvc.broker.script import RUN, CorrectArguments, CorrectKeys, ScriptCall
from pushsvc.errors import EventGone, NoEvent, Unavailable, Unconfirmed, WindowsIncomplete
from pushsvc.event import Event
from pushsvc.event.index import digest_of, terms_of
from pushsvc.pause import Pause, no_pause
from pushsvc.settings import TopicSettings

_READ_BYTES = 1_000_000
_TRIES = 20
_KEPT = 3_600_000  # ms for which an unfinished copy of a log is kept
ERASED = "$erased"  # the type of what is left of an erased event in the log
_CORRECTIONS = 100  # of an event, the newest, that are listed
ReadBack = Callable[..., BackwardRead]


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event as the log has it: the forms that it was published with and that it has now, and its last correction.

    ``line`` is None for an event that was deleted. ``entry`` is the last offset of its entry, ``place`` its place in
    that.
    """

    offset: int
    arrival: int
    entry: int
    place: int
    published: bytes
    line: bytes | None
    mark: Mark | None


@dataclass(frozen=True, slots=True)
class Corrected:
    """A correction that was stored: its offset and arrival (ms), and the event as it is now (None: deleted)."""

    offset: int
    at: int
    event: Event | None


class CorrectionStore:
    """Finds and corrects events. Methods raise errors of ``pushsvc.errors``."""

    def __init__(
        self, keys: Keys, connections: Connections, committer: Committing, latest: LatestStore, read_back: ReadBack,
        prepare: Callable[[], None],
    ) -> None:  # fmt: skip
        self._keys = keys
        self._connections = connections
        self._committer = committer
        self._latest = latest
        self._read_back = read_back
        self._prepare = prepare

    # Finding

    def find(self, topic: str, name: str, pause: Pause = no_pause) -> StoredEvent:
        """Return the event ``$<offset>``, or the newest one with the id ``name``. Raise NoEvent or EventGone."""
        offset = self._offset_of(topic, name, pause)
        found = self.at(topic, offset)
        if found is None:
            raise EventGone(f"the log of {topic!r} does not have the offset {offset} any more")
        return found

    def at(self, topic: str, offset: int) -> StoredEvent | None:
        """Return the event at an offset; None if it is gone. Raise NoEvent where no event is, or was."""
        log = Log(topic)
        created, first, last = self._connections.command("HMGET", self._keys.metadata(log), "created", "first", "last")
        if created is None or not 0 < offset <= int(last or 0):
            raise NoEvent(f"{topic!r} has no event at the offset {offset}")
        if offset < int(first or 1):
            return None
        key = self._keys.log(log)
        stored = self._connections.command("XRANGE", key, f"{offset}-0", "+", "COUNT", 1)
        if not stored:
            return None
        _, (_, header, _, data) = stored[0]
        entry = EventsEntry.parse(header, data)
        if offset < entry.first:
            return None
        if entry.correction is not None:
            raise NoEvent(f"the offset {offset} of {topic!r} is that of a correction of {entry.correction.offset}")
        place = offset - entry.first
        line = published = data.split(b"\n")[place]
        mark = None
        current = self._connections.command("HGET", self._keys.corrections(topic), entry.last)
        if current is not None:
            kept = EventsEntry.parse(header + b" c", current)
            mark, line = (kept.marks or {}).get(offset), dict(kept.lines()).get(offset, b"")
        return StoredEvent(offset, entry.arrival, entry.last, place, published, line or None, mark)

    def of(self, topic: str, found: StoredEvent) -> list[tuple[Mark, Correction]]:
        """Return the corrections of an event that the log has, the oldest first."""
        key, offset = self._keys.log(Log(topic)), found.mark.offset if found.mark else 0
        corrections: list[tuple[Mark, Correction]] = []
        while offset and len(corrections) < _CORRECTIONS:
            stored = self._connections.command("XRANGE", key, f"{offset}-0", f"{offset}-0")
            if not stored:
                break
            _, (_, header, _, data) = stored[0]
            entry = EventsEntry.parse(header, data)
            if entry.correction is None:
                break
            corrections.append((Mark(offset, entry.arrival), entry.correction))
            offset = entry.correction.previous
        return corrections[::-1]

    def _offset_of(self, topic: str, name: str, pause: Pause) -> int:
        if name.startswith("$"):
            if not name[1:].isascii() or not name[1:].isdigit() or len(name) > 17:
                raise NoEvent(f"{name!r} is no offset: $ is followed by digits")
            return int(name[1:])
        for key in self._keys.ids(topic):
            found = self._connections.command("HGET", key, name)
            if found is not None:
                return int(found)
        quoted = orjson.dumps(name)
        for entry in self._entries(topic, pause, current=False):
            for offset, line in reversed(entry.lines()):
                pause()
                if (quoted in line or b"\\" in line) and Event.decode(line).id == name:
                    return offset
        raise NoEvent(f"the log of {topic!r} has no event with the id {name!r}")

    def _entries(self, topic: str, pause: Pause, *, current: bool) -> Iterator[EventsEntry]:
        """Yield the entries of a log, the newest first."""
        start, more = "+", True
        while more:
            read = self._read_back(topic, start, budget=_READ_BYTES, current=current)
            yield from read.entries
            more = read.more and bool(read.entries)
            start = str(read.entries[-1].first - 1) if read.entries else start
            pause()

    # Correcting

    def correct(
        self, topic: str, settings: TopicSettings, found: StoredEvent, event: Event | None, pause: Pause = no_pause
    ) -> Corrected | None:
        """Replace the event that was ``found`` by another form of it, or delete it; return None if it has another form
        meanwhile. Raise WindowsIncomplete, EventGone, NoEvent, OutcomeUnknown and those of a publish."""
        if found.line is None:
            raise EventGone("the event was deleted")
        self._prepare()
        line = None if event is None else event.encode()
        for _ in range(_TRIES):
            self._check_windows(topic, settings)
            reply = self._send(topic, settings, found, line, pause)
            match reply[0]:
                case b"ok":
                    return Corrected(int(reply[1]), int(reply[2]), event)
                case b"again":
                    now = self.at(topic, found.offset)
                    if now is None or now.line != found.line:
                        return None
                case b"gone":
                    raise EventGone(f"the log of {topic!r} does not have the offset {found.offset} any more")
                case _:
                    raise NoEvent(f"the topic {topic!r} was deleted")
        raise Unavailable("too many corrections of this topic at the same time")

    def _send(
        self, topic: str, settings: TopicSettings, found: StoredEvent, line: bytes | None, pause: Pause
    ) -> Sequence[Any]:
        log, keys = Log(topic), self._keys
        latest_key, order_key = keys.latest(topic)
        corrected = self._connections.command("HGET", keys.metadata(log), "corrected") or b""
        changes = self._newest_after(topic, settings, found, line, pause) if settings.latest else []
        old = found.line or b""
        previous = 0 if found.mark is None else found.mark.offset
        listed = tuple(one.listed() for one in changes)
        data = Correction(found.offset, found.arrival, old, line, listed, previous).encode()
        terms = [] if line is None else [value for term in terms_of(line, settings.index) for value in term]
        arguments = CorrectArguments(
            run=RUN, publish_command=self._connections.publish_command, log_channel=keys.log_channel(log),
            partition_channel=keys.partition_channel(log.partition) if settings.windows else "", topic=topic,
            event=found.offset, entry=found.entry, place=found.place, old=old, new=line or b"", data=data,
            corrected=corrected,
            latest=msgspec.msgpack.encode([value for one in changes for value in one.packed()]),
            max_latest=settings.max_keys if settings.latest else 0,
            fields=digest_of(settings.index) if settings.index else "-", terms=msgspec.msgpack.encode(terms),
        )  # fmt: skip
        names = CorrectKeys(
            partition=keys.partition(log.partition), changed=keys.changed(log.partition), log=keys.log(log),
            metadata=keys.metadata(log), latest=latest_key, latest_order=order_key, index=keys.index(topic),
            corrections=keys.corrections(topic),
        )  # fmt: skip
        reply, missing = self._committer.call(ScriptCall(script.CORRECT, names, arguments))
        if missing and reply[0] == b"ok":
            raise Unconfirmed(f"the correction is in Redis, but {missing}: repeating it is safe")
        return list(reply)

    # Erasing

    def erase(self, topic: str, settings: TopicSettings, found: StoredEvent, pause: Pause = no_pause) -> None:
        """Remove every form of an event that was deleted from the log, its index and the known ids.

        Redis changes no entry of a stream, so the log is copied, piece by piece. In its place the event is one of the
        type ERASED, without anything else, for those that read the log as it was published.
        """
        log, keys = Log(topic), self._keys
        key, new = keys.log(log), f"{keys.log(log)}$erased.{secrets.token_hex(8)}"
        created = self._connections.command("HGET", keys.metadata(log), "created") or b""
        changed = self._without(topic, found, pause)
        at, more = "0-0", True
        while more:
            arguments = [at, _READ_BYTES, _KEPT, *changed]
            copied, again = self._connections.call(script.ERASE_COPY, [key, new], arguments)
            at, more = copied.decode(), bool(again)
            pause()
        name = Event.decode(found.published).id or ""
        swapped = [key, new, keys.metadata(log), keys.index(topic), *keys.ids(topic)]
        self._connections.call(script.ERASE_SWAP, swapped, [at, created, name, *changed])

    def _without(self, topic: str, found: StoredEvent, pause: Pause) -> list[str | bytes]:
        """Return id, data, … of the entries of a log that have a form of an event, without it. Remove the terms of
        these forms from the index."""
        changed: list[str | bytes] = []
        terms: set[str] = set()
        fields = self._connections.command("HGET", self._keys.metadata(Log(topic)), "indexed")
        for entry in self._entries(topic, pause, current=False):
            if entry.last < found.entry:
                break
            if entry.last == found.entry:
                lines = entry.data.split(b"\n")
                terms.update(_terms(lines[found.place]))
                lines[found.place] = Event(type=ERASED).encode()
                changed += (f"{entry.last}-0", b"\n".join(lines))
            elif (correction := entry.correction) is not None:
                own = correction.offset == found.offset
                # Removed keys may be those of the event: a reader finds them by its offset.
                latest = tuple(
                    one for one in correction.latest if one[1] != found.offset and not (own and one[3] is None)
                )
                if own:
                    terms.update(term for line in (correction.old, correction.new) if line for term in _terms(line))
                if own or latest != correction.latest:
                    old, new = (None, None) if own else (correction.old, correction.new)
                    changed += (f"{entry.last}-0", replace(correction, old=old, new=new, latest=latest).encode())
        if fields is not None and terms:
            self._connections.call(script.ERASE_TERMS, [self._keys.index(topic)], [found.offset, *sorted(terms)])
        return changed

    def _check_windows(self, topic: str, settings: TopicSettings) -> None:
        """Raise WindowsIncomplete if a window may have events that the log does not have: they could not be counted
        again. A window ``all`` is not."""
        settings = settings.rolling
        if not settings.windows:
            return
        log = Log(topic)
        first, last, gaps, trimmed, oldest = self._connections.command(
            "HMGET", self._keys.metadata(log), "first", "last", "gaps", "trimmed_arrival", "oldest"
        )
        if int(first or 1) <= 1:
            return
        now = self._now(log.partition)
        arrival = int(trimmed or (oldest or b"0 0 0 0").split()[2])
        events = int(last or 0) - int(first) + 1 - int(gaps or 0)
        if now - arrival < window_age(settings) or (settings.largest_count_window and events < window_events(settings)):
            raise WindowsIncomplete(
                f"the windows of {topic!r} count events that its log does not have any more, so they cannot be counted "
                "again; nothing was changed"
            )

    def _now(self, partition: int) -> int:
        seconds, microseconds = self._connections.at(self._keys.partition(partition)).command("TIME")
        return int(seconds) * 1_000 + int(microseconds) // 1_000

    # The newest events

    def _newest_after(
        self, topic: str, settings: TopicSettings, found: StoredEvent, line: bytes | None, pause: Pause
    ) -> list[_NewestChange]:
        """Return how the newest events of keys change if an event gets another form, or none."""
        deletes = frozenset(settings.latest_deletes)
        before, after = Event.decode(found.line or b"{}"), None if line is None else Event.decode(line)
        keys = dict.fromkeys(key for key in (before.key, after.key if after else None) if key is not None)
        present = self._latest.pick(topic, settings, list(keys)).events if keys else {}
        changes = []
        for key in keys:
            has = present.get(key)
            if has is not None and has.offset > found.offset:
                continue  # a newer event decides
            stays = after is not None and after.key == key
            if has is None or (has.offset == found.offset and not stays):
                newest = self._newest_in_log(topic, key, found.offset, after if stays else None, pause)
            elif stays:
                newest = LatestEvent(found.offset, found.arrival, line or b"")
            else:
                continue  # the event was never its newest
            if newest is not None and Event.decode(newest.line).type in deletes:
                newest = None
            if newest is not None or has is not None:
                changes.append(_NewestChange.of(key, has, newest))
        return changes

    def _newest_in_log(self, topic: str, key: str, offset: int, own: Event | None, pause: Pause) -> LatestEvent | None:
        """Return the newest event of a key in the log, with ``own`` as the form of the event at an offset."""
        quoted = orjson.dumps(key)
        for entry in self._entries(topic, pause, current=True):
            for at, line in reversed(entry.lines()):
                pause()
                if at == offset:
                    if own is not None:
                        return LatestEvent(at, entry.arrival, own.encode())
                elif (quoted in line or b"\\" in line) and Event.decode(line).key == key:
                    return LatestEvent(at, entry.arrival, line)
        return None


def _terms(line: bytes) -> list[str]:
    """Return the terms that an event may have in an index, whatever its fields."""
    names = ["id", "type", "key", *orjson.loads(line)]
    return [found for found, _, _ in terms_of(line, names)]


@dataclass(frozen=True, slots=True)
class _NewestChange:
    """The newest event of a key: the offset of that which it has (None: none), and the one that it gets; its ``line``
    is None if it gets none."""

    key: str
    present: int | None
    offset: int
    arrival: int
    line: bytes | None

    @classmethod
    def of(cls, key: str, has: LatestEvent | None, newest: LatestEvent | None) -> _NewestChange:
        present = None if has is None else has.offset
        if newest is None:
            return cls(key, present, 0, 0, None)
        return cls(key, present, newest.offset, newest.arrival, newest.line)

    def listed(self) -> tuple[str, int, int, str | None]:
        """Return what the entry of the correction says of it."""
        return self.key, self.offset, self.arrival, None if self.line is None else self.line.decode()

    def packed(self) -> tuple[str, str, str, str]:
        """Return what correct.lua takes. Redis reads text of MessagePack, and no bytes."""
        value = "" if self.line is None else f"{self.offset} {self.arrival} {self.line.decode()}"
        return self.key, "" if self.present is None else str(self.present), str(self.offset), value
