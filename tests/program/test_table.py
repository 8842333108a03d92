"""Frames and events as tables and as CSV."""

from __future__ import annotations

import pytest

pd = pytest.importorskip("pandas")

from pushsvc.table import events_to_table, frame_to_table, frames_to_table, table_to_csv  # noqa: E402

COLUMNS = ["key", "field", "count", "mean", "min"]
ROWS = [[None, None, 3, None, None], [None, "rating", 2, 4.25, 4], ["pizza", "rating", 2, 4.25, 4]]


def test_a_frame_becomes_a_table_with_its_columns() -> None:
    table = frame_to_table({"columns": COLUMNS, "data": ROWS})
    assert list(table.columns) == COLUMNS
    assert table.to_numpy().tolist() == ROWS


def test_records_become_the_same_table_as_rows() -> None:
    records = [dict(zip(COLUMNS, row, strict=True)) for row in ROWS]
    assert frame_to_table({"columns": COLUMNS, "data": records}).to_numpy().tolist() == ROWS


def test_csv_keeps_whole_numbers_and_leaves_missing_values_empty() -> None:
    assert table_to_csv(frame_to_table({"columns": COLUMNS, "data": ROWS})) == (
        "key,field,count,mean,min\n,,3,,\n,rating,2,4.25,4\npizza,rating,2,4.25,4\n"
    )


def test_csv_writes_lists_as_json() -> None:
    columns = ["key", "field", "count", "top", "first", "approximate"]
    rows = [[None, "v", 3, [["x, y", 2], [2**53 + 1, 1]], True, False], ["a", None, 1, None, None, False]]
    frame = {"window": "1m", "columns": columns, "data": rows}
    assert frame_to_table(frame).to_numpy().tolist() == rows
    assert table_to_csv(frames_to_table([frame])) == (
        "window,scope,key,field,count,top,first,approximate\n"
        '1m,all,,v,3,"[[""x, y"",2],[9007199254740993,1]]",true,false\n'
        "1m,events,a,,1,,,false\n"
    )


def test_several_windows_become_one_table_with_scopes() -> None:
    frames = [{"window": name, "columns": COLUMNS, "data": ROWS} for name in ("1m", "5m")]
    table = frames_to_table([*frames, {"window": "15m", "columns": COLUMNS, "data": []}])
    assert list(table.columns) == ["window", "scope", *COLUMNS]
    assert list(table["window"]) == ["1m"] * 3 + ["5m"] * 3
    assert list(table["scope"]) == ["events", "all", "key"] * 2


def test_event_columns_are_attributes_then_fields_by_appearance() -> None:
    events = [
        {"$topic": "t", "$offset": 1, "time": "2026-01-01T00:00:00.000Z", "type": "message", "b": 2**64 - 1, "a": True},
        {"$topic": "t", "$offset": 2, "time": "2026-01-01T00:00:01.000Z", "type": "x", "id": "i", "key": "k, 1",
         "c": {"d": [1, None]}, "b": None},
    ]  # fmt: skip
    assert table_to_csv(events_to_table(events)) == (
        "$offset,time,type,id,key,b,a,c\n"
        "1,2026-01-01T00:00:00.000Z,message,,,18446744073709551615,true,\n"
        '2,2026-01-01T00:00:01.000Z,x,i,"k, 1",,,"{""d"":[1,null]}"\n'
    )


def test_no_events_become_a_header() -> None:
    assert table_to_csv(events_to_table([])) == "$offset,time,type,id,key\n"
    assert table_to_csv(frame_to_table({"columns": COLUMNS, "data": []})) == ",".join(COLUMNS) + "\n"
