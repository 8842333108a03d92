"""Keys of groupings. A grouping is the name of a field or attribute, or several names joined by ``+``."""

from __future__ import annotations

from typing import Any

from pushsvc.event.model import OVERFLOW_KEY

_MAX_PART = 200
"""Characters of one part of a key."""


def parts_of(grouping: str) -> list[str]:
    """Return the names in a grouping."""
    return grouping.split("+")


def part_text(value: Any) -> str | None:
    """Return a value as a part of a key: text, or a number as its text; None for empty text and any other value.

    Text that is too long becomes OVERFLOW_KEY, so that producers cannot fill the aggregator's memory.
    """
    if type(value) is str:
        return value or None if len(value) <= _MAX_PART else OVERFLOW_KEY
    return repr(value) if type(value) is int or (type(value) is float and value == value) else None


def join_parts(parts: list[list[str | None]]) -> list[str | None]:
    """Return a key [n] for each event from its parts [p][n]; None if a part is missing.

    A ``+`` inside a part is written ``\\+``: otherwise different parts could make the same key.
    """
    if len(parts) == 1:
        return parts[0]
    return [_join(part) for part in zip(*parts, strict=True)]


def _join(parts: tuple[str | None, ...]) -> str | None:
    if None in parts:
        return None
    return OVERFLOW_KEY if OVERFLOW_KEY in parts else "+".join(map(_escape, parts))  # type: ignore[arg-type]


def _escape(part: str) -> str:
    return part.replace("\\", "\\\\").replace("+", "\\+") if "+" in part or "\\" in part else part
