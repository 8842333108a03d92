"""The rules for valid events. Events are validated here once; all later code trusts them."""

import re
from typing import Any

from pushsvc.clock import format_time, parse_time
from pushsvc.event.model import DEFAULT_TYPE, FUTURE_ALLOWANCE, OVERFLOW_KEY, Event, Limits
from pushsvc.event.strictjson import UnusableValue

LEAST_NUMERIC_TIME = 10**11
_MOST_NUMERIC_TIME = 10**14
_LEAST_TIME = -62_135_596_800_000 + 86_400_000  # 0001-01-02: a time one day earlier still has a text form
_LEAST_INTEGER, _MOST_INTEGER = -(2**63), 2**64 - 1
_LONG_INTEGER = "an integer of more than 64 bits: send it as text, or with a decimal point to have it rounded"
CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class InvalidEvent(Exception):
    """Why an event is refused: the ``field`` (None: the whole event) and the ``detail``."""

    def __init__(self, field: str | None, detail: str) -> None:
        super().__init__(detail)
        self.field = field
        self.detail = detail


class EventValidator:
    """Makes events from the JSON values of one request. ``now`` in ms bounds their times."""

    def __init__(self, now: int, limits: Limits) -> None:
        self.limits = limits
        self._now = now
        self.latest_time = now + FUTURE_ALLOWANCE
        self._names: set[str] = set()

    def validate(self, item: Any) -> Event:
        """Return ``item`` as an event, which takes over the object; raise InvalidEvent."""
        if type(item) is not dict:
            raise InvalidEvent(None, _not_a(item, "an event is a JSON object"))
        take = item.pop
        id_, kind, key, time = take("id", None), take("type", None), take("key", None), take("time", None)
        if id_ is not None:
            id_ = _text("id", _number_as_text(id_), self.limits.id)
        kind = DEFAULT_TYPE if kind is None else self.check_type(kind)
        if key is not None:
            key = self._key(key)
        if time is not None:
            time = self.read_time(time)
        self._data(item)
        return Event(id_, kind, time, key, item)

    def check_type(self, value: Any) -> str:
        """Return a valid type; raise InvalidEvent."""
        text = _text("type", value, self.limits.type)
        if text.startswith("$"):
            raise InvalidEvent("type", "names that begin with $ are reserved")
        return text

    def _key(self, value: Any) -> str:
        text = _text("key", _number_as_text(value), self.limits.key)
        if text == OVERFLOW_KEY:
            raise InvalidEvent("key", f"{OVERFLOW_KEY} is reserved")
        return text

    def read_time(self, value: Any) -> int:
        """Return a time in ms; raise InvalidEvent."""
        if type(value) is str:
            try:
                time = parse_time(value)
            except (ValueError, OverflowError) as error:
                raise InvalidEvent("time", f"{value[:60]!r}: {error}") from None
        elif type(value) is int or type(value) is float:
            time = _milliseconds(value)
        else:
            raise InvalidEvent("time", _not_a(value, "RFC 3339 text or epoch milliseconds are expected"))
        if time > self.latest_time:
            allowed = FUTURE_ALLOWANCE // 1000
            raise InvalidEvent("time", f"{format_time(time)} is in the future: at most {allowed} s ahead are allowed, "
                               f"and the server's clock says {format_time(self._now)}")  # fmt: skip
        if time < _LEAST_TIME:
            raise InvalidEvent("time", "before 0001-01-02")
        return time

    def _data(self, data: dict[str, Any]) -> None:
        numbers, names = 0, self._names
        if len(data) > self.limits.names:
            raise InvalidEvent(None, f"{len(data)} members, at most {self.limits.names} are allowed")
        for name, value in data.items():
            if name not in names:
                self._name(name)
            kind = type(value)
            if kind is int or kind is float:
                numbers += 1
                if kind is int and not _LEAST_INTEGER <= value <= _MOST_INTEGER:
                    raise InvalidEvent(name, _LONG_INTEGER)
            elif kind is dict or kind is list or kind is UnusableValue:
                check_nested(name, value, self.limits.depth - 1)
        if numbers > self.limits.fields:
            raise InvalidEvent(None, f"{numbers} numeric fields, at most {self.limits.fields} are allowed")

    def _name(self, name: str) -> None:
        if not name:
            raise InvalidEvent(name, "a field needs a name")
        if name.startswith("$"):
            raise InvalidEvent(name[:60], "names that begin with $ are reserved")
        if len(name) > self.limits.name:
            detail = f"the name has {len(name)} characters, at most {self.limits.name} are allowed"
            raise InvalidEvent(name[:60], detail)
        self._names.add(name)


def _text(name: str, value: Any, most: int) -> str:
    if type(value) is not str:
        raise InvalidEvent(name, _not_a(value, "text is expected"))
    if not value:
        raise InvalidEvent(name, "empty: leave it out instead")
    if len(value) > most:
        raise InvalidEvent(name, f"{len(value)} characters, at most {most} are allowed")
    if not value.isprintable() and CONTROL.search(value):
        raise InvalidEvent(name, "contains a control character")
    return value


def _number_as_text(value: Any) -> Any:
    if type(value) is int:
        # str() raises for very long integers, which are longer than any id or key may be.
        return str(value) if _LEAST_INTEGER <= value <= _MOST_INTEGER else UnusableValue(_LONG_INTEGER)
    return repr(value) if type(value) is float else value


def _milliseconds(value: float) -> int:
    if value < LEAST_NUMERIC_TIME:
        raise InvalidEvent("time", f"{value} is too small: seconds? milliseconds are expected")
    if value >= _MOST_NUMERIC_TIME:
        raise InvalidEvent("time", "too large: microseconds or nanoseconds? milliseconds are expected")
    return int(value)


def check_nested(name: str, value: Any, levels: int) -> None:
    """Raise InvalidEvent for a nested value with a fault, or with more than ``levels`` further levels."""
    if type(value) is UnusableValue:
        raise InvalidEvent(name, value.detail)
    if type(value) is int and not _LEAST_INTEGER <= value <= _MOST_INTEGER:
        raise InvalidEvent(name, _LONG_INTEGER)
    if type(value) is not dict and type(value) is not list:
        return
    if levels == 0:
        raise InvalidEvent(name, "nested too deeply")
    for inner in value.values() if type(value) is dict else value:
        check_nested(name, inner, levels - 1)


_PLAIN = {str: "text", int: "a number", float: "a number", bool: "true or false", list: "an array", dict: "an object"}


def _not_a(value: Any, expected: str) -> str:
    if type(value) is UnusableValue:
        return value.detail
    return f"{_PLAIN.get(type(value), 'null')}, but {expected}"
