"""The lines of a TOML document that its keys and faults are on: tomllib gives no positions of keys."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any


def with_position(path: Path, text: str, message: str) -> str:
    """Return a message of tomllib with its position first: line and column, or the line of an incomplete statement."""
    if found := re.fullmatch(r"(.*) \(at line ([0-9]+), column ([0-9]+)\)", message, re.DOTALL):
        return f"{path}:{found[2]}:{found[3]}: {found[1]}"
    if message.endswith("(at end of document)"):
        *_, (line, _, _) = _statements(text)
        return f"{path}:{line}: {message}"
    return f"{path}: {message}"


def line_of(text: str, path: Sequence[str]) -> int | None:
    """Return the line on which a TOML document first names the key at ``path``; None if it does not name it.

    A key inside a value of several lines has the line on which the statement begins.
    """
    table: tuple[str, ...] = ()
    for line, is_header, statement in _statements(text):
        within = () if is_header else table
        if statement and tuple(path[: len(within)]) == within and _has(statement, path[len(within) :]):
            return line
        if is_header:
            table = _path_of_header(statement)
    return None


def _statements(text: str) -> Iterator[tuple[int, bool, dict[str, Any]]]:
    """Yield each statement: its first line, whether it is the header of a table, and its content, read by itself.

    tomllib gives no positions of keys, but it knows when a statement is complete. An incomplete last one is empty.
    """
    lines = text.replace("\r\n", "\n").split("\n")
    begin = 0
    for end in range(1, len(lines) + 1):
        try:
            statement = tomllib.loads("\n".join(lines[begin:end]))
        except tomllib.TOMLDecodeError:
            continue  # its value goes on in the next line
        is_header = end == begin + 1 and lines[begin].lstrip().startswith("[")
        yield begin + 1, is_header, statement
        begin = end
    if begin < len(lines):
        yield begin + 1, False, {}


def _has(value: Any, path: Sequence[str]) -> bool:
    for name in path:
        if not isinstance(value, dict) or name not in value:
            return False
        value = value[name][-1] if _is_tables(value[name]) else value[name]
    return True


def _path_of_header(statement: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the path of the table that ``[a.b]`` or ``[[a.b]]``, read by itself, opens."""
    path = []
    while statement:
        [(name, inner)] = statement.items()
        path.append(name)
        statement = inner[-1] if _is_tables(inner) else inner
    return tuple(path)


def _is_tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[-1], dict)
