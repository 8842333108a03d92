"""The rules of a cleaning, as a TOML file or a list of tables says them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, get_args
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Meta

MOST_RULES = 1_000
_PATH = re.compile(r" - at `\$\[?(\d*)\]?\.?([^`]*)`$")

Fields = Annotated[tuple[Annotated[str, Meta(min_length=1)], ...], Meta(min_length=1)]
Positive = Annotated[float, Meta(gt=0)]
Character = Annotated[str, Meta(min_length=1, max_length=1)]


class InvalidRules(ValueError):
    """A rule cannot be read or applied. The text names the rule, its number and what is wrong with it."""


class Rule(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, tag_field="rule"):
    """What all rules have: ``fields``, the columns it looks at, and a ``name`` for the report."""

    fields: Fields
    name: str = ""

    @property
    def title(self) -> str:
        return self.name or f"{self.__struct_config__.tag} of {', '.join(self.fields) or 'all fields'}"


class Text(Rule, frozen=True, tag="text"):
    """Trim text and its inner spaces, change its case, and replace whole values."""

    case: Literal["keep", "lower", "upper", "title"] = "keep"
    replace: dict[str, str] = {}


class Missing(Rule, frozen=True, tag="missing"):
    """What to do where a value is missing. ``values`` are texts that mean it, besides an empty cell, in any case."""

    values: tuple[str, ...] = ()
    otherwise: Literal["refuse", "remove", "fill"] = "remove"
    fill: str | float | int | bool | None = None
    fill_by: Literal["mean", "median", "previous"] | None = None

    def __post_init__(self) -> None:
        fills = (self.fill is not None) + (self.fill_by is not None)
        if fills != (self.otherwise == "fill"):
            raise ValueError('otherwise = "fill" takes either `fill` or `fill_by`, and the others take neither')


class Type(Rule, frozen=True, tag="type"):
    """The type of values. Of a number the characters in ``strip`` are dropped, such as the sign of a currency.

    Each character of ``decimal`` is a decimal point.
    """

    type: Literal["number", "integer", "boolean", "text"]
    strip: str = ""
    decimal: Annotated[str, Meta(min_length=1, max_length=2)] = "."
    thousands: Character | None = None
    otherwise: Literal["refuse", "remove"] = "refuse"

    def __post_init__(self) -> None:
        if self.thousands is not None and self.thousands in self.decimal:
            raise ValueError("`decimal` and `thousands` have the same character")


class Time(Rule, frozen=True, tag="time"):
    """Times, which become UTC: numbers in a ``unit`` since 1970, or text in one of some ``formats`` (ISO 8601 if there
    are none). ``zone`` is that of texts without one. The unit ``auto`` is told by each number's size."""

    unit: Literal["text", "s", "ms", "us", "ns", "auto"] = "text"
    formats: tuple[str, ...] = ()
    zone: str = "UTC"
    otherwise: Literal["refuse", "remove"] = "refuse"

    def __post_init__(self) -> None:
        try:
            ZoneInfo(self.zone)
        except (OSError, ValueError, KeyError):
            raise ValueError(f"`zone` {self.zone!r} is not known") from None
        if self.formats and self.unit != "text":
            raise ValueError("`formats` are for text, not for numbers in a unit")


class Duplicates(Rule, frozen=True, tag="duplicates"):
    """Rows that equal another one in ``fields``, or in all columns. They are refused, but for one."""

    fields: tuple[str, ...] = ()
    keep: Literal["first", "last"] = "first"


class Range(Rule, frozen=True, tag="range"):
    """Values below ``min`` or above ``max`` are impossible. The bounds are numbers, or texts for times."""

    min: float | str | None = None
    max: float | str | None = None
    otherwise: Literal["refuse", "remove", "clip"] = "refuse"

    def __post_init__(self) -> None:
        if self.min is None and self.max is None:
            raise ValueError("it needs `min` or `max`")


class Allowed(Rule, frozen=True, tag="allowed"):
    """Values other than ``values`` are impossible."""

    values: tuple[str | float | bool, ...]
    otherwise: Literal["refuse", "remove"] = "refuse"


class Outliers(Rule, frozen=True, tag="outliers"):
    """Values far from the others, of all rows or of those with the same value in ``by``.

    With ``iqr`` an outlier lies more than ``limit`` (1.5) interquartile ranges outside of the quartiles (Tukey,
    Exploratory Data Analysis, 1977); with ``zscore`` more than ``limit`` (3) standard deviations from the mean.
    Of fewer than ``least`` values none is an outlier.
    """

    method: Literal["iqr", "zscore"] = "iqr"
    limit: Positive | None = None
    by: str | None = None
    least: Annotated[int, Meta(ge=2)] = 8
    otherwise: Literal["refuse", "remove", "clip"] = "refuse"

    _LIMITS: ClassVar[Mapping[str, float]] = {"iqr": 1.5, "zscore": 3.0}

    @property
    def distance(self) -> float:
        return self._LIMITS[self.method] if self.limit is None else self.limit


AnyRule = Text | Missing | Type | Time | Duplicates | Range | Allowed | Outliers
_KINDS = [kind.__struct_config__.tag for kind in get_args(AnyRule)]


class Rules(tuple[AnyRule, ...]):
    """Rules in the order in which they apply."""

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Return the rules of a TOML file with tables ``[[rules]]``; raise InvalidRules, or OSError."""
        try:
            found = msgspec.toml.decode(Path(path).read_bytes())
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidRules(f"not TOML: {error}") from None
        if set(found) != {"rules"} or not isinstance(found["rules"], list):
            raise InvalidRules("a file of rules has tables [[rules]] and nothing else")
        return cls.of(found["rules"])

    @classmethod
    def of(cls, tables: Sequence[Mapping[str, Any]]) -> Self:
        """Return the rules of tables such as ``{"rule": "range", "fields": ["rating"], "min": 1}``; raise InvalidRules.

        A rule of one field may say ``field``.
        """
        if len(tables) > MOST_RULES:
            raise InvalidRules(f"{len(tables)} rules, at most {MOST_RULES} are allowed")
        return cls(_rule(number, table) for number, table in enumerate(tables, 1))


def _rule(number: int, table: Mapping[str, Any]) -> AnyRule:
    members = dict(table) if isinstance(table, Mapping) else table
    if isinstance(members, dict) and "field" in members and "fields" not in members:
        members["fields"] = [members.pop("field")]
    if isinstance(members, dict) and members.get("rule") not in _KINDS:
        raise InvalidRules(f"rule {number}: `rule` is one of {', '.join(map(str, _KINDS))}")
    try:
        rule: AnyRule = msgspec.convert(members, type=AnyRule)
        return rule
    except msgspec.ValidationError as error:
        where, detail = "", str(error)
        if (found := _PATH.search(detail)) is not None:
            where, detail = found[2], detail[: found.start()]
        name = f" ({members['name']})" if isinstance(members, dict) and members.get("name") else ""
        raise InvalidRules(f"rule {number}{name}{where and f', {where}'}: {detail}") from None
