"""The fast path of request bodies: JSON and NDJSON to a batch in one pass, if the events look like earlier ones.

Most bodies resemble the ones before: the same few names and no fault. So the schema of a topic's events becomes a
Struct type with the validator's rules as constraints, and msgspec decodes a whole body. Only ids, types, keys and
times remain to be checked. NDJSON without a fault is stored as it arrived.

A body with anything new, unusual or wrong is left to ``formats.parse``, which reports faults. So this module makes no
rules: it accepts only what the validator accepts, with the same result for readers of the log.
"""

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from pushsvc.event.batch import Batch
from pushsvc.event.model import ATTRIBUTES, DEFAULT_TYPE, OVERFLOW_KEY, Event, Limits
from pushsvc.event.schema import DEEP, NESTED, OTHER, FieldType, Schema
from pushsvc.event.strictjson import at_most_values
from pushsvc.event.validator import CONTROL, LEAST_NUMERIC_TIME, EventValidator, InvalidEvent, check_nested
from pushsvc.pause import Pause, no_pause

MAX_TOPICS = 1_000  # topics whose schemas are kept
MAX_SHAPES = 250  # a decoder of 32 fields takes some 40 KB
LEARN_AFTER = 64  # events that do not fit before the schema grows: making a Struct costs as much as validating these

# Unsigned integers of 64 bits may be greater; they are rare and left to the validator.
_INTEGER = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
_GETTERS: dict[str, Callable[[Any], Any]] = {name: attrgetter(name) for name in ATTRIBUTES}
_EMPTY = Schema()
_NESTED_TYPES = {dict, list}
_SHALLOW = 2  # levels of nesting that a type spells out
_MOST_CHECKED = 100_000  # values of a body whose deep ones are checked in one go: 10 ms

_encode_lines = msgspec.json.Encoder().encode_lines


class Shape:
    """Decodes bodies whose events have no other names than those of a schema."""

    def __init__(self, schema: Schema, limits: Limits) -> None:
        self._limits = limits
        self._attributes = frozenset(schema.attributes)
        # msgspec builds the types of a field anew for each, and each level doubles them: seven levels of 32 fields take
        # 87 ms. So values that nest deeply are checked after decoding.
        deep = {name for name, kinds in schema.kinds.items() if kinds & DEEP}
        self.deep = [(name, attrgetter(schema.slots[name])) for name in deep]
        self.nests = any(kinds & NESTED for kinds in schema.kinds.values())
        scalar, shallow = _value_type(0) | UnsetType, _value_type(_shallow_levels(limits)) | UnsetType
        struct = schema.struct(
            lambda name: _attribute_type(name, limits),
            lambda name: (Any if name in deep else shallow if schema.kinds[name] & NESTED else scalar, UNSET),
            omit_defaults=True,
        )
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
        if ends >= self._limits.batch:
            return None
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
        if len(events) > self._limits.batch:
            raise InvalidEvent(None, "too many events")
        ids, ids_changed = self._texts(events, "id", self._limits.id)
        keys, keys_changed = self._texts(events, "key", self._limits.key)
        if keys is not None and OVERFLOW_KEY in keys:
            raise InvalidEvent("key", "reserved")
        if "type" in self._attributes:
            for kind in set(map(_GETTERS["type"], events)) - {""}:
                validator.check_type(kind)
        for name, getter in self.deep:
            for value in map(getter, events):
                check_nested(name, value, self._limits.depth - 1)
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
    """The schemas of at most ``max_topics`` topics and at most ``max_shapes`` shapes; topics with the same names share
    one.

    A topic without a schema has that of its family: topics that differ in the last segment only, as those of a topic
    per user do, usually have events alike, but each of them has few.
    """

    def __init__(self, limits: Limits, max_topics: int = MAX_TOPICS, max_shapes: int = MAX_SHAPES) -> None:
        self._limits = limits
        self._max_topics = max_topics
        self._max_shapes = max_shapes
        self._schemas: dict[str, Schema] = {}
        self._unknown: dict[str, int] = {}
        self._shapes: dict[tuple[tuple[str, ...], tuple[int, ...]], Shape] = {}

    def read(self, topic: str, body: bytes, validator: EventValidator, *, lines: bool) -> Batch | None:
        """Return the events of a body of NDJSON (``lines``) or JSON; None if ``formats.parse`` must read it."""
        schema = self._schemas.get(topic) or self._schemas.get(_family_of(topic))
        if schema is None:
            return None
        shape = self._shape(schema)
        if shape.nests and len(body) > 2 * self._limits.values and self._may_have_many_values(shape, body, lines):
            return None
        try:
            batch = (shape.read_ndjson if lines else shape.read_json)(body, validator)
        except (msgspec.MsgspecError, ValueError, RecursionError, InvalidEvent):
            return None
        return batch if batch is not None and 0 < batch.count <= self._limits.batch else None

    def _may_have_many_values(self, shape: Shape, body: bytes, lines: bool) -> bool:
        """Return whether an event may have too many values, or the body too many for one go. A value and what separates
        it take two bytes."""
        values = at_most_values(body)
        if values <= min(_MOST_CHECKED, self._limits.values):
            return False
        return bool(shape.deep) or not lines or max(map(len, body.split(b"\n"))) > 2 * self._limits.values

    def learn(self, topic: str, events: Sequence[Event], pause: Pause = no_pause) -> None:
        """Count valid events that did not fit the schema of the topic and of its family, and extend each after
        LEARN_AFTER of them."""
        kinds = EventKinds(self._limits)
        for event in events:
            kinds.add(event)
            pause()
        self.learn_kinds(topic, kinds)

    def learn_kinds(self, topic: str, kinds: "EventKinds") -> None:
        """Do what ``learn`` does with events that were looked at one by one."""
        for name in filter(None, (topic, _family_of(topic))):
            unknown = self._unknown.pop(name, 0) + kinds.events
            if unknown >= LEARN_AFTER:
                self._extend(name, kinds.found())
                unknown = 0
            self._put(self._unknown, name, unknown, self._max_topics)

    def _extend(self, name: str, found: dict[str, int]) -> None:
        known = self._schemas.pop(name, _EMPTY)
        # With so few fields, no event can have too many numbers.
        extended = known.extend(found.items(), self._limits.fields)
        if extended is known:  # an attribute leaves no trace in an Event, such as the type "message"
            extended = known.extend((found | dict.fromkeys(ATTRIBUTES, OTHER)).items(), self._limits.fields)
        self._put(self._schemas, name, extended, self._max_topics)

    def _shape(self, schema: Schema) -> Shape:
        shape = self._shapes.get(schema.identity)
        if shape is None:
            shape = Shape(schema, self._limits)
            self._put(self._shapes, schema.identity, shape, self._max_shapes)
        return shape

    @staticmethod
    def _put(cache: dict[Any, Any], key: Any, value: Any, most: int) -> None:
        """Put a value into a cache of at most ``most`` entries; drop the oldest one if it is full."""
        if key not in cache and len(cache) >= most:
            del cache[next(iter(cache))]
        cache[key] = value


