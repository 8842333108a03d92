"""The fast path of request bodies: JSON and NDJSON to a batch in one pass, if the events look like earlier ones.

Most bodies resemble the ones before: the same few names and no fault. So the schema of a topic's events becomes a
Struct type with the validator's rules as constraints, and msgspec decodes a whole body. Only ids, types, keys and
times remain to be checked. NDJSON without a fault is stored as it arrived.

A body with anything new, unusual or wrong is left to ``formats.parse``, which reports faults. So this module makes no
rules: it accepts only what the validator accepts, with the same result for readers of the log.
"""

from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from pushsvc.event.batch import Batch
from pushsvc.event.model import ATTRIBUTES, DEFAULT_TYPE, OVERFLOW_KEY, Event, Limits
from pushsvc.event.schema import OTHER, FieldType, Schema
from pushsvc.event.validator import CONTROL, LEAST_NUMERIC_TIME, EventValidator, InvalidEvent

MAX_TOPICS = 1_000  # topics whose schemas are kept
LEARN_AFTER = 64  # events that do not fit before the schema grows: making a Struct costs as much as validating these

# Unsigned integers of 64 bits may be greater; they are rare and left to the validator.
_INTEGER = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
_GETTERS: dict[str, Callable[[Any], Any]] = {name: attrgetter(name) for name in ATTRIBUTES}
_EMPTY = Schema()

_encode_lines = msgspec.json.Encoder().encode_lines


class Shape:
    """Decodes bodies whose events have no other names than those of a schema."""

    def __init__(self, schema: Schema, limits: Limits) -> None:
        self._limits = limits
        self._attributes = frozenset(schema.attributes)
        value = _value_type(limits.depth - 1) | UnsetType
        struct = schema.struct(lambda name: _attribute_type(name, limits), lambda _: (value, UNSET), omit_defaults=True)
        self._one = msgspec.json.Decoder(struct)
        self._many: msgspec.json.Decoder[list[Any]] = msgspec.json.Decoder(list[struct])  # type: ignore[valid-type]

    def read_ndjson(self, body: bytes, validator: EventValidator) -> Batch | None:
        """Return the events of lines. Return None or raise an error if something may be wrong."""
        if b"\r" in body:
            body = body.replace(b"\r\n", b"\n")
        body = body.rstrip(b"\n")
        # No value contains `}` and then `{` without a comma between them. So if every line end stands between these
        # two, each ends an event; and with as many events as lines, each line is one event.
        ends = body.count(b"\n")
        if body[:1] != b"{" or body[-1:] != b"}" or body.count(b"}\n{") != ends:
            return None
        events = self._one.decode_lines(body)
        return self._validate(events, body, validator) if len(events) == ends + 1 else None

    def read_json(self, body: bytes, validator: EventValidator) -> Batch:
        """Return the events of an object or array; raise an error if something may be wrong."""
        body = body.strip(b" \t\r\n")
        if body[:1] == b"{":
            return self._validate([self._one.decode(body)], None if b"\n" in body else body, validator)
        return self._validate(self._many.decode(body), None, validator)

    def _validate(self, events: list[Any], lines: bytes | None, validator: EventValidator) -> Batch:
        """Return events as a batch, with ``lines`` as its data if no event changes; raise InvalidEvent."""
        ids, ids_changed = self._texts(events, "id", self._limits.id)
        keys, keys_changed = self._texts(events, "key", self._limits.key)
        if keys is not None and OVERFLOW_KEY in keys:
            raise InvalidEvent("key", "reserved")
        if "type" in self._attributes:
            for kind in set(map(_GETTERS["type"], events)) - {""}:
                validator.check_type(kind)
        times, times_changed = self._times(events, validator)
        if lines is None or ids_changed or keys_changed or times_changed:
            lines = _encode_lines(events)[:-1]
        return Batch(lines, len(events), ids, times)

    def _texts(self, events: list[Any], name: str, max_length: int) -> tuple[list[str] | None, bool]:
        """Return the ids or keys (None: no event has one), and whether any was a number, which is text now."""
        if name not in self._attributes:
            return None, False
        texts = list(map(_GETTERS[name], events))
        changed = False
        try:
            joined = "".join(texts)
        except TypeError:
            texts, changed = list(map(str, texts)), True
            for event, text in zip(events, texts, strict=True):
                setattr(event, name, text)
            joined = "".join(texts)
            if max(map(len, texts)) > max_length:
                raise InvalidEvent(name, "too long") from None
        if not joined.isprintable() and CONTROL.search(joined):
            raise InvalidEvent(name, "contains a control character")
        return (texts if joined else None), changed

    def _times(self, events: list[Any], validator: EventValidator) -> tuple[list[int | None] | None, bool]:
        """Return the times (None: no event has one), and whether any was text, which is milliseconds now."""
        times = list(map(_GETTERS["time"], events)) if "time" in self._attributes else []
        kinds = set(map(type, times))
        if str in kinds:
            for at, time in enumerate(times):
                if time is not None:
                    events[at].time = times[at] = validator.read_time(time)
            return times, True
        if int not in kinds:
            return None, False
        numbers = [time for time in times if time is not None] if len(kinds) > 1 else times
        if min(numbers) < LEAST_NUMERIC_TIME or max(numbers) > validator.latest_time:
            raise InvalidEvent("time", "too early or too late")
        return times, False


