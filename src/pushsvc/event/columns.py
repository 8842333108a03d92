"""Stored events as columns: keys, times and one array for each field.

A ColumnReader learns the schema of its topic. Entries that fit it are decoded by msgspec; one that does not is read
slowly once and extends the schema.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
import orjson
from numpy.typing import NDArray

from pushsvc.event.model import ATTRIBUTES, DEFAULT_TYPE, OVERFLOW_KEY, Event
from pushsvc.event.schema import NULL, NUMBER, OTHER, TEXT, FieldType, Schema

NO_TIME = -(2**63)  # stands in ``Columns.times`` for an event without a time of its own

_MAX_FIELDS = 64  # fields that a schema may have
_MAX_PART = 200  # characters of one part of a key
_NUMBERS: set[type] = {int, float}
_NESTED: set[type] = {list, dict}
_NAN = float("nan")
_NO_NUMBERS: NDArray[np.float64] = np.zeros(0)
_TYPES: dict[int, Any] = {
    NUMBER: float,
    NUMBER | NULL: float | None,
    NUMBER | OTHER: float | str | bool | list[Any] | dict[str, Any] | None,
    OTHER: str | bool | list[Any] | dict[str, Any] | None,
}


@dataclass(frozen=True, slots=True)
class NumberColumn:
    """The numbers ``values`` [m] of one field in the events at ``positions`` [m]; None stands for all events."""

    positions: NDArray[np.int64] | None
    values: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ValueColumn:
    """The values [n] of one field: text, numbers as they were written and, only if ``mixed``, booleans. None stands for
    an absent value, an array or an object."""

    values: Sequence[Any]
    mixed: bool


@dataclass(frozen=True, slots=True)
class Columns:
    """Events as columns."""

    keys: Sequence[Sequence[str | None]]  # for each grouping the keys [n]; None for an event without one
    times: NDArray[np.int64] | None  # [n] in ms or NO_TIME; None if no event has a time
    fields: dict[str, NumberColumn]
    values: dict[str, ValueColumn] = field(default_factory=dict)  # of the fields that the reader was asked for

    def __len__(self) -> int:
        return len(self.keys[0])

    @classmethod
    def from_events(
        cls, events: Sequence[Event], groupings: Sequence[str] = ("key",), valued: Sequence[str] = ()
    ) -> Columns:
        found: dict[str, tuple[list[int], list[float]]] = {}
        for position, event in enumerate(events):
            for name, value in event.numbers().items():
                positions, values = found.setdefault(name, ([], []))
                positions.append(position)
                values.append(value)
        fields = {}
        for name, (positions, values) in found.items():
            places = None if len(values) == len(events) else np.array(positions, np.int64)
            fields[name] = NumberColumn(places, np.array(values))
        return cls(
            [_join_parts([[_part(event, name) for event in events] for name in _parts_of(one)]) for one in groupings],
            _times([NO_TIME if event.time is None else event.time for event in events]),
            fields,
            _value_columns({name: [_value(event, name) for event in events] for name in valued}),
        )


class ColumnReader:
    """Reads the entries of one topic. A field's numbers are its JSON numbers; ``true``, ``null`` and text are none.
    ``groupings`` are those of the topic. All values are read of the fields and attributes in ``valued``."""

    def __init__(self, groupings: Sequence[str] = ("key",), valued: Sequence[str] = ()) -> None:
        self._groupings = tuple(groupings)
        self._valued = tuple(valued)
        self._parts = {name for one in groupings for name in _parts_of(one)}
        self._schema = Schema()
        self._decoder: msgspec.json.Decoder[Any] | None = None
        self._texts: set[str] = set()  # valued fields that hold only text so far
        self._raw: set[str] = set()  # fields that are read as they were written: 7 and 7.0 are different keys
        self._names: list[str] = []  # fields that are read

    def read(self, data: bytes) -> Columns:
        """Return the columns of an entry's data: events in their stored form, one a line."""
        if self._decoder is not None:
            try:
                return self._columns(self._decoder.decode_lines(data))
            except msgspec.MsgspecError:
                pass  # a new name or a new kind of value: learn it
        objects = [orjson.loads(line) for line in data.split(b"\n")]
        self._learn(objects)
        return Columns.from_events([Event.from_object(item) for item in objects], self._groupings, self._valued)

    def _columns(self, events: list[Any]) -> Columns:
        slots = self._schema.slots
        found = {name: list(map(attrgetter(slots[name]), events)) for name in self._names if name in self._raw}
        columns = {name: _column(self._numbers(events, name, found.get(name))) for name in self._names}
        fields = {name: column for name, column in columns.items() if column is not None}
        keys = [_join_parts([self._part(events, name) for name in _parts_of(one)]) for one in self._groupings]
        times = _times([event.time for event in events]) if "time" in self._schema.attributes else None
        values = {name: found.get(name) or self._values(events, name) for name in self._valued}
        texts = {
            name: ValueColumn(values[name], False) for name in self._texts if values[name].count(None) < len(events)
        }
        others = {name: column for name, column in values.items() if name not in self._texts}
        return Columns(keys, times, fields, texts | _value_columns(others))

    def _values(self, events: list[Any], name: str) -> list[Any]:
        """Return the values of a field or attribute, None where an event has none."""
        if name in ATTRIBUTES:
            return self._part(events, name)
        slot = self._schema.slots.get(name)
        return [None] * len(events) if slot is None else list(map(attrgetter(slot), events))

    def _part(self, events: list[Any], name: str) -> list[str | None]:
        """Return the text of a field or attribute as a part of a key."""
        slot = name if name in self._schema.attributes else self._schema.slots.get(name)
        if slot is None:
            return [DEFAULT_TYPE if name == "type" else None] * len(events)
        values = list(map(attrgetter(slot), events))
        if name == "key":
            return values
        return [DEFAULT_TYPE if name == "type" and value is None else _part_text(value) for value in values]

    def _numbers(self, events: list[Any], name: str, found: list[Any] | None) -> NDArray[np.float64]:
        """Return a number for each event. NaN, which JSON does not have, stands for an absent one."""
        read = map(attrgetter(self._schema.slots[name]), events)
        kinds = self._schema.kinds[name]
        if found is not None:
            if not _NUMBERS & set(map(type, found)):
                return _NO_NUMBERS
            return np.array([value if type(value) is float or type(value) is int else _NAN for value in found], float)
        if kinds & (OTHER | TEXT):
            return np.array([value if type(value) is float else _NAN for value in read], np.float64)
        if kinds & NULL:
            return np.array(list(read), np.float64)  # None becomes NaN
        return np.fromiter(read, np.float64, len(events))

    def _learn(self, objects: list[dict[str, Any]]) -> None:
        values = ((name, _kind(value)) for item in objects for name, value in item.items())
        schema = self._schema.extend(values, _MAX_FIELDS)
        if schema is self._schema:
            return
        self._schema = schema
        texts = {name for name, kinds in schema.kinds.items() if kinds & TEXT and not kinds & ~(TEXT | NULL)}
        self._texts = texts & (set(self._valued) - self._parts)
        self._raw = (self._parts | set(self._valued)) - self._texts
        self._names = [name for name, kinds in schema.kinds.items() if kinds & NUMBER or name in self._raw]
        self._decoder = msgspec.json.Decoder(schema.struct(_attribute_type, self._field_type))

    def _field_type(self, name: str) -> FieldType:
        if name in self._texts:
            return str | None, None
        return (Any, None) if name in self._raw else (_type_of(self._schema.kinds[name]), _NAN)


