"""The messages between a worker and the process of its handlers: their length in four bytes, then MessagePack.

The child sends ``Hello`` or ``Unusable`` first. Then it answers ``Run`` with ``Done``; before that it may ask for
states with ``GetStates``, which ``States`` answers. ``Forget`` has no answer.
"""

from __future__ import annotations

from typing import Any

import msgspec

from pushsvc.worker.shards.messages import MessageReader as MessageReader


class GroupOptions(msgspec.Struct):
    """What the worker has to know of a group."""

    name: str
    patterns: list[str]
    from_beginning: bool
    retries: int
    backoff: float
    timeout: float
    max_states: int = 1_000_000


class Hello(msgspec.Struct, tag=True):
    """The module was loaded. ``files`` are those whose change would change it."""

    groups: list[GroupOptions]
    files: list[str]


class Unusable(msgspec.Struct, tag=True):
    """The module cannot be loaded."""

    detail: str


class Entry(msgspec.Struct, array_like=True):
    """Stored events of a topic with offsets from ``first`` on; those up to ``after`` are not new."""

    topic: str
    first: int
    after: int
    arrival: int
    data: bytes


class Gap(msgspec.Struct, array_like=True):
    """Events of a topic that were trimmed before they were read: those with the offsets ``first`` to ``last``."""

    topic: str
    first: int
    last: int

    @property
    def count(self) -> int:
        return self.last - self.first + 1


class Parked(msgspec.Struct, array_like=True):
    """An event that failed ``attempts`` times, or waits behind such an event of its key. ``due`` (ms) is when it is
    tried; ``reason`` and ``traceback`` are those of the last failure."""

    topic: str
    offset: int
    arrival: int
    line: bytes
    attempts: int = 0
    due: int = 0
    reason: str = ""
    traceback: str = ""
    key: str | None = None


class Timer(msgspec.Struct, array_like=True):
    """A call of a timer ``function`` for a key of a topic at ``due`` (ms), after ``attempts`` failures."""

    topic: str
    key: str | None
    name: str
    due: int
    function: str
    data: dict[str, Any]
    attempts: int = 0

    @property
    def id(self) -> bytes:
        """What no other timer of the group has: a later one with the same replaces it."""
        return timer_id(self.topic, self.key, self.name)


def timer_id(topic: str, key: str | None, name: str) -> bytes:
    return msgspec.json.encode([topic, key, name])


class Run(msgspec.Struct, tag=True):
    """Handle these in order at ``now`` (ms): parked events of one key, timers, gaps and entries of one partition.

    ``held`` are keys by topic whose events must wait. At most ``parks`` events may be parked, and ``timers`` set.
    ``states`` are the numbers of keys with state by topic; a topic that is absent has none.
    """

    group: str
    partition: int
    now: int
    parked: list[Parked]
    due: list[Timer]
    gaps: list[Gap]
    entries: list[Entry]
    held: dict[str, list[str]]
    parks: int
    timers: int
    states: dict[str, int] = msgspec.field(default_factory=dict)


class GetStates(msgspec.Struct, tag=True):
    """Asks for the states of keys of a topic, in the partition and group of the current ``Run``."""

    topic: str
    keys: list[str]


class States(msgspec.Struct, tag=True):
    """The states in the order of the keys; None for a key without one."""

    values: list[bytes | None]


class Forget(msgspec.Struct, tag=True):
    """Forget the states of a partition, all or those of a topic: they are another worker's now, or not stored."""

    group: str
    partition: int
    topic: str | None = None


class Emitted(msgspec.Struct, array_like=True):
    """An event in its stored form for a topic."""

    topic: str
    line: bytes
    id: str = ""
    time: int | None = None


class Done(msgspec.Struct, tag=True):
    """What handlers did, to be stored all or nothing.

    ``positions`` are the offsets up to which topics were handled. ``retried`` counts the parked events, from the first
    one, that are done; ``failed`` is the parked event after them with its new failure. ``timers_done`` counts the due
    timers, from the first one, that were called. ``timers`` are those to set; None: to cancel. ``dead`` counts events
    and timers that were given up. ``new_states`` is by how much the number of keys with state grew, by topic;
    ``refused_states`` counts attempts that failed because no more keys of a topic may have one.
    """

    positions: dict[str, int] = msgspec.field(default_factory=dict)
    states: dict[str, dict[str, bytes]] = msgspec.field(default_factory=dict)  # b"": no state any more
    new_states: dict[str, int] = msgspec.field(default_factory=dict)
    refused_states: dict[str, int] = msgspec.field(default_factory=dict)
    emitted: list[Emitted] = msgspec.field(default_factory=list)
    parked: list[Parked] = msgspec.field(default_factory=list)
    dead: int = 0
    retried: int = 0
    failed: Parked | None = None
    timers_done: int = 0
    timers: dict[bytes, Timer | None] = msgspec.field(default_factory=dict)
    unknown: dict[str, dict[str, int]] = msgspec.field(default_factory=dict)
    gaps_done: int = 0
    handled: int = 0
    failures: int = 0
    refused_replies: int = 0
    seconds: float = 0.0


Request = Run | States | Forget
Response = Hello | Unusable | GetStates | Done

_encoder = msgspec.msgpack.Encoder()


def encode(message: Request | Response) -> bytes:
    data = _encoder.encode(message)
    return len(data).to_bytes(4, "big") + data
