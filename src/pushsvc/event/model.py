"""The event, and the limits of a request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import orjson

from pushsvc.clock import format_time

FUTURE_ALLOWANCE = 5_000  # milliseconds that an event's time may be later than its arrival

OVERFLOW_KEY = "__other__"  # the key that counts all keys beyond a topic's maximum; producers must not use it

ATTRIBUTES = ("id", "type", "time", "key")
DEFAULT_TYPE = "message"


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a request, of a stream, and of what requests create."""

    body: int = 8_000_000  # bytes of a request
    batch: int = 10_000  # events of a request
    key: int = 200  # characters, as those of type, id and the name of a field
    type: int = 100
    id: int = 200
    name: int = 200
    fields: int = 32  # numeric ones of an event
    names: int = 1_000  # members of an event, and columns of a CSV body
    values: int = 100_000  # of an event: members and elements on all levels, or cells of a CSV row
    request_values: int = 1_000_000  # of all events of a request
    depth: int = 8  # levels of nesting; the event is the first
    conditions: int = 20  # `where` of a request
    cells: int = 1_000_000  # rows times columns of a CSV answer with events
    topics: int = 1_000  # of a stream
    pattern_shapes: int = 50  # arrangements of wildcards in the patterns of a stream
    partition_topics: int = 20_000  # topics of a partition; a million spread evenly are 15,625
    followed: int = 100_000  # logs of a web process, each the events or one window of a topic
    snapshot: int = 16_000_000  # bytes of rows with which a stream begins, about
    followed_bytes: int = 128_000_000  # that the rows of these windows take, about
    filters: int = 100  # of streams, with which an event is compared in a web process
    statistics_cells: int = 1_500_000  # keys times fields times windows of all topics of an aggregator
    partition_cells: int = 1_250_000  # the same of all topics of a partition
    opened_topics: int = 20_000  # small topics that an aggregator counts on demand
    memory: int = 96_000_000  # bytes that a web process holds for clients: bodies under way, answers not yet read
    memory_per_address: int = 32_000_000  # of these, for one address; for IPv6, one /64
    requests_per_second: int = 2_000  # of a subject, and of an address; the defaults of these five spare loopback
    events_per_second: int = 200_000  # of the same
    connections_per_second: int = 1_000  # of an address
    streams_per_subject: int = 1_000  # at a time
    streams_per_address: int = 1_000
    rate: int = 16_384  # bytes a second at which a body must arrive and an answer must be read, in the mean


class Event(msgspec.Struct):
    """One event. ``time`` is in ms; None stands for the arrival of its entry. ``data`` has no attributes."""

    id: str | None = None
    type: str = DEFAULT_TYPE
    time: int | None = None
    key: str | None = None
    data: dict[str, Any] = msgspec.field(default_factory=dict)

    def numbers(self) -> dict[str, float]:
        """Return the numeric fields: every top-level number of the data as a double. Booleans are not numbers."""
        return {name: float(value) for name, value in self.data.items() if type(value) is float or type(value) is int}

    def encode(self) -> bytes:
        """Return the stored form: a flat JSON object without a line end, without defaults, ``time`` in ms."""
        flat: dict[str, Any] = {}
        if self.id is not None:
            flat["id"] = self.id
        if self.type != DEFAULT_TYPE:
            flat["type"] = self.type
        if self.time is not None:
            flat["time"] = self.time
        if self.key is not None:
            flat["key"] = self.key
        return orjson.dumps(flat | self.data)

    @classmethod
    def decode(cls, line: bytes) -> Event:
        """Return the event of a stored form, without validation."""
        return cls.from_object(orjson.loads(line))

    @classmethod
    def from_object(cls, data: dict[str, Any]) -> Event:
        """Return the event of a decoded stored form, which it takes over."""
        take = data.pop
        return cls(take("id", None), take("type", DEFAULT_TYPE), take("time", None), take("key", None), data)

    def public(self, topic: str, offset: int, arrival: int) -> dict[str, Any]:
        """Return the event as subscribers see it: flat, with defaults filled in. ``arrival`` is in ms."""
        time = arrival if self.time is None else self.time
        flat: dict[str, Any] = {"$topic": topic, "$offset": offset, "time": format_time(time), "type": self.type}
        if self.id is not None:
            flat["id"] = self.id
        if self.key is not None:
            flat["key"] = self.key
        return flat | self.data