def _attribute_type(name: str) -> FieldType:
    return (int, NO_TIME) if name == "time" else (str | None, None)


def _column(numbers: NDArray[np.float64]) -> NumberColumn | None:
    """Return the numbers [n] that are not NaN as a column; None if all are."""
    absent = np.isnan(numbers)
    if len(numbers) and not absent.any():
        return NumberColumn(None, numbers)
    positions = np.flatnonzero(~absent)
    return NumberColumn(positions, numbers[positions]) if len(positions) else None


def _value(event: Event, name: str) -> Any:
    return getattr(event, name) if name in ATTRIBUTES else event.data.get(name)


def _value_columns(found: dict[str, list[Any]]) -> dict[str, ValueColumn]:
    """Return the fields that have a value in any event, with None for arrays and objects."""
    columns = {}
    for name, values in found.items():
        kinds = set(map(type, values))
        if kinds & _NESTED:
            values = [None if type(value) in _NESTED else value for value in values]
        if kinds - _NESTED - {type(None)}:
            columns[name] = ValueColumn(values, bool in kinds)
    return columns


def _parts_of(grouping: str) -> list[str]:
    """Return the names of fields or attributes in a grouping; they are joined by ``+``."""
    return grouping.split("+")


def _part_text(value: Any) -> str | None:
    """Return a value as a part of a key: text, or a number as its text; None for empty text and any other value. Text
    that is too long becomes OVERFLOW_KEY, so that producers cannot fill the aggregator's memory."""
    if type(value) is str:
        return value or None if len(value) <= _MAX_PART else OVERFLOW_KEY
    return repr(value) if type(value) is int or (type(value) is float and value == value) else None


def _join_parts(parts: list[list[str | None]]) -> list[str | None]:
    """Return a key [n] for each event from its parts [p][n]; None if a part is missing.

    A ``+`` inside a part is written ``\\+``: otherwise different parts could make the same key.
    """
    if len(parts) == 1:
        return parts[0]
    return [_join_key(part) for part in zip(*parts, strict=True)]


def _join_key(parts: tuple[str | None, ...]) -> str | None:
    if None in parts:
        return None
    return OVERFLOW_KEY if OVERFLOW_KEY in parts else "+".join(map(_escape, parts))  # type: ignore[arg-type]


def _escape(part: str) -> str:
    return part.replace("\\", "\\\\").replace("+", "\\+") if "+" in part or "\\" in part else part


def _part(event: Event, name: str) -> str | None:
    return event.key if name == "key" else _part_text(_value(event, name))


def _kind(value: Any) -> int:
    if type(value) is float or type(value) is int:
        return NUMBER
    return NULL if value is None else TEXT if type(value) is str else OTHER


def _type_of(kinds: int) -> Any:
    if kinds & (OTHER | TEXT):
        kinds = kinds & NUMBER | OTHER  # their types accept null too
    return _TYPES.get(kinds, _TYPES[OTHER])


def _times(times: list[int]) -> NDArray[np.int64] | None:
    array = np.array(times, np.int64)
    return array if array.max(initial=NO_TIME) != NO_TIME else None
