"""Columns have the values of the events, with and without a learned schema."""

import pytest

from pushsvc.event.columns import ColumnReader
from support.reference.columns import check, encode

T = 1_700_000_000_000


def test_columns_have_the_values_of_the_events():
    for items in [
        [{}],
        [{"x": 1}, {"x": 2.5, "key": "a"}],
        [{"x": 1, "time": T}, {"x": 2}],
        [{"x": None}, {"y": 1}],
        [{"x": 1}, {"x": None}, {"x": True}, {"x": "1"}, {"x": [1]}, {"x": {"y": 1}}],
        [{"x": "text"}, {"x": "more"}],
        [{"x": 2**53 + 1}, {"x": 2**64 - 1}, {"x": -(2**63)}, {"x": -0.0}, {"x": 1e-310}],
        [{"class": 1, "f0": 2, "g0": "a", "a b": 3, "": 4, "größe": 5}],
        [{"id": "i", "type": "vote", "key": "k", "x": 1}],
        [{f"f{n}": n} for n in range(100)],
        [{'"': 1}, {"\\": 2}, {"\n": 3}, {"\x7f": 4}, {"'": 5}, {"\u2028": 6}],
    ]:
        check(ColumnReader(), encode(*items))


def test_new_names_and_kinds_are_learned():
    reader = ColumnReader()
    for items in (
        [{"x": 1}],
        [{"x": 1, "y": 2}],
        [{"y": None}],
        [{"x": "no number", "key": "k"}],
        [{"x": 3}, {"z": False}],
        [{"z": 7}, {"time": T}],
        [{"x": 1}],
    ):
        check(reader, encode(*items))


def test_a_number_among_text_is_a_number():
    reader = ColumnReader()
    reader.read(encode({"x": "a"}, {"x": "b"}))
    assert reader.read(encode({"x": "a"}, {"x": 5})).fields["x"].values.tolist() == [5.0]


def test_invalid_data_raises_and_changes_nothing():
    reader = ColumnReader()
    reader.read(encode({"x": 1}))
    with pytest.raises(ValueError, match=r"JSON|column"):
        reader.read(b"nonsense")
    assert reader.read(encode({"x": 2})).fields["x"].values.tolist() == [2.0]


def test_events_without_numbers_have_no_columns():
    columns = ColumnReader().read(encode({"x": None}, {}))
    assert (columns.fields, columns.times, len(columns)) == ({}, None, 2)
    assert columns.keys == [[None, None]]


def test_each_grouping_has_its_keys():
    groupings = ("carrier", "origin", "carrier+origin", "stop", "type", "key")
    reader = ColumnReader(groupings)
    data = encode(
        {"carrier": "UA", "origin": "EWR", "stop": 7, "key": "k"},
        {"carrier": "UA", "stop": 7.0, "x": 1, "type": "late"},
        {"carrier": True, "origin": "", "stop": None},
    )
    check(reader, data, groupings)
    columns = reader.read(data)
    assert columns.keys == [
        ["UA", "UA", None], ["EWR", None, None], ["UA+EWR", None, None], ["7", "7.0", None],
        ["message", "late", "message"], ["k", None, None],
    ]  # fmt: skip
    assert columns.fields["stop"].values.tolist() == [7.0, 7.0]


def test_different_parts_make_different_keys():
    reader = ColumnReader(("a+b",))
    data = encode({"a": "x+y", "b": "z"}, {"a": "x", "b": "y+z"}, {"a": "x\\", "b": "y"}, {"a": "x", "b": "\\+y"})
    check(reader, data, ("a+b",))
    assert reader.read(data).keys == [["x\\+y+z", "x+y\\+z", "x\\\\+y", "x+\\\\\\+y"]]


def test_text_too_long_for_a_key_becomes_the_overflow_key():
    groupings = ("a", "a+b", "b")
    reader = ColumnReader(groupings)
    data = encode({"a": "x" * 201, "b": "y" * 200})
    check(reader, data, groupings)
    assert reader.read(data).keys == [["__other__"], ["__other__"], ["y" * 200]]


def test_values_keep_their_types():
    reader = ColumnReader(valued=("x", "y", "type"))
    data = encode({"x": 1, "y": ""}, {"x": 1.0}, {"x": True}, {"x": [1]}, {"x": {}}, {"x": None}, {"x": 2**64 - 1})
    check(reader, data, valued=("x", "y", "type"))
    values = reader.read(data).values
    assert repr(list(values["x"].values)) == repr([1, 1.0, True, None, None, None, 2**64 - 1])
    assert (list(values["y"].values), values["y"].mixed) == (["", *[None] * 6], False)
    assert list(values["type"].values) == ["message"] * 7
    assert reader.read(encode({"x": None, "y": None}, {})).values.keys() == {"type"}
