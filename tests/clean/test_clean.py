"""Rules applied to tables: what each changes and refuses, and how wrong rules are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pushsvc.clean import Cleaned, InvalidRules, Rules, clean


def cleaned(column: list[Any], **rule: Any) -> Cleaned:
    """Clean one column ``v`` by one rule."""
    return clean(pd.DataFrame({"v": column}, dtype=object), [{"field": "v", **rule}])


def values_of(result: Cleaned) -> list[Any]:
    return [None if pd.isna(value) else value for value in result.table["v"]]


@pytest.mark.parametrize(
    ("rule", "values", "clean_values", "changed", "refused"),
    [
        ({"rule": "text"}, [" a  b ", "a b", None, 4], ["a b", "a b", None, 4], 1, []),
        ({"rule": "text", "case": "lower", "replace": {"piza": "pizza"}}, ["Piza", "pizza"], ["pizza"] * 2, 1, []),
        ({"rule": "missing", "values": ["n/a"], "otherwise": "refuse"}, ["N/A ", "x", " ", None], ["x"], 0, [0, 2, 3]),
        ({"rule": "missing", "values": ["-"]}, ["-", "x", None], [None, "x", None], 1, []),
        ({"rule": "missing", "otherwise": "fill", "fill": "none"}, ["x", None, ""], ["x", "none", "none"], 2, []),
        ({"rule": "missing", "otherwise": "fill", "fill_by": "median"}, [1, None, 3, 8], [1, 3, 3, 8], 1, []),
        ({"rule": "missing", "otherwise": "fill", "fill_by": "mean"}, ["1", None, "5"], ["1", 3, "5"], 1, []),
        ({"rule": "missing", "otherwise": "fill", "fill_by": "previous"}, [None, 1, None], [None, 1, 1], 1, []),
        ({"rule": "type", "type": "number"}, ["4", " 4.5", "1e3", "x", None], [4, 4.5, 1000, None], 1, [3]),
        ({"rule": "type", "type": "number", "otherwise": "remove"}, ["4", "x", "inf"], [4, None, None], 2, []),
        (
            {"rule": "type", "type": "number", "strip": "€ ", "decimal": ",", "thousands": "."},
            ["1.234,50 €", "7"], [1234.5, 7], 1, [],
        ),
        ({"rule": "type", "type": "number", "decimal": ","}, ["1,5", "1.5"], [1.5], 1, [1]),
        ({"rule": "type", "type": "number", "decimal": ".,"}, ["1,5", "1.5", "1.5,0"], [1.5, 1.5], 1, [2]),
        ({"rule": "type", "type": "integer"}, ["4", "4.0", "4.5", "9007199254740993"], [4, 4], 0, [2, 3]),
        ({"rule": "type", "type": "boolean"}, ["yes", "FALSE", "1", "maybe", 0], [True, False, True, False], 0, [3]),
        ({"rule": "type", "type": "text"}, [4, "x", None], ["4", "x", None], 0, []),
        ({"rule": "range", "min": 1, "max": 5}, [0, 1, "5", 6, None], [1, "5", None], 0, [0, 3]),
        ({"rule": "range", "max": 5, "otherwise": "remove"}, [4, 9], [4, None], 1, []),
        ({"rule": "range", "min": 1, "max": 5, "otherwise": "clip"}, [-3, 2, 9], [1, 2, 5], 2, []),
        ({"rule": "allowed", "values": ["a", 1]}, ["a", "b", 1, None], ["a", 1, None], 0, [1]),
        ({"rule": "allowed", "values": ["a"], "otherwise": "remove"}, ["a", "b"], ["a", None], 1, []),
    ],
)  # fmt: skip
def test_each_rule_changes_and_refuses_what_it_says(
    rule: dict[str, Any], values: list[Any], clean_values: list[Any], changed: int, refused: list[int]
) -> None:
    result = cleaned(values, **rule)
    assert values_of(result) == clean_values
    assert (result.report[0].changed, result.report[0].refused, result.report[0].rows) == (
        changed,
        len(refused),
        refused,
    )
    assert list(result.refused.index) == refused
    assert [*result.refused["v"]] == [values[row] for row in refused], "refused rows stay as they came"


@pytest.mark.parametrize(
    ("rule", "values", "times"),
    [
        ({}, ["2026-01-31T10:00:00Z", "2026-01-31T10:00:00+01:00", "2026-01-31"], ["10:00", "09:00", "00:00"]),
        ({"formats": ["%d.%m.%Y %H:%M", "%H:%M %d/%m/%y"]}, ["31.01.2026 10:00", "11:00 31/01/26"], ["10:00", "11:00"]),
        ({"zone": "Europe/Berlin"}, ["2026-01-31T10:00", "2026-01-31T10:00Z"], ["09:00", "10:00"]),
        ({"unit": "s"}, [1769853600, "1769853660.5"], ["10:00", "10:01"]),
        ({"unit": "auto"}, [1769853600, 1769853600_000, 1769853600 * 10**6, 1769853600 * 10**9], ["10:00"] * 4),
    ],
)
def test_times_become_utc(rule: dict[str, Any], values: list[Any], times: list[str]) -> None:
    found = cleaned(values, rule="time", **rule)
    assert [f"{time:%H:%M}" for time in found.table["v"]] == times
    assert {f"{time:%Y-%m-%d}" for time in found.table["v"]} == {"2026-01-31"}


@pytest.mark.parametrize(
    ("rule", "value"),
    [
        ({}, "yesterday"),
        ({}, "1500-01-01x"),
        ({"unit": "s"}, "soon"),
        ({"unit": "s"}, 1e300),
        ({"unit": "auto"}, float("inf")),
        ({"zone": "Europe/Berlin"}, "2026-10-25T02:30:00"),
        ({"zone": "Europe/Berlin"}, "2026-03-29T02:30:00"),
    ],
)
def test_what_is_no_time_is_refused_or_removed(rule: dict[str, Any], value: Any) -> None:
    assert cleaned([value, None], rule="time", **rule).report[0].rows == [0]
    assert values_of(cleaned([value], rule="time", otherwise="remove", **rule)) == [None]


def test_bounds_of_times_are_texts() -> None:
    table = pd.DataFrame({"at": ["2025-12-31T23:59Z", "2026-01-01T00:00Z"]})
    rules = [{"rule": "time", "field": "at"}, {"rule": "range", "field": "at", "min": "2026-01-01"}]
    assert list(clean(table, rules).table.index) == [1]


def test_duplicates_keep_the_first_or_the_last() -> None:
    table = pd.DataFrame({"a": [1, 1, 2], "b": ["x", "y", "x"]}, index=[10, 20, 30])
    assert list(clean(table, [{"rule": "duplicates"}]).refused.index) == []
    assert list(clean(table, [{"rule": "duplicates", "field": "a"}]).refused.index) == [20]
    assert list(clean(table, [{"rule": "duplicates", "field": "a", "keep": "last"}]).refused.index) == [10]


@pytest.mark.parametrize("method", ["iqr", "zscore"])
@pytest.mark.parametrize("by", [None, "group"])
def test_outliers_are_those_of_the_formula(method: str, by: str | None) -> None:
    random = np.random.default_rng(7)
    table = pd.DataFrame(
        {"v": random.standard_t(2, 400), "group": random.choice(["a", "b", "few"], 400, p=[0.6, 0.39, 0.01])}
    )
    wanted: list[int] = []
    for _, group in table.groupby(by) if by else [(None, table)]:
        values = group["v"].to_numpy()
        low, high = np.quantile(values, [0.25, 0.75]) if method == "iqr" else [values.mean()] * 2
        reach = 1.5 * (high - low) if method == "iqr" else 3 * values.std()
        if len(values) >= 8:
            wanted += list(group.index[(values < low - reach) | (values > high + reach)])
    rule = {"rule": "outliers", "field": "v", "method": method} | ({"by": by} if by else {})
    result = clean(table, [rule])
    assert list(result.refused.index) == sorted(wanted)
    assert wanted, "the example has outliers"
    clipped = clean(table, [rule | {"otherwise": "clip"}])
    assert clipped.report[0].changed == len(wanted)
    assert len(clipped.table) == 400
    assert clipped.table["v"].drop(wanted).equals(table["v"].drop(wanted))


def test_rules_apply_in_their_order_to_what_is_left() -> None:
    table = pd.DataFrame({"dish": ["Pizza ", "pizza", None, "soup"], "rating": ["4", "4", "5", "55"]})
    before = table.copy()
    seen: list[str] = []
    result = clean(
        table,
        [
            {"rule": "missing", "field": "dish", "otherwise": "refuse", "name": "a dish is named"},
            {"rule": "text", "field": "dish", "case": "lower"},
            {"rule": "type", "field": "rating", "type": "integer"},
            {"rule": "range", "field": "rating", "min": 1, "max": 5},
            {"rule": "duplicates"},
        ],
        seen.append,
    )
    assert result.table.to_dict("records") == [{"dish": "pizza", "rating": 4}]
    assert result.refused["refused_by"].to_dict() == {
        1: "duplicates of all fields", 2: "a dish is named", 3: "range of rating",
    }  # fmt: skip
    assert [entry.rule for entry in result.report] == seen
    pd.testing.assert_frame_equal(table, before)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"rule": "no such"}, "rule 1: `rule` is one of text, missing, type"),
        ({"rule": "range", "field": "v"}, "rule 1: it needs `min` or `max`"),
        ({"rule": "range", "field": "v", "max": 5, "name": "low"}, r"rule 1 \(low\): 'x' is not a number"),
        ({"rule": "range", "field": "n", "max": "z"}, r"rule 1 \(range of n\): 'z' cannot be compared with numbers"),
        ({"rule": "range", "field": "w", "max": 5}, r"\(range of w\): there is no column 'w'; the columns are v, n"),
        ({"rule": "outliers", "field": "n", "by": "w"}, "there is no column 'w'"),
        ({"rule": "outliers", "field": "n", "limit": 0}, "rule 1, limit: "),
        ({"rule": "text", "fields": []}, "rule 1, fields: "),
        ({"rule": "text", "field": "v", "cases": "x"}, "rule 1: .*`cases`"),
        ({"rule": "missing", "field": "v", "otherwise": "fill"}, "rule 1: otherwise = \"fill\" takes"),
        ({"rule": "time", "field": "v", "zone": "Mars/Base"}, "rule 1: `zone` 'Mars/Base' is not known"),
        ({"rule": "time", "field": "v", "unit": "s", "formats": ["%Y"]}, "rule 1: `formats` are for text"),
        ({"rule": "type", "field": "v", "type": "number", "decimal": ",", "thousands": ","}, "have the same character"),
        ("text", "rule 1: "),
    ],
)  # fmt: skip
def test_a_wrong_rule_is_named(rule: Any, message: str) -> None:
    with pytest.raises(InvalidRules, match=message):
        clean(pd.DataFrame({"v": ["x"], "n": [1]}), [rule])


def test_a_table_must_name_its_rows_and_columns() -> None:
    with pytest.raises(InvalidRules, match="same label"):
        clean(pd.DataFrame({"v": [1, 2]}, index=[0, 0]), [])
    with pytest.raises(InvalidRules, match="two columns are named 'v'"):
        clean(pd.DataFrame([[1, 2]], columns=["v", "v"]), [])
    with pytest.raises(InvalidRules, match="does not fit"):
        clean(pd.DataFrame({"v": [{}, {}], "w": [1, 1]}), [{"rule": "duplicates"}])
    half = pd.DataFrame([["\ud800"], [None]], columns=["v"], dtype=object)
    with pytest.raises(InvalidRules, match=r"rule 1 \(text of v\) does not fit.*surrogates not allowed"):
        clean(half, [{"rule": "text", "field": "v", "case": "lower"}])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rules = 3", "tables"),
        ("[[rule]]\nrule = 'text'", "tables"),
        ("[[rules]]\nrule = 'text'\nfield =", "not TOML"),
        ("[[rules]]\nrule = 'text'\nfield = 'a'\n[[rules]]\nrule = 'x'", "rule 2: "),
    ],
)
def test_a_wrong_file_of_rules_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "rules.toml"
    path.write_text(text)
    with pytest.raises(InvalidRules, match=message):
        Rules.read(path)
