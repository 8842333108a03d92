"""Conditions on the data of an event, such as ``rating<3``."""

import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from pushsvc.errors import InvalidParameter
from pushsvc.event.model import ATTRIBUTES

Condition = Callable[[Mapping[str, Any]], bool]
"""Returns whether the data of an event, its attributes not included, meets a condition."""

_CONDITION = re.compile(r"([^=!<>]+)(!=|<=|>=|=|<|>)(.*)\Z", re.DOTALL)
_ORDER = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


def parse_condition(text: str) -> Condition:
    """Return the test for ``rating<3`` or ``dish=soup``. Numbers compare with numbers, texts with texts."""
    found = _CONDITION.match(text)
    if not found:
        raise InvalidParameter("where", f"{text!r} is not a field, one of = != < <= > >=, and a value")
    name, comparison, literal = found.groups()
    value = _value(literal)
    if comparison in ("=", "!="):
        return lambda data: (_equal(data.get(name), value)) is (comparison == "=")
    if isinstance(value, bool):
        raise InvalidParameter("where", f"{text!r}: true and false have no order")
    compare = _ORDER[comparison]
    return lambda data: _comparable(data.get(name), value) and compare(data[name], value)


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


def _equal(given: Any, value: Any) -> bool:
    return isinstance(given, bool) == isinstance(value, bool) and bool(given == value)


def _comparable(given: Any, value: Any) -> bool:
    if isinstance(given, bool):
        return False
    return isinstance(given, str) if isinstance(value, str) else isinstance(given, int | float)
