"""The index of topics with the setting ``index``: which events have a value of a field.

The publish script adds each event. ``indexed`` in the metadata says which part of the log is in the index, and by which
fields. What is older, because the setting was switched on or changed, ``fill`` adds, the newest entries first. So a
reader finds the events of that part by the index, and reads the rest of the log.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from pushsvc.broker import script
from pushsvc.broker.connection_pool import Connections
from pushsvc.broker.keys import Keys, Log
from pushsvc.broker.log import BackwardRead
from pushsvc.broker.replies import raise_first
from pushsvc.broker.script import RUN, ScriptCall
from pushsvc.event.index import digest_of, terms_of
from pushsvc.pause import Pause, no_pause

_MARKS = 500  # topics whose metadata are read in one round trip
_FILL_BYTES, _FILL_TERMS = 200_000, 2_000  # of entries that one call adds, and one entry more

ReadBack = Callable[[str, str, int], BackwardRead]


@dataclass(frozen=True, slots=True)
class FoundEntry:
    """Some events of an entry, with the offsets and the sequence of all of it; ``arrival`` in ms."""

    first: int
    last: int
    sequence: int
    arrival: int
    found: list[tuple[int, bytes]]

    @classmethod
    def parse(cls, flat: Sequence[Any]) -> FoundEntry:
        header, *events = flat
        sequence, first, count, _least, _greatest, arrival = map(int, header.split()[:6])
        found = sorted(zip(events[::2], events[1::2], strict=True))
        return cls(first, first + count - 1, sequence, arrival, found)

    @property
    def size(self) -> int:
        return sum(len(line) for _, line in self.found)

    @property
    def count(self) -> int:
        return len(self.found)

    def lines(self) -> list[tuple[int, bytes]]:
        """Return the events in their stored form, with their offsets."""
        return self.found

    def within(self, above: int, below: int) -> FoundEntry:
        """Return the events between two sequences (``below`` 0: no bound)."""
        least, most = self.last - self.sequence + above, self.last - self.sequence + below if below else self.last + 1
        return replace(self, found=[pair for pair in self.found if least < pair[0] < most])

    def sequence_of(self, offset: int) -> int:
        return self.sequence - (self.last - offset)


@dataclass(frozen=True, slots=True)
class LookUp:
    """Events that an index lists, in the order of reading, up to and with the offset ``reached``.

    If not ``covered``, the index lacks the events where to start: the log has to be read there. ``first`` and ``last``
    are those of the log; ``trimmed`` is as in LogRead.
    """

    epoch: int
    covered: bool
    first: int
    last: int
    trimmed: int
    reached: int
    entries: list[FoundEntry]

    @classmethod
    def parse(cls, answer: Sequence[Any]) -> LookUp:
        """Return the answer of look_up.lua."""
        _, epoch, covered, first, last, trimmed, reached, entries = answer
        return cls(epoch, bool(covered), first, last, trimmed, reached, list(map(FoundEntry.parse, entries)))


class IndexStore:
    """Reads indexes, and adds what they lack.

    One call finds at most ``found_events`` events in ``found_bytes`` of entries, and one entry more: Redis is busy for
    a few milliseconds.
    """

    found_events = 500
    found_bytes = 1_000_000

    def __init__(
        self, keys: Keys, connections: Connections, read_back: ReadBack,
        open_partitions: Callable[[Sequence[int]], None],
    ) -> None:  # fmt: skip
        self._keys = keys
        self._connections = connections
        self._read_back = read_back
        self._open_partitions = open_partitions

    def after(self, topic: str, fields: Sequence[str], terms: Sequence[str], offset: int) -> LookUp:
        """Find events after an offset by any of some terms; ``fields`` are those that the topic's index should have."""
        return self._look_up(topic, fields, terms, "after", offset)

    def before(self, topic: str, fields: Sequence[str], terms: Sequence[str], start: str) -> LookUp:
        """Find events from ``start`` down; it is that of ``Broker.read_back``."""
        return self._look_up(topic, fields, terms, "before", start)

    def _look_up(
        self, topic: str, fields: Sequence[str], terms: Sequence[str], direction: str, start: int | str
    ) -> LookUp:
        log = Log(topic)
        names = [
            self._keys.partition(log.partition), self._keys.log(log), self._keys.metadata(log), self._keys.index(topic),
            self._keys.corrections(topic),
        ]  # fmt: skip
        arguments = [RUN, digest_of(fields), direction, start, self.found_events, self.found_bytes, *terms]
        call = ScriptCall(script.LOOK_UP, names, arguments)
        answer = raise_first(self._connections.calls([call]))[0]
        if not answer[0]:
            self._open_partitions([log.partition])
            answer = raise_first(self._connections.calls([call]))[0]
        return LookUp.parse(answer)

    def behind(self, topics: Mapping[str, Sequence[str]]) -> list[str]:
        """Return those of some topics of one partition, given with the fields of their indexes, whose index lacks
        events of the log."""
        names, found = list(topics), []
        for start in range(0, len(names), _MARKS):
            piece = names[start : start + _MARKS]
            states = self._states(piece)
            found += [name for name, state in zip(piece, states, strict=True) if state.lacks(topics[name])]
        return found

    def fill(self, topic: str, fields: Sequence[str], steps: int, pause: Pause = no_pause) -> bool:
        """Add older events to the index, at most ``steps`` times some; return whether it has all then.

        Several processes may do so at the same time: of equal steps one has an effect.
        """
        keys, digest = [self._keys.metadata(Log(topic)), self._keys.index(topic)], digest_of(fields)
        for _ in range(steps):
            [state] = self._states([topic])
            if not state.lacks(fields):
                return True
            is_new = not state.is_of(fields)
            begin = state.last + 1 if is_new else state.begin
            entries = self._read_back(topic, str(begin - 1), _FILL_BYTES).entries
            terms: list[str | int] = []
            reached = begin if entries else min(state.first, begin)
            for entry in entries:
                if len(terms) >= 3 * _FILL_TERMS:
                    break
                reached = entry.first
                for found, place, before in terms_of(entry.data, fields):
                    terms += (found, entry.offset_at(place), before)
                    pause()
            arguments = [digest, "" if is_new else begin, state.last, reached, msgspec.msgpack.encode(terms)]
            self._connections.call(script.INDEX_FILL, keys, arguments)
        return False

    def _states(self, topics: Sequence[str]) -> list[_State]:
        replies = self._connections.commands(
            [("HMGET", self._keys.metadata(Log(topic)), "created", "first", "last", "indexed") for topic in topics]
        )
        return [_State(*reply) for reply in replies]


class _State:
    """Which part of a log is in the index of its topic."""

    def __init__(self, created: bytes | None, first: bytes | None, last: bytes | None, indexed: bytes | None) -> None:
        self.exists = created is not None
        self.first, self.last = int(first or 1), int(last or 0)
        begin, through, digest = (indexed or b"0 0 -").split(b" ")
        self.begin = int(begin)
        self._through, self._digest = int(through), digest.decode()

    def is_of(self, fields: Sequence[str]) -> bool:
        """Return whether the newest events are in the index, by these fields."""
        return self._digest == digest_of(fields) and self._through == self.last

    def lacks(self, fields: Sequence[str]) -> bool:
        return self.exists and (not self.is_of(fields) or self.begin > self.first)
