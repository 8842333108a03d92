"""Filters of events: by type, by keys, and by conditions on the data such as ``rating<3``."""

import operator
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from pushsvc.errors import InvalidParameter
from pushsvc.event.index import is_listed, term, text_of
from pushsvc.event.model import ATTRIBUTES, Event

Test = Callable[[Mapping[str, Any]], bool]
"""Returns whether the data of an event, its attributes not included, meets a condition."""

LONGEST = 2_000
"""Most characters of a condition."""

MOST_VALUES = 100
"""Most values of ``in(…)``."""

MOST_TERMS = 20
"""Most keys that are looked up together. The events of more are found by reading the log."""

SEARCHED = 10_000
"""Characters at the beginning of a text that ``~`` looks at: an event may have a text of 8 MB, and meet 2,000 tests."""

_CONDITION = re.compile(r"([^=!<>~]++)(!=|<=|>=|=|<|>|~)(.*)\Z", re.DOTALL)
_LIST = re.compile(r"in\((.*)\)", re.DOTALL)
_ITEM = re.compile(r'(\s*+"(?:[^"\\]|\\.)*+"\s*+|[^,"]*+)(,|\Z)', re.DOTALL)
_ORDER = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


@dataclass(frozen=True, slots=True)
class Condition:
    """A test and its text. Equal texts are equal conditions; equal values are not, as ``1`` equals ``true`` here."""

    text: str
    test: Test = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Selects events by type, by key and by conditions. None selects every type, and events with every key or none.

    ``values`` are the fields and texts of those conditions that ask for the text of a value.
    """

    type: str | None = None
    keys: frozenset[str] | None = None
    conditions: tuple[Condition, ...] = ()
    values: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(
        cls, type: str | None, keys: frozenset[str] | None, conditions: Iterable[str],
        values: Iterable[tuple[str, str]] = (),
    ) -> "EventFilter":  # fmt: skip
        """Return the filter with conditions such as ``rating<3``, and with fields whose values have some text. Filters
        are equal in whatever order they come."""
        tests = [Condition(text, parse_condition(text)) for text in sorted(set(conditions))]
        texts = tuple(sorted(set(values)))
        return cls(type, keys, (*tests, *(_has_text(name, text) for name, text in texts)), texts)

    @property
    def selects_all(self) -> bool:
        return self.keys is None and not self.has_tests

    @property
    def has_tests(self) -> bool:
        """Return whether the key of an event is not enough to select it."""
        return self.type is not None or bool(self.conditions)

    def terms(self, index: Collection[str]) -> list[str] | None:
        """Return the terms of an index of which each selected event has one; None if no field of it is asked for."""
        for name, text in self.values:
            if name in index and is_listed(text):
                return [term(name, text)]
        if "key" in index and self.keys is not None and len(self.keys) <= MOST_TERMS and all(map(is_listed, self.keys)):
            return [term("key", key) for key in sorted(self.keys)]
        if "type" in index and self.type is not None and is_listed(self.type):
            return [term("type", self.type)]
        return None

    def matches(self, event: Event) -> bool:
        return (self.keys is None or event.key in self.keys) and self.passes(event)

    def passes(self, event: Event) -> bool:
        """Return whether the type and the data of an event are selected, whatever its key."""
        return (self.type is None or event.type == self.type) and all(
            condition.test(event.data) for condition in self.conditions
        )


def parse_condition(text: str) -> Test:
    """Return the test for ``rating<3``, ``dish=soup``, ``note~cold`` or ``dish=in(soup,pizza)``.

    Numbers compare with numbers, texts with texts. ``~`` finds text within text, whatever its case.
    """
    if len(text) > LONGEST:
        raise InvalidParameter("where", f"a condition of {len(text)} characters, at most {LONGEST} are allowed")
    name, comparison, literal = _parts(text)
    if comparison == "~":
        wanted = str(_value(literal)).casefold() if literal.startswith('"') else literal.casefold()
        return lambda data: _contains(data.get(name), wanted)
    if comparison in ("=", "!=") and (listed := _LIST.fullmatch(literal)):
        values = frozenset(map(_identity, _values(text, listed[1])))
        return lambda data: (_identity(data.get(name)) in values) is (comparison == "=")
    value = _value(literal)
    if comparison in ("=", "!="):
        return lambda data: (_equal(data.get(name), value)) is (comparison == "=")
    if isinstance(value, bool):
        raise InvalidParameter("where", f"{text!r}: true and false have no order")
    compare = _ORDER[comparison]
    return lambda data: _comparable(data.get(name), value) and compare(data[name], value)


def _has_text(name: str, text: str) -> Condition:
    """Return the condition that the value of a field has a text. No other condition begins with a comparison."""
    return Condition(f"={name}={text}", lambda data: text_of(data.get(name)) == text)


def data_of(public: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data of an event in its public form: without attributes, topic and offset."""
    return {name: public[name] for name in public if name not in ATTRIBUTES and not name.startswith("$")}


def _value(literal: str) -> Any:
    """Return a JSON scalar; any other text as it is."""
    try:
        value = orjson.loads(literal)
    except orjson.JSONDecodeError:
        return literal
    return value if isinstance(value, str | int | float | bool) else literal


def _parts(text: str) -> tuple[str, str, str]:
    """Return the field, the comparison and the value of a condition; for ``dish in(…)`` those of ``dish=in(…)``."""
    name, separator, rest = text.partition(" in(")
    if separator and name and rest.endswith(")") and not _CONDITION.match(name):
        return name, "=", f"in({rest}"
    found = _CONDITION.match(text)
    if not found:
        raise InvalidParameter("where", f"{text!r} is not a field, one of = != < <= > >= ~, and a value, or in(…)")
    return found[1], found[2], found[3]


def _values(text: str, items: str) -> list[Any]:
    """Return the values of a list such as ``soup,"a, b",3``."""
    values: list[Any] = []
    place, more = 0, ","
    while more:
        if len(values) == MOST_VALUES:
            raise InvalidParameter("where", f"{text[:100]!r} has more than {MOST_VALUES} values")
        found = _ITEM.match(items, place)
        if not found:
            raise InvalidParameter("where", f"{text!r}: values with quotes or commas stand in double quotes")
        values.append(_value(found[1].strip()))
        place, more = found.end(), found[2]
    return values


def _contains(given: Any, wanted: str) -> bool:
    return isinstance(given, str) and wanted in given[:SEARCHED].casefold()


def _identity(value: Any) -> tuple[bool, Any]:
    """Return what is equal for equal scalars: numbers equal numbers, but never true and false. None of an array or
    object, which equals no scalar."""
    return isinstance(value, bool), None if isinstance(value, list | dict) else value


def _equal(given: Any, value: Any) -> bool:
    return isinstance(given, bool) == isinstance(value, bool) and bool(given == value)


def _comparable(given: Any, value: Any) -> bool:
    if isinstance(given, bool):
        return False
    return isinstance(given, str) if isinstance(value, str) else isinstance(given, int | float)
