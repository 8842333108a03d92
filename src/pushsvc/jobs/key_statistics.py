"""Statistics by key as the function of a job: the engine's partial states of each partition, merged exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from pushsvc.jobs.sources import Csv, Parquet, Source
from pushsvc.stats.arrays import Floats, Index, Ints, runs_of
from pushsvc.stats.moments import HIGH, LOW, Moments, describe, empty, merge_equal, reduce
from pushsvc.stats.panes.quantiles import BITS, NEWEST, buckets_of, lower_ends

MOST_ROWS = 2**31 - 1
MOST_DISTINCT = 2_000_000
SHOWN = 50
"""Rows that a page is shown while the job runs."""
_NO_KEY = 0
_DENSE = 4  # codes are counted in an array with a place for each possible one if that has at most so many a row
_MASK = (1 << BITS) - 1


@dataclass(frozen=True)
class Numbers:
    """Mergeable states of a column of numbers: ``moments`` of ascending ``rows`` [n], their histogram by ``codes``
    (row and bucket) with ``counts`` [m], and all ``values`` [k] of rows that have few, by ``value_rows``."""

    rows: Index
    moments: Moments
    codes: Ints
    counts: Ints
    value_rows: Index
    values: Floats

    @classmethod
    def merged(cls, parts: Sequence[Numbers]) -> Numbers:
        """Return the states of all parts; rows may occur in several, and in one several times."""
        rows, moments = merge_equal(
            np.concatenate([part.rows for part in parts]),
            Moments(
                np.concatenate([part.moments.count for part in parts]),
                np.concatenate([part.moments.parts for part in parts], axis=1),
            ),
        )
        codes, counts = _summed(
            np.concatenate([part.codes for part in parts]), np.concatenate([part.counts for part in parts])
        )
        value_rows = np.concatenate([part.value_rows for part in parts])
        values = np.concatenate([part.values for part in parts])
        # A row that has more values than are kept in one part, has so altogether.
        few = moments.count[np.searchsorted(rows, value_rows)] <= NEWEST
        return cls(rows, moments, codes, counts, value_rows[few], values[few])

    def renumbered(self, rows: Ints) -> Numbers:
        """Return the states with other numbers of rows, which are indexed by the present ones."""
        codes = (rows[self.codes >> BITS] << BITS) | (self.codes & _MASK)
        return Numbers(rows[self.rows], self.moments, codes, self.counts, rows[self.value_rows], self.values)

    def quantiles(self, percents: Sequence[int]) -> Floats:
        """Return [percents, n] of the rows: exact for few values, else the lower ends of buckets."""
        found = np.empty((len(percents), len(self.rows)))
        if not percents:
            return found
        count = np.asarray(self.moments.count, np.int64)
        ranks = (np.multiply.outer(np.array(percents), count) + 99) // 100
        below = np.cumsum(self.counts)
        base = np.append(0, below)[np.searchsorted(self.codes, self.rows.astype(np.int64) << BITS)]
        found[:] = lower_ends(self.codes[np.searchsorted(below, base + ranks)] & _MASK)
        np.clip(found, self.moments.parts[LOW], self.moments.parts[HIGH], out=found)
        order = np.lexsort((self.values, self.value_rows))
        starts = runs_of(self.value_rows[order])
        few = np.searchsorted(self.rows, self.value_rows[order][starts])
        found[:, few] = self.values[order][starts + ranks[:, few] - 1]
        return found


@dataclass(frozen=True)
class State:
    """The state of some partitions. Row 0 counts rows without a key, row n + 1 those with ``keys[n]``; keys ascend."""

    keys: pd.Index[Any]
    counts: dict[str | None, Ints]  # of all events, and of those with a value to be told apart, in each row
    numbers: dict[str, Numbers]
    distinct: dict[str, tuple[Ints, pd.Index[Any]]]  # rows and values, each pair once


@dataclass(frozen=True)
class Statistics:
    """Count, sum, mean, min, max, std, quantiles and distinct by key, as a topic's statistics have them.

    ``values`` are columns of numbers, ``distinct`` columns whose different values are counted, one by one and at most
    ``most_distinct`` of them; ``by`` is the column with the keys. Missing values are left out; rows without a key count
    for the totals alone. A quantile is the value of rank ceil(p / 100 * n): exact for 16 values or fewer, else less
    than 1/128 nearer to zero.
    """

    values: Sequence[str] = ()
    by: str | None = None
    distinct: Sequence[str] = ()
    percents: Sequence[int] = ()
    most_distinct: int = MOST_DISTINCT

    def __post_init__(self) -> None:
        for given in (self.values, self.distinct):
            if isinstance(given, str):
                raise ValueError(f"{given!r} must be a list of columns")
        if self.by in self.values:
            raise ValueError(f"column {self.by!r} cannot be both key and value")
        if any(type(percent) is not int or not 1 <= percent <= 99 for percent in self.percents):
            raise ValueError("percents must be integers from 1 to 99")

    @property
    def columns(self) -> list[str]:
        """The columns that are read."""
        return list(dict.fromkeys([*self.values, *self.distinct, *([] if self.by is None else [self.by])]))

    @property
    def types(self) -> dict[str, Any]:
        """The types of the columns in a CSV file: the same for all partitions."""
        return {name: "float64" if name in self.values else "str" for name in self.columns}

    def source(self, source: Source) -> Source:
        """Return a source that has these columns in the same types in all partitions, unless it has its own."""
        if isinstance(source, Csv):
            # All columns are read: pandas would not notice rows with too many values otherwise.
            return replace(source, options={"dtype": self.types} | dict(source.options))
        if isinstance(source, Parquet) and source.columns is None and self.columns:
            return replace(source, columns=self.columns)
        return source

    def __call__(self, table: pd.DataFrame) -> State:
        """Return the state of a partition; raise ValueError for columns that it lacks or that are no numbers."""
        if missing := [name for name in self.columns if name not in table.columns]:
            raise ValueError(f"there is no column {missing[0]!r}; the columns are {', '.join(map(str, table.columns))}")
        keys: pd.Index[Any] = pd.Index([], dtype=object)
        rows: Ints = np.zeros(len(table), np.int64)
        if self.by is not None:
            rows, keys = _factorize(table[self.by])
            rows += 1
        counts: dict[str | None, Ints] = {None: np.bincount(rows, minlength=len(keys) + 1)}
        for name in self.distinct:
            counts[name] = np.bincount(rows[table[name].notna().to_numpy()], minlength=len(keys) + 1)
        numbers = {name: self._numbers(name, table[name], rows) for name in self.values}
        distinct = {name: self._distinct(name, rows, table[name]) for name in self.distinct}
        return State(keys, counts, numbers, distinct)

    def _numbers(self, name: str, column: pd.Series[Any], rows: Ints) -> Numbers:
        if not pd.api.types.is_numeric_dtype(column.dtype) or pd.api.types.is_complex_dtype(column.dtype):
            raise ValueError(f"column {name!r} has values of type {column.dtype}, not numbers")
        values = column.to_numpy(np.float64, na_value=np.nan)
        there = np.flatnonzero(~np.isnan(values))
        values, rows = values[there] + 0.0, rows[there]
        if not np.isfinite(values).all():
            raise ValueError(f"column {name!r} has an infinite value")
        few_keys = int(rows.max(initial=0)) < 2**16
        order = np.argsort(rows.astype(np.uint16) if few_keys else rows, kind="stable")  # in linear time for 16 bits
        rows, values = rows[order], values[order]
        starts = runs_of(rows)
        moments = reduce(values, starts) if len(starts) else Moments(np.zeros(0, np.int32), empty(0))
        codes = counts = np.zeros(0, np.int64)
        few = np.zeros(len(rows), np.bool_)
        if self.percents:
            codes, counts = _histogram(rows, buckets_of(values))
            few = np.repeat(moments.count <= NEWEST, moments.count)
        return Numbers(rows[starts], moments, codes, counts, rows[few], values[few])

    def _distinct(self, name: str, rows: Ints, column: pd.Series[Any]) -> tuple[Ints, pd.Index[Any]]:
        """Return each pair of row and value once."""
        codes, values = _factorize(column)
        there = codes >= 0
        width = max(len(values), 1)
        pairs = _different(rows[there] * width + codes[there])
        if len(pairs) > self.most_distinct:
            raise ValueError(f"column {name!r} has more than {self.most_distinct} different values by key")
        return pairs // width, values.take(pairs % width)

    def merge(self, one: State, other: State) -> State:
        """Return the state of both; raise ValueError for too many rows or different values."""
        keys = one.keys.union(other.keys)
        places = [np.append(_NO_KEY, keys.get_indexer(state.keys) + 1) for state in (one, other)]
        counts = {name: np.zeros(len(keys) + 1, np.int64) for name in one.counts}
        for state, rows in zip((one, other), places, strict=True):
            for name, count in state.counts.items():
                counts[name][rows] += count
        if counts[None].sum() > MOST_ROWS:
            raise ValueError(f"there are more than {MOST_ROWS} rows")
        numbers = {
            name: Numbers.merged(
                [state.numbers[name].renumbered(rows) for state, rows in zip((one, other), places, strict=True)]
            )
            for name in self.values
        }
        distinct = {
            name: self._distinct(
                name,
                np.concatenate(
                    [rows[state.distinct[name][0]] for state, rows in zip((one, other), places, strict=True)]
                ),
                pd.Series(one.distinct[name][1].append(other.distinct[name][1])),
            )
            for name in self.distinct
        }
        return State(keys, counts, numbers, distinct)

    def table(self, state: State) -> pd.DataFrame:
        """Return a row per key and column, as ``Client.table``: key None is all keys together, field None the rows."""
        keys = pd.Index([None, *state.keys], dtype=object)
        tables = [pd.DataFrame({"key": keys, "field": None, "count": _with_total(state.counts[None])})]
        for name in dict.fromkeys([*self.values, *self.distinct]):
            tables.append(self._field(name, state, keys))
        columns = ["key", "field", "count"]
        columns += ["sum", "mean", "min", "max", "std"] if self.values else []
        columns += [f"p{percent}" for percent in self.percents] if self.values else []
        columns += ["distinct"] if self.distinct else []
        found = pd.concat([table.astype({"field": object}) for table in tables], ignore_index=True)
        return found.reindex(columns=columns).astype({"count": "int64"})

    def _field(self, name: str, state: State, keys: pd.Index[Any]) -> pd.DataFrame:
        found = pd.DataFrame({"key": keys, "field": name, "count": 0})
        if name in self.values:
            given = state.numbers[name]
            total = Numbers.merged([given.renumbered(np.zeros(len(keys), np.int64))])
            keyed = given.rows > _NO_KEY
            columns = ["sum", "mean", "min", "max", "std", *(f"p{percent}" for percent in self.percents)]
            numbers = np.full((len(columns), len(keys)), np.nan)
            count = np.zeros(len(keys), np.int64)
            for part, chosen in ((given, keyed), (total, np.ones(len(total.rows), np.bool_))):
                rows = part.rows[chosen]
                count[rows] = part.moments.count[chosen]
                numbers[:, rows] = np.concatenate([describe(part.moments), part.quantiles(self.percents)])[:, chosen]
            found["count"] = count
            found[columns] = numbers.T
        if name in self.distinct:
            rows, values = state.distinct[name]
            different = np.bincount(rows, minlength=len(keys))
            different[_NO_KEY] = values.nunique()
            found["distinct"] = pd.array(different, "Int64")
            if name not in self.values:
                found["count"] = _with_total(state.counts[name])
        return found

    def show(self, state: State) -> dict[str, Any]:
        """Return the rows of the largest keys, and how many keys there are, as JSON may have them."""
        table = self.table(state)
        order = np.argsort(-state.counts[None][1:], kind="stable")[:SHOWN]
        shown = table[table["key"].isna() | table["key"].isin(state.keys.take(order))].astype(object)
        rows = shown.where(shown.notna(), None).to_numpy().tolist()
        return {
            "keys": len(state.keys),
            "columns": list(shown.columns),
            "data": [list(map(_json, row)) for row in rows],
        }


def _json(value: Any) -> Any:
    return value if value is None or isinstance(value, (str, int, float)) else str(value)


def _with_total(counts: Ints) -> Ints:
    """Return the counts of rows with that of all together in the place of those without a key."""
    return np.append(counts.sum(), counts[1:])


def _factorize(column: pd.Series[Any]) -> tuple[Ints, pd.Index[Any]]:
    """Return the places of values among the different ones, -1 for missing ones, and these, ascending."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(column.cat.categories.dtype)
    try:
        codes, values = pd.factorize(column, sort=True)
    except TypeError:
        raise ValueError(f"column {column.name!r} has values that cannot be compared with each other") from None
    return codes.astype(np.int64), pd.Index(values)


