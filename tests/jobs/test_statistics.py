"""Statistics of partitions, merged, beside those of the engine that counts everything in one process, and of pandas."""

import dataclasses
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from pushsvc.event import Event
from pushsvc.event.columns import Columns
from pushsvc.jobs import Statistics
from pushsvc.jobs.merge import OrderedMerge
from pushsvc.settings import TopicSettings
from pushsvc.stats.window import Window
from support.reference.numbers import T, rows_of
from support.reference.open_aggregate import OpenAggregate

WANTED = Statistics(("x", "y"), "key", ("user",), (1, 50, 95, 99))


def table_of(size, seed=0):
    chance = np.random.default_rng(seed)
    return pd.DataFrame({
        "key": chance.choice(["a", "b", "c", "rare", None], size, p=[0.4, 0.3, 0.2, 0.01, 0.09]),
        "x": np.where(
            chance.random(size) < 0.1, np.nan, chance.lognormal(3, 2, size) * chance.choice([-1, 1, 1e9], size)
        ),
        "y": chance.integers(0, 300, size) / 4,
        "user": chance.choice([f"u{n}" for n in range(50)], size),
    })  # fmt: skip


def merged(table, cuts, order=None, wanted=WANTED):
    states = [wanted(table.iloc[start:stop]) for start, stop in pairwise([0, *cuts, len(table)])]
    merge = OrderedMerge(wanted.merge)
    for number in order or range(len(states)):
        merge.add(number, states[number])
    (state,) = merge.result()
    return wanted.table(state)


def counted_serially(table):
    """Return the rows of an engine that was fed event by event, in the columns of a job."""
    settings = dataclasses.replace(
        TopicSettings(windows=(Window.parse("24h"),)), values=("user",),
        statistics=(*(f"p{percent}" for percent in WANTED.percents), "distinct"),
    )  # fmt: skip
    aggregate = OpenAggregate(settings, T)
    aggregate.open("t", T)
    for start in range(0, len(table), 1_000):
        part = table.iloc[start : start + 1_000].astype(object)
        records = part.where(part.notna(), None).to_dict("records")
        events = [
            Event(time=T, key=row.pop("key"), data={name: value for name, value in row.items() if value is not None})
            for row in records
        ]
        aggregate.apply("t", start + len(events), T, Columns.from_events(events, settings.key, settings.values))
    frame = aggregate.snapshot("t", "24h")
    return frame.columns if hasattr(frame, "columns") else settings.columns, rows_of(frame)


@pytest.mark.parametrize("size", [0, 1, 2, 17, 5_000])
def test_statistics_equal_those_of_pandas(size):
    table = table_of(size)
    found = merged(table, [size // 3, size // 2])
    for key, rows in [(None, table), *table.groupby("key")]:
        for field in ("x", "y"):
            (one,) = found[
                (found["key"].isna() if key is None else found["key"] == key) & (found["field"] == field)
            ].to_dict("records")
            values = rows[field].dropna()
            assert one["count"] == len(values)
            if len(values):
                assert (one["min"], one["max"]) == (values.min(), values.max())
                assert one["sum"] == pytest.approx(values.sum(), rel=1e-12)
                assert one["mean"] == pytest.approx(values.mean(), rel=1e-12)
                assert one["p50"] == pytest.approx(np.quantile(values, 0.5, method="inverted_cdf"), rel=1 / 128)
            if len(values) > 1:
                assert one["std"] == pytest.approx(values.std(), rel=1e-12)
        (one,) = found[
            (found["key"].isna() if key is None else found["key"] == key) & (found["field"] == "user")
        ].to_dict("records")
        assert (one["count"], one["distinct"]) == (len(rows), rows["user"].nunique())


def test_the_bits_are_the_same_in_any_order_of_arrival():
    table, cuts = table_of(5_000), [10, 11, 2_000, 2_500, 4_000, 4_999]
    first = merged(table, cuts)
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(len(cuts) + 1).tolist()
        pd.testing.assert_frame_equal(merged(table, cuts, order), first, check_exact=True)


@pytest.mark.parametrize("cuts", [[], [1], [2_500], list(range(100, 5_000, 100))])
def test_statistics_have_the_bits_of_the_serial_engine(cuts):
    table = table_of(5_000)
    columns, expected = counted_serially(table)
    found = merged(table, cuts)
    checked = 0
    for one in found.to_dict("records"):
        key, field = (None if pd.isna(one[name]) else one[name] for name in ("key", "field"))
        row = dict(zip(columns[2:], expected[key, field], strict=True))
        for name in set(row) & set(one):
            value = None if pd.isna(one[name]) else one[name]
            if name != "approximate":
                assert value == (None if row[name] is None or row[name] != row[name] else row[name]), (key, field, name)
            checked += 1
    assert checked > 100
    assert len(found) == len(expected)


def test_columns_that_do_not_fit_are_named():
    for table, problem in (
        (pd.DataFrame({"a": [1]}), "there is no column 'x'; the columns are a"),
        (table_of(3).assign(x=["1", "2", "3"]), "column 'x' has values of type"),
        (table_of(3).assign(x=[1, np.inf, 2]), "column 'x' has an infinite value"),
        (table_of(3).assign(key=[[1], "a", 2]), "column 'key' has values that cannot be compared"),
    ):
        with pytest.raises(ValueError, match=problem):
            WANTED(table)
    with pytest.raises(ValueError, match="column 'user' has more than 5 different values by key"):
        dataclasses.replace(WANTED, most_distinct=5)(table_of(100))
    few = dataclasses.replace(WANTED, most_distinct=60)
    with pytest.raises(ValueError, match="column 'user' has more than 60 different values by key"):
        few.merge(few(table_of(40, 1)), few(table_of(40, 2)))


@pytest.mark.parametrize(
    "wrong", [{"values": "x"}, {"percents": (0,)}, {"percents": (50.5,)}, {"values": ("x",), "by": "x"}]
)
def test_what_cannot_be_counted_is_refused(wrong):
    with pytest.raises(ValueError):
        Statistics(**wrong)


def test_what_a_page_is_shown_is_json_and_has_the_largest_keys():
    table = pd.DataFrame({"key": [f"k{n % 80:02}" for n in range(200)], "x": 0.1})
    wanted = Statistics(("x",), "key")
    shown = wanted.show(wanted(table))
    assert shown["keys"] == 80
    assert shown["columns"] == ["key", "field", "count", "sum", "mean", "min", "max", "std"]
    assert len(shown["data"]) == 2 * 51
    assert shown["data"][0] == [None, None, 200, *[None] * 5]
    assert ["k00", "x", 3, 0.30000000000000004, 0.1, 0.1, 0.1, 0.0] in shown["data"]
