"""Stored events as columns, for who computes with them: keys, times and one array for each field.

Which fields a topic's events have is nobody's to declare, so it is learned: as long as a batch has no other names and
kinds of values than those seen before, msgspec reads it into objects of a type made for them, three times faster than
into dictionaries. A batch that surprises is read the slow way, once, and learned from.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
import orjson
from numpy.typing import NDArray

from pushsvc.event.model import DEFAULT_TYPE, OVERFLOW_KEY, Event

NO_TIME = -(2**63)
"""Stands in ``Columns.times`` for an event without a time of its own."""

_MOST_NAMES = 64
_LONGEST_PART = 200
_NAMES = re.compile(r'[^"\\\x00-\x1f\x7f]*')
"""What msgspec takes for the name of a field."""

_NUMBER, _NULL, _OTHER, _TEXT = 1, 2, 4, 8
_NUMBERS: set[type] = {int, float}
_NESTED: set[type] = {list, dict}
_NAN = float("nan")
_NO_NUMBERS: NDArray[np.float64] = np.zeros(0)
_TYPES: dict[int, Any] = {
    _NUMBER: float,
    _NUMBER | _NULL: float | None,
    _NUMBER | _OTHER: float | str | bool | list[Any] | dict[str, Any] | None,
    _OTHER: str | bool | list[Any] | dict[str, Any] | None,
}
_ATTRIBUTES: dict[str, tuple[Any, Any]] = {
    "id": (str | None, None),
    "type": (str | None, None),
    "key": (str | None, None),
    "time": (int, NO_TIME),
}


@dataclass(frozen=True, slots=True)
class NumberColumn:
    """The numbers of one field: ``values`` [m] of the events at ``positions`` [m], or of all events for None."""

    positions: NDArray[np.int64] | None
    values: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ValueColumn:
    """The values [n] of one field: text, numbers as they were written, booleans if ``mixed``; None where there is none.

    An array or object is no value.
    """

    values: Sequence[Any]
    mixed: bool


@dataclass(frozen=True, slots=True)
class Columns:
    """Some events. ``times`` [n] are in ms or NO_TIME; None if no event has one.

    ``keys`` has the keys [n] of each grouping; None for an event that has none in it. ``values`` has the fields of
    which all values were asked for, if any event has one.
    """

    keys: Sequence[Sequence[str | None]]
    times: NDArray[np.int64] | None
    fields: dict[str, NumberColumn]
    values: dict[str, ValueColumn] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keys[0])

    @classmethod
    def from_events(
        cls, events: Sequence[Event], groupings: Sequence[str] = ("key",), valued: Sequence[str] = ()
    ) -> Columns:
        """Return the columns of events."""
        times = [NO_TIME if event.time is None else event.time for event in events]
        found: dict[str, tuple[list[int], list[float]]] = {}
        for position, event in enumerate(events):
            for name, value in event.numbers().items():
                positions, values = found.setdefault(name, ([], []))
                positions.append(position)
                values.append(value)
        return cls(
            [_joined([[_part(event, name) for event in events] for name in parts_of(one)]) for one in groupings],
            _times(times),
            {
                name: NumberColumn(
                    None if len(values) == len(events) else np.array(positions, np.int64), np.array(values)
                )
                for name, (positions, values) in found.items()
            },
            _scalars({name: [_value(event, name) for event in events] for name in valued}),
        )


class ColumnReader:
    """Reads the entries of one topic. Numbers are those of JSON; ``true``, ``null`` and text are none.

    A grouping is the name of a field or attribute, or several joined by ``+``. Of the fields and attributes ``valued``
    all values are read.
    """

    def __init__(self, groupings: Sequence[str] = ("key",), valued: Sequence[str] = ()) -> None:
        self._groupings = tuple(groupings)
        self._valued = tuple(valued)
        self._parts = {name for one in groupings for name in parts_of(one)}
        self._plain = self._parts | set(valued)
        self._texts: set[str] = set()
        self._kinds: dict[str, int] = {}
        self._attributes: set[str] = set()
        self._decoder: msgspec.json.Decoder[Any] | None = None
        self._names: list[str] = []
        self._places: dict[str, str] = {}

    def read(self, data: bytes) -> Columns:
        """Return the columns of an entry's data: events in their stored form, a line each."""
        if self._decoder is not None:
            try:
                return self._columns(self._decoder.decode_lines(data))
            except msgspec.MsgspecError:
                pass  # a name or a kind of value that was not there before: learn
        objects = [orjson.loads(line) for line in data.split(b"\n")]
        self._learn(objects)
        return Columns.from_events([Event.from_object(item) for item in objects], self._groupings, self._valued)

    def _columns(self, events: list[Any]) -> Columns:
        found = {name: list(map(attrgetter(self._places[name]), events)) for name in self._names if name in self._plain}
        columns = {name: _column(self._numbers(events, name, found.get(name))) for name in self._names}
        fields = {name: column for name, column in columns.items() if column is not None}
        keys = [_joined([self._values(events, name) for name in parts_of(one)]) for one in self._groupings]
        times = _times([event.time for event in events]) if "time" in self._attributes else None
        values = {name: found.get(name) or self._found(events, name) for name in self._valued}
        there = [name for name in self._texts if values[name].count(None) < len(events)]
        texts = {name: ValueColumn(values[name], False) for name in there}
        others = {name: told for name, told in values.items() if name not in self._texts}
        return Columns(keys, times, fields, texts | _scalars(others))

    def _found(self, events: list[Any], name: str) -> list[Any]:
        """Return what events have in a field or attribute, None where there is nothing."""
        if name in _ATTRIBUTES:
            return self._values(events, name)
        attribute = self._places.get(name)
        return [None] * len(events) if attribute is None else list(map(attrgetter(attribute), events))

    def _values(self, events: list[Any], name: str) -> list[str | None]:
        """Return the text of a part of a key."""
        attribute = name if name in _ATTRIBUTES else self._places.get(name)
        if attribute is None or (name in _ATTRIBUTES and name not in self._attributes):
            return [DEFAULT_TYPE if name == "type" else None] * len(events)
        values = list(map(attrgetter(attribute), events))
        if name == "key":
            return values
        return [DEFAULT_TYPE if name == "type" and value is None else _text(value) for value in values]

    def _numbers(self, events: list[Any], name: str, found: list[Any] | None) -> NDArray[np.float64]:
        """Return a number for each event: JSON has no NaN, so it can stand for what is none or not there."""
        read = map(attrgetter(self._places[name]), events)
        if found is not None:
            if not _NUMBERS & set(map(type, found)):
                return _NO_NUMBERS
            return np.array([value if type(value) is float or type(value) is int else _NAN for value in found], float)
        if self._kinds[name] & (_OTHER | _TEXT):
            return np.array([value if type(value) is float else _NAN for value in read], np.float64)
        if self._kinds[name] & _NULL:
            return np.array(list(read), np.float64)  # None becomes NaN
        return np.fromiter(read, np.float64, len(events))

    def _learn(self, objects: list[dict[str, Any]]) -> None:
        kinds = dict(self._kinds)
        attributes = set(self._attributes)
        for item in objects:
            for name, value in item.items():
                if name in _ATTRIBUTES:
                    attributes.add(name)
                else:
                    kinds[name] = kinds.get(name, 0) | _kind(value)
        learnable = len(kinds) <= _MOST_NAMES and all(map(_NAMES.fullmatch, kinds))
        if learnable and (kinds, attributes) != (self._kinds, self._attributes):
            self._kinds, self._attributes = kinds, attributes
            self._decoder = self._make_decoder()

    def _make_decoder(self) -> msgspec.json.Decoder[Any]:
        texts = {name for name, kinds in self._kinds.items() if kinds & _TEXT and not kinds & ~(_TEXT | _NULL)}
        self._texts = texts & (set(self._valued) - self._parts)  # read as text, and so known to be nothing else
        plain = self._plain - self._texts
        self._names = [name for name, kinds in self._kinds.items() if kinds & _NUMBER or name in plain]
        others = [name for name in self._kinds if name not in self._names]
        rename = {f"f{number}": name for number, name in enumerate(self._names)}
        rename |= {f"g{number}": name for number, name in enumerate(others)}
        fields = [(name, *_ATTRIBUTES[name]) for name in sorted(self._attributes)]
        for attribute, name in rename.items():
            # What may be a part of a key is read as it is, 7 and 7.0 are different keys; and so are values.
            kind, absent = (Any, None) if name in plain else (_type_of(self._kinds[name]), _NAN)
            fields.append((attribute, str | None, None) if name in self._texts else (attribute, kind, absent))
        self._places = {name: attribute for attribute, name in rename.items()}
        struct = msgspec.defstruct("Line", fields, rename=rename, forbid_unknown_fields=True, gc=False)
        return msgspec.json.Decoder(struct)


