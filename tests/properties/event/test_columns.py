"""Columns of any series of entries, with and without a learned schema."""

from hypothesis import given
from hypothesis import strategies as st

from pushsvc.event.columns import ColumnReader
from support.reference.columns import check, encode

T = 1_700_000_000_000

values = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.text(max_size=3),
    st.floats(allow_nan=False, allow_infinity=False), st.just([1]), st.just({"x": 1}),
)  # fmt: skip
attributes = st.fixed_dictionaries({}, optional={"key": st.text(max_size=3), "time": st.integers(0, T)})
events = st.builds(
    dict.__or__,
    st.dictionaries(st.sampled_from(["x", "y", "type ", "f0"]) | st.text(max_size=2).filter("id".__ne__), values),
    attributes,
)


@given(st.lists(st.lists(events, min_size=1, max_size=5), max_size=5))
def test_columns_have_the_values_of_any_entries(entries):
    reader = ColumnReader()
    for items in entries:
        check(reader, encode(*items))


@given(st.lists(st.lists(events, min_size=1, max_size=5), max_size=4))
def test_columns_have_the_keys_of_any_entries(entries):
    groupings = ("x", "x+y", "key", "id+f0")
    reader = ColumnReader(groupings)
    for items in entries:
        check(reader, encode(*items), groupings)


@given(st.lists(st.lists(events, min_size=1, max_size=5), max_size=5), st.sampled_from([("key",), ("x", "key+y")]))
def test_value_columns_have_the_values_of_any_entries(entries, groupings):
    valued = ("x", "y", "f0", "key", "id", "type")
    reader = ColumnReader(groupings, valued)
    for items in entries:
        check(reader, encode(*items), groupings, valued)
