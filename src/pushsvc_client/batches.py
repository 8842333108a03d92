"""Encodes events as requests of bounded size. Values of numpy and pandas are read without importing either."""

import json
import os
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Iterator, Mapping
from datetime import date, datetime
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from pushsvc_client.errors import InvalidValue

MAX_EVENTS: int = 10_000  # what a server accepts in one request, by default
MAX_BYTES: int = 8_000_000

ATTRIBUTES = ("id", "key", "time", "type")
_MAX_FAULTS = 100  # faults that a receipt lists

Missing = Literal["error", "absent"]


@runtime_checkable
class Table(Protocol):
    """What is needed of a pandas DataFrame."""

    columns: Any

    def itertuples(self, index: bool = True, name: str | None = "") -> Iterable[Any]: ...


Events = Mapping[str, Any] | Iterable[Mapping[str, Any]] | Table


class EventBody(NamedTuple):
    """The body of one request, and the number of its first row."""

    body: bytes
    first_row: int
    all_have_ids: bool


class BodyLimits(NamedTuple):
    """Largest sizes of the body of a request. An event that is larger is sent alone."""

    events: int = MAX_EVENTS
    bytes: int = MAX_BYTES


class Batcher:
    """Makes requests of events that come one after another."""

    def __init__(self, missing: Missing, limits: BodyLimits, *, ids: bool = False) -> None:
        self._encode = EventEncoder(missing, ids=ids).encode
        self._limits = limits
        self._row = 0
        self._restart()

    def _restart(self) -> None:
        self._first, self._size, self._bodies, self._all_have_ids = self._row, 2, list[bytes](), True

    def add(self, event: Any) -> EventBody | None:
        """Take an event; return the request that has no room for it; raise InvalidValue."""
        body, has_id = self._encode(self._row, event)
        full = len(self._bodies) >= self._limits.events or self._size + len(body) > self._limits.bytes
        batch = self._end() if self._bodies and full else None
        self._bodies.append(body)
        self._size += len(body) + 1
        self._all_have_ids = self._all_have_ids and has_id
        self._row += 1
        return batch

    def last(self) -> EventBody | None:
        """Return the last request, which is empty if there was no event at all."""
        return self._end() if self._bodies or not self._row else None

    def _end(self) -> EventBody:
        batch = EventBody(_array(self._bodies), self._first, self._all_have_ids)
        self._restart()
        return batch


def batches(
    events: Events, columns: Mapping[str, str], missing: Missing, limits: BodyLimits, *, ids: bool = False
) -> Iterator[EventBody]:
    """Yield the requests that publish ``events``; raise InvalidValue.

    ``columns`` maps attributes to columns of a table. NaN, NaT and NA raise, or are left out if they may be ``absent``.
    Events without an id get one if ``ids``.
    """
    if isinstance(events, Mapping):
        body, has_id = EventEncoder(missing, ids=ids).encode(0, events)
        yield EventBody(body, 0, has_id)
        return
    batcher = Batcher(missing, limits, ids=ids)
    for event in _rows(events, columns) if isinstance(events, Table) else events:
        if (batch := batcher.add(event)) is not None:
            yield batch
    if (batch := batcher.last()) is not None:
        yield batch


async def async_batches(
    events: Events | AsyncIterable[Mapping[str, Any]], columns: Mapping[str, str], missing: Missing,
    limits: BodyLimits, *, ids: bool,
) -> AsyncGenerator[EventBody]:  # fmt: skip
    """Yield the same of events that may also come from an asynchronous iterable."""
    if not isinstance(events, AsyncIterable):
        for batch in batches(events, columns, missing, limits, ids=ids):
            yield batch
        return
    batcher = Batcher(missing, limits, ids=ids)
    async for event in events:
        if (full := batcher.add(event)) is not None:
            yield full
    if (rest := batcher.last()) is not None:
        yield rest


def add_receipts(one: dict[str, Any] | None, other: dict[str, Any], first_row: int) -> dict[str, Any]:
    """Return the receipt of two requests in one; the ``other`` began with ``first_row``."""
    if one is None:
        return other
    total = one | {name: one[name] + other[name] for name in ("accepted", "duplicates", "rejected", "late")}
    total["first_offset"] = min(one["first_offset"], other["first_offset"])
    total["last_offset"] = max(one["last_offset"], other["last_offset"])
    if "errors" in one or "errors" in other:
        moved = [fault | {"line": fault["line"] + first_row} for fault in other.get("errors", ())]
        faults = [*one.get("errors", ()), *moved]
        total["errors"] = faults[:_MAX_FAULTS]
        total["more"] = one.get("more", 0) + other.get("more", 0) + len(faults[_MAX_FAULTS:])
    if "hint" not in other:  # it says that no event at all is counted
        total.pop("hint", None)
    return total


def _array(bodies: list[bytes]) -> bytes:
    return b"[" + b",".join(bodies) + b"]"