class TopicShapes:
    """The shapes of at most ``max_topics`` topics; topics with the same names share one."""

    def __init__(self, limits: Limits, max_topics: int = MAX_TOPICS) -> None:
        self._limits = limits
        self._max_topics = max_topics
        self._schemas: dict[str, Schema] = {}
        self._unknown: dict[str, int] = {}
        self._shapes: dict[tuple[str, ...], Shape] = {}

    def read(self, topic: str, body: bytes, validator: EventValidator, *, lines: bool) -> Batch | None:
        """Return the events of a body of NDJSON (``lines``) or JSON; None if ``formats.parse`` must read it."""
        schema = self._schemas.get(topic)
        if schema is None:
            return None
        shape = self._shape(schema)
        try:
            batch = (shape.read_ndjson if lines else shape.read_json)(body, validator)
        except (msgspec.MsgspecError, ValueError, RecursionError, InvalidEvent):
            return None
        return batch if batch is not None and 0 < batch.count <= self._limits.batch else None

    def learn(self, topic: str, events: Sequence[Event]) -> None:
        """Count valid events that did not fit the topic's schema, and extend it after LEARN_AFTER of them."""
        unknown = self._unknown.pop(topic, 0) + len(events)
        if unknown >= LEARN_AFTER:
            self._extend(topic, events)
            unknown = 0
        self._put(self._unknown, topic, unknown)

    def _extend(self, topic: str, events: Iterable[Event]) -> None:
        known = self._schemas.pop(topic, _EMPTY)
        names = dict.fromkeys(name for event in events for name in _names_of(event))
        if names.keys() <= set(known.names):  # an attribute leaves no trace in an Event, such as the type "message"
            names |= dict.fromkeys(ATTRIBUTES)
        # With so few fields, no event can have too many numbers.
        self._put(self._schemas, topic, known.extend(((name, OTHER) for name in names), self._limits.fields))

    def _shape(self, schema: Schema) -> Shape:
        shape = self._shapes.get(schema.names)
        if shape is None:
            shape = Shape(schema, self._limits)
            self._put(self._shapes, schema.names, shape)
        return shape

    def _put(self, cache: dict[Any, Any], key: Any, value: Any) -> None:
        """Put a value into a cache; drop the oldest entry if it is full."""
        if key not in cache and len(cache) >= self._max_topics:
            del cache[next(iter(cache))]
        cache[key] = value


def _names_of(event: Event) -> Iterable[str]:
    given = (event.id is not None, event.type != DEFAULT_TYPE, event.time is not None, event.key is not None)
    yield from (name for name, there in zip(ATTRIBUTES, given, strict=True) if there)
    yield from event.data


def _attribute_type(name: str, limits: Limits) -> FieldType:
    if name == "time":
        return _INTEGER | str, None
    text = Annotated[str, Meta(min_length=1, max_length=getattr(limits, name))]
    return (text if name == "type" else text | _INTEGER), ""


def _value_type(levels: int) -> Any:
    """Return the type of values that may nest so many levels."""
    kind: Any = _INTEGER | float | str | bool | None
    for _ in range(levels):
        kind = _INTEGER | float | str | bool | list[kind] | dict[str, kind] | None
    return kind
