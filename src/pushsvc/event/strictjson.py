"""Strict JSON (RFC 8259) with faults in plain words.

msgspec decodes: it is fast, refuses NaN, Infinity and overflowing numbers, and keeps long integers exact (orjson would
round them). Text that it refuses is decoded again by a slow parser that reports where and why. A value that is valid
JSON but not allowed in an event becomes an UnusableValue, so that the validator can name its field.

A call into a parser cannot pause. So values are counted before it, and a large array is decoded element by element.
"""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import orjson

from pushsvc.pause import Pause, no_pause

MOST_SLOW = 20_000  # values that the slow parser reads: 25 ms
MOST_WHOLE = 500_000  # bytes of an array that is not decoded element by element: 4 ms in the slow parser
_TOKENS_A_PAUSE = 2_000
_TOKENS_OF_VALUE = 5  # of JSON, at most: a name, a text, two brackets, a comma
_decode = msgspec.json.Decoder().decode
_decode_elements = msgspec.json.Decoder(list[msgspec.Raw]).decode
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[][{},]', re.DOTALL)
_UNPAIRED = re.compile("[\ud800-\udfff]")
_SURROGATE = re.compile(rb"\\u[dD]")
_LONGEST_INTEGER = 4_000
_AFTER_END = "text after the end of the value (send several events as an array or as NDJSON)"
_MOST_LEVELS = 1_000
_COMMA = b","[0]
_BYTE = re.compile(r" \(byte ([0-9]+)\)")


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


def load(raw: bytes, pause: Pause = no_pause) -> Any:
    """Return the value of ``raw``, with an UnusableValue for each value that is not allowed; raise NotJson."""
    try:
        return _decode(raw)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        if at_most_values(raw) > MOST_SLOW:
            raise _malformed(raw, error) from None
    pause()
    return _load_slowly(raw, pause)


def at_most_values(raw: bytes) -> int:
    """Return an upper bound on the number of values on all levels; it counts commas and brackets in text too."""
    return 1 + raw.count(b",") + raw.count(b"[") + raw.count(b"{")


def has_more_values(raw: bytes, most: int, pause: Pause = no_pause) -> bool:
    """Return whether there are more than ``most`` values, counted as members, elements, arrays and objects."""
    pause()
    if at_most_values(raw) <= most:
        return False
    values = 1
    for number, token in enumerate(_TOKEN.finditer(raw)):
        if number % _TOKENS_A_PAUSE == 0:
            pause()
        values += raw[token.start()] in b",[{"
        if values > most or number > _TOKENS_OF_VALUE * most:
            return True
    return False


def load_elements(raw: bytes, load_one: Callable[[bytes], Any], pause: Pause) -> Iterator[tuple[int, Any]]:
    """Yield the number of each element of an array, from 1, and its value as ``load_one`` returns it; raise NotJson."""
    try:
        elements = _decode_elements(raw)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        pass  # what follows names the element that is wrong
    else:
        for number, element in enumerate(elements, 1):
            yield number, load_one(bytes(element))
        return
    for number, (begin, end) in enumerate(_split_array(raw, pause), 1):
        try:
            yield number, load_one(raw[begin:end].strip())
        except NotJson as error:
            line, column = _place(raw, end - len(raw[begin:end].lstrip()))
            raise NotJson(
                error.detail, line + error.line - 1, error.column + (column - 1 if error.line == 1 else 0)
            ) from None


def _split_array(raw: bytes, pause: Pause) -> Iterator[tuple[int, int]]:
    """Yield where each element of an array begins and ends; raise NotJson if the array does not end."""
    depth, begin, is_first = 0, 0, True
    for number, token in enumerate(_TOKEN.finditer(raw)):
        if number % _TOKENS_A_PAUSE == 0:
            pause()
        at = token.start()
        mark = raw[at]
        if mark in b"[{":
            depth += 1
            if depth == 1:
                begin = at + 1
            elif depth > _MOST_LEVELS:
                raise NotJson("nested too deeply", 1, 1)
        elif mark in b"]}" or (mark == _COMMA and depth == 1):
            depth -= mark != _COMMA
            if depth == 0 and is_first and not raw[begin:at].strip():
                begin, is_first = at + 1, False  # the array is empty
            elif depth == 0 or mark == _COMMA:
                yield begin, at
                begin, is_first = at + 1, False
            if depth == 0:
                break
    if depth != 0:
        raise NotJson("unexpected end of data", *_place(raw, len(raw)))
    if raw[begin:].strip():
        raise NotJson(_AFTER_END, *_place(raw, begin))


def _malformed(raw: bytes, error: Exception) -> NotJson:
    """Return why msgspec refused a large value. No slow parser looks for the field."""
    found = _BYTE.search(str(error))
    detail = _AFTER_END if "trailing characters" in str(error) else _BYTE.sub("", str(error))
    return NotJson(detail, *_place(raw, int(found[1]) if found else 0))


def _place(raw: bytes, at: int) -> tuple[int, int]:
    """Return the line and the column, from 1, of a byte."""
    return raw.count(b"\n", 0, at) + 1, at - raw.rfind(b"\n", 0, at)


def _load_slowly(raw: bytes, pause: Pause) -> Any:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        line_start = before.rfind(b"\n") + 1
        raise NotJson("not UTF-8", before.count(b"\n") + 1, error.start - line_start + 1) from None
    may_be_unpaired = _SURROGATE.search(raw) is not None
    pause()
    try:
        return json.loads(
            text, parse_constant=_constant, parse_float=_float, parse_int=_integer,
            object_pairs_hook=_object if may_be_unpaired else None,
        )  # fmt: skip
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
            return _AFTER_END
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