def _family_of(topic: str) -> str:
    """Return a topic without its last segment, which is no topic; '' if it has one segment."""
    return topic[: topic.rfind(".") + 1]


class EventKinds:
    """The names in events, each with how its values nest; those found first if there are more than a schema may have.

    It looks at events once they may be enough to learn from, and keeps none after that.
    """

    def __init__(self, limits: Limits) -> None:
        self.events = 0
        self._found: dict[str, int] = {}
        self._most, self._levels = len(ATTRIBUTES) + limits.fields, _shallow_levels(limits)
        self._waiting: list[Event] = []

    def add(self, event: Event) -> None:
        self.events += 1
        if self.events < LEARN_AFTER:
            self._waiting.append(event)
            return
        if self._waiting:
            self.found()
        self._look_at(event)

    def found(self) -> dict[str, int]:
        waiting, self._waiting = self._waiting, []
        for event in waiting:
            self._look_at(event)
        return self._found

    def _look_at(self, event: Event) -> None:
        found = self._found
        if len(found) > self._most:
            return
        given = (event.id is not None, event.type != DEFAULT_TYPE, event.time is not None, event.key is not None)
        data = event.data
        found |= {name: OTHER for name, there in zip(ATTRIBUTES, given, strict=True) if there}
        found |= {name: OTHER for name in data if name not in found}
        if not _NESTED_TYPES.isdisjoint(map(type, data.values())):
            for name, value in data.items():
                if type(value) in _NESTED_TYPES and not found[name] & DEEP:
                    found[name] |= NESTED | (DEEP if _is_deep(value, self._levels) else 0)


def _shallow_levels(limits: Limits) -> int:
    return min(_SHALLOW, limits.depth - 1)


def _is_deep(value: Any, levels: int) -> bool:
    """Return whether a value nests more than so many levels."""
    if type(value) not in _NESTED_TYPES:
        return False
    if levels == 0:
        return True
    return any(_is_deep(inner, levels - 1) for inner in (value.values() if type(value) is dict else value))


def _value_type(levels: int) -> Any:
    """Return the type of values that may nest so many levels."""
    kind: Any = _INTEGER | float | str | bool | None
    for _ in range(levels):
        kind = _INTEGER | float | str | bool | list[kind] | dict[str, kind] | None
    return kind


def _attribute_type(name: str, limits: Limits) -> FieldType:
    if name == "time":
        return _INTEGER | str, None
    text = Annotated[str, Meta(min_length=1, max_length=getattr(limits, name))]
    return (text if name == "type" else text | _INTEGER), ""
