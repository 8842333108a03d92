"""Conditions on event fields, such as ``rating<3``."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import orjson

from pushsvc.errors import InvalidParameter
from pushsvc.event import Event

Condition = Callable[[Event], bool]

_CONDITION = re.compile(r"([^=!<>]+)(!=|<=|>=|=|<|>)(.*)\Z", re.DOTALL)
_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


def parse_condition(text: str) -> Condition:
    """Return the test for ``rating<3`` or ``dish=soup``. Numbers compare with numbers, texts with texts."""
    found = _CONDITION.match(text)
    if not found:
        raise InvalidParameter("where", f"{text!r} is not a field, one of = != < <= > >=, and a value")
    name, operator, literal = found.groups()
    value = _value(literal)
    if operator in ("=", "!="):
        return lambda event: (_equal(event.data.get(name), value)) is (operator == "=")
    if isinstance(value, bool):
        raise InvalidParameter("where", f"{text!r}: true and false have no order")
    compare = _ORDER[operator]
    return lambda event: _comparable(event.data.get(name), value) and compare(event.data[name], value)


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