def _column(numbers: NDArray[np.float64]) -> NumberColumn | None:
    """Return what there is of numbers [n]; None for nothing."""
    absent = np.isnan(numbers)
    if len(numbers) and not absent.any():
        return NumberColumn(None, numbers)
    positions = np.flatnonzero(~absent)
    return NumberColumn(positions, numbers[positions]) if len(positions) else None


def parts_of(grouping: str) -> list[str]:
    """Return the names of which a grouping is made."""
    return grouping.split("+")


def _value(event: Event, name: str) -> Any:
    return getattr(event, name) if name in _ATTRIBUTES else event.data.get(name)


def _scalars(found: dict[str, list[Any]]) -> dict[str, ValueColumn]:
    """Return the fields that have a value, without what is none."""
    scalars = {}
    for name, values in found.items():
        kinds = set(map(type, values))
        if kinds & _NESTED:
            values = [None if type(value) in _NESTED else value for value in values]
        if kinds - _NESTED - {type(None)}:
            scalars[name] = ValueColumn(values, bool in kinds)
    return scalars


def _part(event: Event, name: str) -> str | None:
    return event.key if name == "key" else _text(getattr(event, name) if name in _ATTRIBUTES else event.data.get(name))


def _text(value: Any) -> str | None:
    """Return a value as a part of a key: a number is taken as its text, what is neither text nor number is none.

    Text too long for a key is counted with all that found no room, so that no producer fills the engine's memory.
    """
    if type(value) is str:
        return value or None if len(value) <= _LONGEST_PART else OVERFLOW_KEY
    return repr(value) if type(value) is int or (type(value) is float and value == value) else None