def _rows(table: Table, columns: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    names = [str(name) for name in table.columns]
    for attribute, column in columns.items():
        if column not in names:
            raise InvalidValue(f"{attribute}={column!r} is not a column; the columns are {', '.join(names)}")
    attribute_of = {column: attribute for attribute, column in columns.items()}
    names = [attribute_of.get(name, name) for name in names]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidValue(f"two columns are named {twice!r}")
    for row in table.itertuples(index=False, name=None):
        yield dict(zip(names, row, strict=True))


_ABSENT: Any = object()  # stands for a missing value that is left out


class EventEncoder:
    """Encodes events as JSON; with ``ids`` those without an id get one."""

    def __init__(self, missing: Missing, *, ids: bool) -> None:
        self._prefix = os.urandom(8).hex() if ids else ""
        self._leave_out = missing == "absent"
        self._encode = json.JSONEncoder(
            allow_nan=False, ensure_ascii=False, separators=(",", ":"), default=plain
        ).encode

    def encode(self, row: int, event: Any) -> tuple[bytes, bool]:
        """Return an event as JSON, and whether it has an id; raise InvalidValue."""
        if not isinstance(event, Mapping):
            raise InvalidValue(f"row {row} is of type {type(event).__name__}, but an event is a mapping")
        if self._prefix and event.get("id") is None:
            event = {**event, "id": f"{self._prefix}-{row}"}
        try:
            return self._encode(event).encode(), event.get("id") is not None
        except (TypeError, ValueError, RecursionError):
            return self._encode_field_by_field(row, event)

    def _encode_field_by_field(self, row: int, event: Mapping[str, Any]) -> tuple[bytes, bool]:
        """Do the same without missing values; raise InvalidValue with the name of the field."""
        try:
            present = self._present(event, "")
            return self._encode(present).encode(), present.get("id") is not None
        except _Unusable as error:
            raise InvalidValue(f"row {row}, field {error.field!r} cannot be written as JSON: {error}") from None
        except (TypeError, ValueError) as error:
            raise InvalidValue(f"row {row} cannot be written as JSON: {error}") from None
        except RecursionError:
            raise InvalidValue(f"row {row} cannot be written as JSON: nested too deeply") from None

    def _present(self, event: Mapping[Any, Any], prefix: str) -> dict[Any, Any]:
        """Return a mapping without its missing values; raise _Unusable."""
        checked = ((name, self._checked(value, f"{prefix}{name}")) for name, value in event.items())
        return {name: value for name, value in checked if value is not _ABSENT}

    def _checked(self, value: Any, field: str) -> Any:
        """Return a value that JSON can hold, or _ABSENT; raise _Unusable."""
        if isinstance(value, Mapping):
            return self._present(value, f"{field}.")
        if isinstance(value, list | tuple) or _is_array(value):
            inside = (self._checked(inner, f"{field}[{at}]") for at, inner in enumerate(value))
            return [None if inner is _ABSENT else inner for inner in inside]
        if _is_missing(value):
            if self._leave_out:
                return _ABSENT
            raise _Unusable(field, "it is NaN: leave it out, as Client.publish does with missing='absent'")
        try:
            self._encode(value).encode()
        except UnicodeEncodeError:
            raise _Unusable(field, "half of a surrogate pair is not valid text") from None
        except (TypeError, ValueError) as error:
            raise _Unusable(field, f"{str(value)[:60]}: {error}") from None
        return value


class _Unusable(Exception):
    """JSON cannot hold the value of a field."""

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(detail)
        self.field = field


def plain(value: Any) -> Any:
    """Return a value that JSON lacks in types that it has; raise TypeError, or ValueError for a missing one."""
    if isinstance(value, Mapping):
        return dict(value)
    if _is_missing(value):
        raise ValueError("missing")
    if isinstance(value, datetime):
        # pandas and numpy take a time without a zone as UTC. A plain datetime without one may be local time.
        utc = value.tzinfo is None and hasattr(value, "to_datetime64")
        return value.isoformat() + ("Z" if utc else "")
    if isinstance(value, date):
        return value.isoformat()
    return _of_numpy(value)


def _of_numpy(value: Any) -> Any:
    kind = getattr(getattr(value, "dtype", None), "kind", "")
    if kind and kind in "biufMSUO":
        if _is_array(value):
            return list(value)
        if kind == "M":
            return f"{value.astype('datetime64[us]')}Z"
        return float(value) if kind == "f" else value.tolist()
    raise TypeError(f"JSON has no {type(value).__name__}: convert it, such as by float() or str()")


def _is_array(value: Any) -> bool:
    return hasattr(value, "dtype") and bool(getattr(value, "shape", ()))


def _is_missing(value: Any) -> bool:
    """Return whether a value is a NaN of any kind: only NaN differs from itself."""
    if type(value).__name__ == "NAType":
        return True
    single = isinstance(value, float | datetime) or getattr(value, "shape", None) == ()
    return single and bool(value != value)