def _different(codes: Ints) -> Ints:
    """Return the different codes, ascending."""
    if not len(codes) or int(codes.max()) > _DENSE * len(codes):
        codes = np.sort(codes)
        return codes[runs_of(codes)]
    found = np.zeros(int(codes.max()) + 1, np.bool_)  # sorting would cost more than all else
    found[codes] = True
    return np.flatnonzero(found)


def _histogram(rows: Ints, buckets: Ints) -> tuple[Ints, Ints]:
    """Return the different codes of rows and buckets, ascending, and how often each occurs."""
    if not len(rows):
        return rows, rows
    first, width = int(buckets.min()), int(np.ptp(buckets)) + 1
    if (int(rows.max()) + 1) * width > _DENSE * len(rows):
        return _summed((rows << BITS) | buckets, np.ones(len(rows), np.int64))
    counts = np.bincount(rows * width + (buckets - first))
    there = np.flatnonzero(counts)
    return (there // width << BITS) | (there % width + first), counts[there]


def _summed(codes: Ints, counts: Ints) -> tuple[Ints, Ints]:
    """Return the different codes, ascending, and the sums of their counts."""
    order = np.argsort(codes, kind="stable")
    codes = codes[order]
    starts = runs_of(codes)
    return codes[starts], np.add.reduceat(counts[order], starts) if len(starts) else counts[:0]
