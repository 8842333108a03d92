"""Random tables and rules: every row is either clean or refused, and nothing but InvalidRules is raised."""

from __future__ import annotations

from typing import Any

import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from pushsvc.clean import InvalidRules, clean

CELLS = st.one_of(
    st.none(), st.integers(-(10**25), 10**25), st.floats(), st.booleans(), st.text(max_size=8),
    st.sampled_from(["1,5", "2026-01-31", " a", "NA", "1e400", "\ud800", "99999-01-01"]),
)  # fmt: skip
OTHERWISE = st.sampled_from(["refuse", "remove"])


def rule(kind: str, **members: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    field = st.sampled_from(["a", "b"])
    return st.fixed_dictionaries({"rule": st.just(kind), "field": field, **members})


RULES = st.one_of(
    rule("text", case=st.sampled_from(["keep", "lower", "title"])),
    rule("missing", values=st.lists(st.text(max_size=3), max_size=2), otherwise=OTHERWISE),
    rule("missing", otherwise=st.just("fill"), fill_by=st.sampled_from(["mean", "median", "previous"])),
    rule("type", type=st.sampled_from(["number", "integer", "boolean", "text"]), otherwise=OTHERWISE),
    rule("time", unit=st.sampled_from(["text", "s", "ns", "auto"]), otherwise=OTHERWISE),
    rule("duplicates"),
    rule("range", min=st.floats(allow_nan=False), otherwise=st.sampled_from(["refuse", "remove", "clip"])),
    rule("allowed", values=st.lists(st.one_of(st.text(max_size=3), st.integers(-9, 9)), max_size=2)),
    rule("outliers", method=st.sampled_from(["iqr", "zscore"]), least=st.just(2), otherwise=OTHERWISE),
)


@given(st.lists(st.tuples(CELLS, CELLS), max_size=12), st.lists(RULES, max_size=5))
def test_every_row_is_clean_or_refused(rows: list[tuple[Any, Any]], rules: list[dict[str, Any]]) -> None:
    table = pd.DataFrame(rows, columns=["a", "b"], dtype=object)
    try:
        result = clean(table, rules)
    except InvalidRules:
        return
    assert sorted([*result.table.index, *result.refused.index]) == list(range(len(rows)))
    assert sum(entry.refused for entry in result.report) == len(result.refused)
    assert result.refused[["a", "b"]].equals(table.loc[result.refused.index])
