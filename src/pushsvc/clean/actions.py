"""What each kind of rule does to a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import numpy as np
import pandas as pd

from pushsvc.clean.rules import Allowed, Duplicates, InvalidRules, Missing, Outliers, Range, Rule, Text, Time, Type

_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_NANOSECONDS = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}
_AUTO = ((1e11, "s"), (1e14, "ms"), (1e17, "us"), (2.0**63, "ns"))  # 1e11 seconds is the year 5138

Column = pd.Series  # values of one field
Marks = pd.Series  # booleans: which rows are meant


@dataclass
class Outcome:
    """A table after a rule, the number of values that it changed, and the rows that it refuses."""

    table: pd.DataFrame
    changed: int
    refused: Marks


@singledispatch
def apply(rule: Rule, table: pd.DataFrame) -> Outcome:
    """Return what a rule makes of a table that has its fields; raise InvalidRules if its values do not fit."""
    raise NotImplementedError(type(rule).__name__)


@apply.register
def _(rule: Text, table: pd.DataFrame) -> Outcome:
    def tidy(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        words = " ".join(value.split())
        cased = words if rule.case == "keep" else getattr(words, rule.case)()
        return rule.replace.get(cased, cased)

    return _each(rule, table, lambda column: _Replaced(column.map(tidy, na_action="ignore"), _none(column)))


@apply.register
def _(rule: Missing, table: pd.DataFrame) -> Outcome:
    tokens = {value.strip().casefold() for value in rule.values}

    def stands_for_nothing(value: Any) -> bool:
        return isinstance(value, str) and (not value.strip() or value.strip().casefold() in tokens)

    def replace(column: Column) -> _Replaced:
        absent = column.isna() | column.map(stands_for_nothing).astype(bool)
        present = column.mask(absent, None)
        if rule.otherwise == "refuse":
            return _Replaced(present, absent, removes=False)
        if rule.otherwise == "remove" or not absent.any():
            return _Replaced(present, _none(column))
        return _Replaced(present.where(~absent, _filling(rule, present)), _none(column))

    return _each(rule, table, replace)


def _filling(rule: Missing, column: Column) -> Any:
    if rule.fill_by is None:
        return rule.fill
    if rule.fill_by == "previous":
        return column.ffill()
    values = _numbers(column)
    return values.mean() if rule.fill_by == "mean" else values.median()


@apply.register
def _(rule: Type, table: pd.DataFrame) -> Outcome:
    convert = {"number": _to_number, "integer": _to_integer, "boolean": _to_boolean, "text": _to_text}[rule.type]

    def replace(column: Column) -> _Replaced:
        values, differs = convert(rule, column)
        return _Replaced(values, values.isna() & column.notna(), differs)

    return _each(rule, table, replace)


def _to_number(rule: Type, column: Column) -> tuple[Column, Marks]:
    if pd.api.types.is_bool_dtype(column):
        return column.astype("Float64"), _none(column)
    if pd.api.types.is_numeric_dtype(column):
        return column.astype("Float64"), _none(column)
    text = column.map(lambda value: value if isinstance(value, str) else str(value), na_action="ignore")
    bare = text.map(lambda value: _bare_number(rule, value), na_action="ignore")
    values = pd.to_numeric(bare, errors="coerce").astype("Float64")
    return values.mask(np.isinf(values.fillna(0)), pd.NA), (bare != text) & column.notna()


def _bare_number(rule: Type, text: str) -> str:
    kept = "".join(character for character in text if character not in rule.strip)
    if rule.thousands is not None:
        kept = kept.replace(rule.thousands, "")
    elif "." not in rule.decimal:
        kept = kept.replace(".", "?")  # a point is no part of such a number
    for point in rule.decimal:
        kept = kept.replace(point, ".")
    return kept.strip()


def _to_integer(rule: Type, column: Column) -> tuple[Column, Marks]:
    values, differs = _to_number(rule, column)
    # A Float64 holds integers exactly below 2**53 only.
    whole = ((values % 1 == 0) & (values.abs() < 2.0**53)).fillna(value=False)
    return values.where(whole, pd.NA).astype("Int64"), differs


def _to_boolean(_: Type, column: Column) -> tuple[Column, Marks]:
    if pd.api.types.is_bool_dtype(column):
        return column.astype("boolean"), _none(column)
    words = column.map(lambda value: _WORDS.get(str(value).strip().casefold()), na_action="ignore")
    return words.astype("boolean"), _none(column)


def _to_text(_: Type, column: Column) -> tuple[Column, Marks]:
    return column.map(str, na_action="ignore").astype("string"), _none(column)


@apply.register
def _(rule: Time, table: pd.DataFrame) -> Outcome:
    def replace(column: Column) -> _Replaced:
        times = _of_text(rule, column) if rule.unit == "text" else _of_numbers(rule, column)
        return _Replaced(times, times.isna() & column.notna(), times.notna())

    return _each(rule, table, replace)


def _of_text(rule: Time, column: Column) -> Column:
    if pd.api.types.is_datetime64_any_dtype(column):
        return _in_zone(column, rule.zone)
    times = pd.Series(pd.NaT, index=column.index, dtype="datetime64[ns, UTC]")
    for format in rule.formats or ("ISO8601",):
        # Each value by itself: texts with and without a zone may stand in one column.
        left = column[times.isna() & column.notna()]
        found = left.map(lambda text, format=format: _moment(str(text).strip(), format, rule.zone))
        times = times.fillna(pd.to_datetime(found, utc=True).reindex(times.index))
    return times


def _moment(text: str, format: str, zone: str) -> pd.Timestamp | None:
    try:
        moment = pd.to_datetime(text, format=format)
        if moment.tzinfo is None:
            moment = moment.tz_localize(zone)
        return moment.tz_convert("UTC")
    except (ValueError, OverflowError):  # no such time, or one that the change to winter time has twice
        return None


def _in_zone(column: Column, zone: str) -> Column:
    if column.dt.tz is None:
        column = column.dt.tz_localize(zone, ambiguous="NaT", nonexistent="NaT")
    converted: Column = column.dt.tz_convert("UTC")
    return converted


def _of_numbers(rule: Time, column: Column) -> Column:
    values = pd.to_numeric(column, errors="coerce").astype("Float64")
    if rule.unit == "auto":
        sizes = values.abs().to_numpy(dtype=float, na_value=0.0)
        factors = np.select([sizes < greatest for greatest, _ in _AUTO], [_NANOSECONDS[unit] for _, unit in _AUTO], 0)
    else:
        factors = np.full(len(values), _NANOSECONDS[rule.unit])
    nanoseconds = values * factors
    readable = (factors > 0) & (nanoseconds.abs() < 2.0**63).fillna(value=False)  # pandas knows the years 1678 to 2261
    times: Column = pd.to_datetime(nanoseconds.where(readable, pd.NA).round().astype("Int64"), unit="ns", utc=True)
    return times


@apply.register
def _(rule: Duplicates, table: pd.DataFrame) -> Outcome:
    columns = list(rule.fields) or list(table.columns)
    return Outcome(table, 0, table[columns].astype(object).duplicated(keep=rule.keep))


@apply.register
def _(rule: Range, table: pd.DataFrame) -> Outcome:
    def replace(column: Column) -> _Replaced:
        values = column if pd.api.types.is_datetime64_any_dtype(column) else _numbers(column)
        least, greatest = (_bound(bound, values) for bound in (rule.min, rule.max))
        bad = _none(column)
        if least is not None:
            bad |= (values < least).fillna(value=False).astype(bool)
        if greatest is not None:
            bad |= (values > greatest).fillna(value=False).astype(bool)
        if rule.otherwise == "clip":
            return _Replaced(column.mask(bad, values.clip(least, greatest)), _none(column))
        return _Replaced(column, bad)

    return _each(rule, table, replace)


def _bound(bound: float | str | None, values: Column) -> Any:
    times = pd.api.types.is_datetime64_any_dtype(values)
    if bound is None or times != isinstance(bound, str):
        if bound is None:
            return None
        raise InvalidRules(f"{bound!r} cannot be compared with {'times' if times else 'numbers'}")
    if not times:
        return bound
    try:
        moment = pd.Timestamp(bound)
    except ValueError:
        raise InvalidRules(f"{bound!r} is not a time") from None
    return moment if moment.tzinfo is not None else moment.tz_localize("UTC")


@apply.register
def _(rule: Allowed, table: pd.DataFrame) -> Outcome:
    return _each(rule, table, lambda column: _Replaced(column, column.notna() & ~column.isin(list(rule.values))))


@apply.register
def _(rule: Outliers, table: pd.DataFrame) -> Outcome:
    def replace(column: Column) -> _Replaced:
        values = _numbers(column).astype(float)
        groups = pd.Series(0, index=table.index) if rule.by is None else table[rule.by]
        grouped = values.groupby(groups, dropna=False)
        if rule.method == "iqr":
            low, high = (grouped.transform("quantile", at) for at in (0.25, 0.75))
            reach = (high - low) * rule.distance
        else:
            low = high = grouped.transform("mean")
            reach = grouped.transform("std", ddof=0) * rule.distance
        bad = ((values < low - reach) | (values > high + reach)) & (grouped.transform("count") >= rule.least)
        if rule.otherwise == "clip":
            return _Replaced(column.mask(bad, values.clip(low - reach, high + reach)), _none(column))
        return _Replaced(column, bad)

    return _each(rule, table, replace)


@dataclass
class _Replaced:
    """The values of a column after a rule, which of them are ``bad``, and which ``differ`` though they look equal.

    Bad values are removed if the rule does not refuse their rows, unless it did that itself (``removes``).
    """

    values: Column
    bad: Marks
    differ: Marks | None = None
    removes: bool = True


def _each(rule: Any, table: pd.DataFrame, replace: Callable[[Column], _Replaced]) -> Outcome:
    """Replace the values of each field of a rule; refuse the rows of bad ones, or remove these values."""
    table, refused, changed = table.copy(), pd.Series(data=False, index=table.index), 0
    for name in rule.fields:
        before = table[name]
        found = replace(before)
        refuses = getattr(rule, "otherwise", None) == "refuse"
        values = found.values if refuses or not found.removes else found.values.mask(found.bad, None)
        differs = _differ(before, values) if found.differ is None else found.differ | (found.bad & before.notna())
        if refuses:
            refused |= found.bad
            differs &= ~found.bad
        changed += int(differs.sum())
        table[name] = values
    return Outcome(table, changed, refused)


def _differ(before: Column, after: Column) -> Marks:
    same = (before.isna() & after.isna()) | (before.astype(object) == after.astype(object)).fillna(value=False)
    return ~same.astype(bool)


def _numbers(column: Column) -> Column:
    """Return a column of numbers; raise InvalidRules if it holds others."""
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        return column
    values = pd.to_numeric(column, errors="coerce")
    if (odd := column[values.isna() & column.notna()]).size:
        raise InvalidRules(f"{str(odd.iloc[0])[:40]!r} is not a number: put a rule of the type before this one")
    return values


def _none(column: Column) -> Marks:
    return pd.Series(data=False, index=column.index)
