"""Strict JSON (RFC 8259) with faults in plain words.

msgspec decodes: it is fast, refuses NaN, Infinity and overflowing numbers, and keeps long integers exact (orjson would
round them). Text that it refuses is decoded again by a slow parser that reports where and why. A value that is valid
JSON but not allowed in an event becomes an UnusableValue, so that the validator can name its field.
"""

import json
import re
from typing import Any

import msgspec
import orjson

_decode = msgspec.json.Decoder().decode
_UNPAIRED = re.compile("[\ud800-\udfff]")
_LONGEST_INTEGER = 4_000


class UnusableValue:
    """Stands for a value that is not allowed; ``detail`` is the reason."""

    __slots__ = ("detail",)

    def __init__(self, detail: str) -> None:
        self.detail = detail


class NotJson(ValueError):
    """The text is not JSON; ``line`` and ``column`` count from 1."""

    def __init__(self, detail: str, line: int, column: int) -> None:
        super().__init__(detail)
        self.detail = detail
        self.line = line
        self.column = column


def load(raw: bytes) -> Any:
    """Return the value of ``raw``, with an UnusableValue for each value that is not allowed; raise NotJson."""
    try:
        return _decode(raw)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return _load_slowly(raw)


def _load_slowly(raw: bytes) -> Any:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        line_start = before.rfind(b"\n") + 1
        raise NotJson("not UTF-8", before.count(b"\n") + 1, error.start - line_start + 1) from None
    try:
        return json.loads(
            text, parse_constant=_constant, parse_float=_float, parse_int=_integer, object_pairs_hook=_object
        )
    except RecursionError:
        raise NotJson("nested too deeply", 1, 1) from None
    except json.JSONDecodeError as error:
        raise NotJson(_why(raw, error.msg), error.lineno, error.colno) from None


def _why(raw: bytes, otherwise: str) -> str:
    """Return orjson's message if it has one: it names what was found and what was expected."""
    try:
        orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        if error.msg.startswith("unexpected content after document"):
            return "text after the end of the value (send several events as an array or as NDJSON)"
        return error.msg
    return otherwise


def _constant(text: str) -> UnusableValue:
    return UnusableValue(f"{text} is no JSON number: leave the field out or send null")


def _float(text: str) -> float | UnusableValue:
    value = float(text)
    return value if abs(value) != float("inf") else UnusableValue(f"{text[:40]} is too large for a number")


def _integer(text: str) -> int | UnusableValue:
    # int() takes quadratic time, and its own limit raises an error that is meant for programmers.
    return int(text) if len(text) < _LONGEST_INTEGER else UnusableValue(f"an integer of {len(text)} digits")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {_UNPAIRED.sub("\ufffd", name): _paired(name, value) for name, value in pairs}


def _paired(name: str, value: Any) -> Any:
    if _UNPAIRED.search(name) or (isinstance(value, str) and _UNPAIRED.search(value)):
        return UnusableValue("half of a surrogate pair is not valid text")
    if isinstance(value, list):
        return [_paired("", inner) for inner in value]
    return value
