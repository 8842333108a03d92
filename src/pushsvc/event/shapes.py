"""Bodies of JSON and NDJSON to batches in one pass, as long as a topic's events look like those before.

Most bodies are as the ones before them: the same few names, nothing wrong. So the names that a topic's events have had
become a type, with the rules of the judge as its constraints, and msgspec reads a whole body into objects of it; what
is left to look at are ids, types, keys and times. NDJSON that is as it should be is stored as it came.

A body in which anything is new, unusual or wrong is not read here but by ``formats.parse``, which says what is wrong
with it. So this module decides nothing by itself: whatever it takes, the judge takes, and readers of the log see
the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from pushsvc.event.batch import Batch
from pushsvc.event.model import ATTRIBUTES, DEFAULT_TYPE, OVERFLOW_KEY, Event, Limits
from pushsvc.event.validator import CONTROL, LEAST_NUMERIC_TIME, EventValidator, InvalidEvent

MOST_TOPICS = 1_000
LEARN_AFTER = 64
"""Events of a topic that come in an unknown shape before it is learned: making a type costs as much as judging them."""

# One of 64 bits without a sign may be greater; that is rare, and for the validator.
_INTEGER = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
_GETTERS: dict[str, Callable[[Any], Any]] = {name: attrgetter(name) for name in ATTRIBUTES}

_encode_lines = msgspec.json.Encoder().encode_lines


class Shape:
    """Events in which no names occur but ``names``, of attributes and of data."""

    def __init__(self, names: Sequence[str], limits: Limits) -> None:
        self._limits = limits
        self._attributes = frozenset(names).intersection(ATTRIBUTES)
        data = [name for name in names if name not in self._attributes]
        value = _value(limits.depth - 1) | UnsetType
        struct = msgspec.defstruct(
            "Event",
            [(name, _type_of(name, limits), None if name == "time" else "") for name in sorted(self._attributes)]
            + [(f"f{number}", value, UNSET) for number in range(len(data))],
            rename={f"f{number}": name for number, name in enumerate(data)},
            forbid_unknown_fields=True,
            omit_defaults=True,
            gc=False,
        )
        self._one = msgspec.json.Decoder(struct)
        self._many: msgspec.json.Decoder[list[Any]] = msgspec.json.Decoder(list[struct])  # type: ignore[valid-type]

    def ndjson(self, body: bytes, validator: EventValidator) -> Batch | None:
        """Return the events of lines; None, or an error, if something may be wrong."""
        if b"\r" in body:
            body = body.replace(b"\r\n", b"\n")
        body = body.rstrip(b"\n")
        # Inside a value there is no `}` before `{` without a comma between them. So if all line ends are between
        # these two, each ends an event; and with as many events as lines, each line is one.
        ends = body.count(b"\n")
        if body[:1] != b"{" or body[-1:] != b"}" or body.count(b"}\n{") != ends:
            return None
        events = self._one.decode_lines(body)
        return self._judged(events, body, validator) if len(events) == ends + 1 else None

    def json(self, body: bytes, validator: EventValidator) -> Batch:
        """Return the events of an object or array; raise an error if something may be wrong."""
        body = body.strip(b" \t\r\n")
        if body[:1] == b"{":
            return self._judged([self._one.decode(body)], None if b"\n" in body else body, validator)
        return self._judged(self._many.decode(body), None, validator)

    def _judged(self, events: list[Any], lines: bytes | None, validator: EventValidator) -> Batch:
        """Return events as a batch, as ``lines`` if these can stay as they are; raise InvalidEvent."""
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

    def _texts(self, events: list[Any], name: str, most: int) -> tuple[list[str] | None, bool]:
        """Return the ids or keys, None if there are none, and whether there were numbers, now text, among them."""
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
            if max(map(len, texts)) > most:
                raise InvalidEvent(name, "too long") from None
        if not joined.isprintable() and CONTROL.search(joined):
            raise InvalidEvent(name, "holds a control character")
        return (texts if joined else None), changed

    def _times(self, events: list[Any], validator: EventValidator) -> tuple[list[int | None] | None, bool]:
        """Return the times, None if there are none, and whether there was text, now milliseconds, among them."""
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


class Shapes:
    """The shapes of topics: the names that turned up in events of each. Both topics and names are bounded."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._names: dict[str, tuple[str, ...]] = {}
        self._unknown: dict[str, int] = {}
        self._shapes: dict[tuple[str, ...], Shape] = {}

    def read(self, topic: str, body: bytes, validator: EventValidator, *, lines: bool) -> Batch | None:
        """Return the events of a body of NDJSON or JSON; None if it must be looked at closely."""
        names = self._names.get(topic)
        if names is None:
            return None
        shape = self._shape(names)
        try:
            batch = (shape.ndjson if lines else shape.json)(body, validator)
        except (msgspec.MsgspecError, ValueError, RecursionError, InvalidEvent):
            return None
        return batch if batch is not None and 0 < batch.count <= self._limits.batch else None

    def learn(self, topic: str, events: Sequence[Event]) -> None:
        """Take notice of good events that came in an unknown shape."""
        unknown = self._unknown.pop(topic, 0) + len(events)
        if unknown >= LEARN_AFTER:
            self._learn(topic, events)
            unknown = 0
        _put(self._unknown, topic, unknown)

    def _learn(self, topic: str, events: Iterable[Event]) -> None:
        known = self._names.pop(topic, ())
        names = tuple(dict.fromkeys([*known, *(name for event in events for name in _names_of(event))]))
        if names == known:  # an attribute that leaves no trace, as the type "message"
            names = tuple(dict.fromkeys([*known, *ATTRIBUTES]))
        data = [name for name in names if name not in ATTRIBUTES]
        # No event of so few names has too many numbers. And there are names that msgspec does not take for a field.
        learnable = len(data) <= self._limits.fields and not any(map(_unusual, data))
        _put(self._names, topic, names if learnable else known)

    def _shape(self, names: tuple[str, ...]) -> Shape:
        shape = self._shapes.get(names)
        if shape is None:
            shape = Shape(names, self._limits)
            _put(self._shapes, names, shape)
        return shape


def _put(cache: dict[Any, Any], key: Any, value: Any) -> None:
    """Put something into a bounded cache; the oldest makes room."""
    if key not in cache and len(cache) >= MOST_TOPICS:
        del cache[next(iter(cache))]
    cache[key] = value


def _names_of(event: Event) -> Iterable[str]:
    given = (event.id is not None, event.type != DEFAULT_TYPE, event.time is not None, event.key is not None)
    yield from (name for name, there in zip(ATTRIBUTES, given, strict=True) if there)
    yield from event.data


def _unusual(name: str) -> bool:
    return '"' in name or "\\" in name or CONTROL.search(name) is not None


def _type_of(attribute: str, limits: Limits) -> Any:
    if attribute == "time":
        return _INTEGER | str
    text = Annotated[str, Meta(min_length=1, max_length=getattr(limits, attribute))]
    return text if attribute == "type" else text | _INTEGER


def _value(levels: int) -> Any:
    """Return the type of values that may have so many levels."""
    kind: Any = _INTEGER | float | str | bool | None
    for _ in range(levels):
        kind = _INTEGER | float | str | bool | list[kind] | dict[str, kind] | None
    return kind