def _joined(parts: list[list[str | None]]) -> list[str | None]:
    """Return one key of several parts; None where one is missing.

    A ``+`` inside a part is written ``\\+``, or parts that differ could make the same key.
    """
    if len(parts) == 1:
        return parts[0]
    return [_key_of(part) for part in zip(*parts, strict=True)]


def _key_of(parts: tuple[str | None, ...]) -> str | None:
    if None in parts:
        return None
    return OVERFLOW_KEY if OVERFLOW_KEY in parts else "+".join(map(_escaped, parts))  # type: ignore[arg-type]


def _escaped(part: str) -> str:
    return part.replace("\\", "\\\\").replace("+", "\\+") if "+" in part or "\\" in part else part


def _kind(value: Any) -> int:
    if type(value) is float or type(value) is int:
        return _NUMBER
    return _NULL if value is None else _TEXT if type(value) is str else _OTHER


def _type_of(kinds: int) -> Any:
    if kinds & (_OTHER | _TEXT):
        kinds = kinds & _NUMBER | _OTHER  # their types take null as well
    return _TYPES.get(kinds, _TYPES[_OTHER])


def _times(times: list[int]) -> NDArray[np.int64] | None:
    array = np.array(times, np.int64)
    return array if array.max(initial=NO_TIME) != NO_TIME else None
