"""Reads request bodies: by the fast path of their topic, else by the parser that reports all faults."""

from collections.abc import Mapping, Sequence

from msgspec import Struct, field

from pushsvc.errors import Fault
from pushsvc.event.batch import Batch
from pushsvc.event.cloudevents import is_structured
from pushsvc.event.formats import (
    BOM,
    JSON,
    MAX_FAULTS,
    NDJSON,
    NO_COLUMNS,
    NO_HEADERS,
    parse,
    parse_binary,
    plain_media_type,
)  # fmt: skip
from pushsvc.event.model import Event, Limits
from pushsvc.event.shapes import EventKinds, TopicShapes
from pushsvc.event.strictjson import at_most_values
from pushsvc.event.validator import EventValidator
from pushsvc.pause import Pause, no_pause

_LIMITS = Limits()
_MOST_AT_ONCE = 300_000  # values that msgspec decodes and checks in one go: 20 to 40 ms
_SHORT = 2_000_000  # bytes that have few enough values in any case, unless their events are too many


class ParsedBatch(Struct, frozen=True):
    """The valid events of a body with the line of each, and the faults of ``rejected`` others; see ParsedEvents."""

    batch: Batch
    lines: Sequence[int]
    faults: list[Fault] = field(default_factory=list)
    more: int = 0
    rejected: int = 0

    def without_larger(self, size: int) -> "ParsedBatch":
        """Return the batch with a fault for each event of more than so many bytes in its stored form."""
        lengths = self.batch.larger(size)
        large = lengths.keys()
        if not large:
            return self
        detail = f"an event of this topic has at most {size} bytes, as the newest one of each key is kept"
        faults = [Fault(self.lines[at], None, f"{lengths[at]} bytes: {detail}") for at in sorted(large)]
        every = sorted([*self.faults, *faults], key=lambda fault: fault.line)
        kept = every[:MAX_FAULTS]
        return ParsedBatch(
            self.batch.without(large), [line for at, line in enumerate(self.lines) if at not in large], kept,
            self.more + len(every) - len(kept), self.rejected + len(large),
        )  # fmt: skip


class EventReader:
    """Reads and validates request bodies. It keeps only the schemas of topics."""

    def __init__(self, limits: Limits = _LIMITS) -> None:
        self._limits = limits
        self._shapes = TopicShapes(limits)

    def read(
        self, topic: str, body: bytes, media_type: str, *, now: int, columns: Mapping[str, str] = NO_COLUMNS,
        ce_headers: Mapping[str, str] = NO_HEADERS, pause: Pause = no_pause,
    ) -> ParsedBatch:  # fmt: skip
        """Return the events of a body for a topic; see ``parse`` for the other arguments and the errors.

        ``ce_headers`` are the headers ce-* of the request. Unless the body is a CloudEvent in JSON format, they make it
        the data of one event, as ``parse_binary`` reads it.
        """
        if ce_headers and not is_structured(media_type):
            parsed = parse_binary(body, media_type, ce_headers, now=now, limits=self._limits, pause=pause)
            self._shapes.learn(topic, parsed.events)
            return ParsedBatch(
                Batch.from_events(parsed.events), parsed.lines, parsed.faults, parsed.more, parsed.rejected
            )
        plain = plain_media_type(media_type)
        if plain in (JSON, NDJSON) and not columns and len(body) <= self._limits.body and _is_short(body):
            lines = plain == NDJSON
            pause()
            batch = self._shapes.read(topic, body.removeprefix(BOM), EventValidator(now, self._limits), lines=lines)
            if batch is not None:
                return ParsedBatch(batch, range(1, batch.count + 1))
            pause()
        stored = _StoredEvents(EventKinds(self._limits))
        parsed = parse(body, media_type, now=now, columns=columns, limits=self._limits, pause=pause, take=stored.add)
        self._shapes.learn_kinds(topic, stored.kinds)
        return ParsedBatch(stored.batch(), parsed.lines, parsed.faults, parsed.more, parsed.rejected)

    def read_together(self, topic: str, bodies: Sequence[bytes], *, now: int) -> Batch | None:
        """Return the events of JSON bodies that hold one event each, in order. Return None if any body may be something
        else or invalid: then each must be read on its own."""
        body = b"\n".join(bodies)
        if b"\r" in body or body.count(b"\n") >= len(bodies):
            return None
        batch = self._shapes.read(topic, body, EventValidator(now, self._limits), lines=True)
        return batch if batch is not None and batch.count == len(bodies) else None


class _StoredEvents:
    """Events in their stored form, encoded as they come.

    10,000 events that nest are 800,000 objects, at all of which the garbage collector would look in one step.
    """

    def __init__(self, kinds: EventKinds) -> None:
        self.kinds = kinds
        self._lines: list[bytes] = []
        self._ids: list[str] = []
        self._times: list[int | None] = []

    def add(self, event: Event) -> None:
        self.kinds.add(event)
        self._lines.append(event.encode())
        self._ids.append(event.id or "")
        self._times.append(event.time)

    def batch(self) -> Batch:
        return Batch.from_lines(self._lines, self._ids, self._times)


def _is_short(body: bytes) -> bool:
    """Return whether one call may decode the whole body: it cannot pause."""
    return len(body) <= _SHORT or at_most_values(body) <= _MOST_AT_ONCE
