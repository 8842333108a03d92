"""Frames and events as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

import pytest

from pushsvc.table import EventTable, TooManyCells, cell, frames_to_csv

COLUMNS = ["key", "field", "count", "mean", "min"]
ROWS = [[None, None, 3, None, None], [None, "rating", 2, 4.25, 4], ["pizza", "rating", 2, 4.25, 4]]


def of_frames(*frames: dict[str, Any], safe: bool = False) -> str:
    return b"".join(frames_to_csv(frames, lambda: None, safe=safe)).decode()


def of_events(events: Sequence[dict[str, Any]], *, most: int = 1_000, safe: bool = False) -> str:
    table = EventTable(most, safe=safe)
    for event in events:
        table.add(event)
    return b"".join(table.pieces()).decode()


def read(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline="")))


def test_whole_numbers_stay_whole_and_missing_values_are_empty() -> None:
    assert of_frames({"window": "1m", "columns": COLUMNS, "data": ROWS}) == (
        "window,scope,key,field,count,mean,min\n"
        "1m,events,,,3,,\n1m,all,,rating,2,4.25,4\n1m,key,pizza,rating,2,4.25,4\n"
    )


def test_records_become_the_same_table_as_rows() -> None:
    records = [dict(zip(COLUMNS, row, strict=True)) for row in ROWS]
    assert of_frames({"window": "1m", "columns": COLUMNS, "data": records}) == of_frames(
        {"window": "1m", "columns": COLUMNS, "data": ROWS}
    )


def test_lists_are_json() -> None:
    columns = ["key", "field", "count", "top", "first", "approximate"]
    rows = [[None, "v", 3, [["x, y", 2], [2**53 + 1, 1]], True, False], ["a", None, 1, None, None, False]]
    assert of_frames({"window": "1m", "columns": columns, "data": rows}) == (
        "window,scope,key,field,count,top,first,approximate\n"
        '1m,all,,v,3,"[[""x, y"",2],[9007199254740993,1]]",true,false\n'
        "1m,events,a,,1,,,false\n"
    )


def test_several_windows_become_one_table_with_scopes() -> None:
    frames = [{"window": name, "columns": COLUMNS, "data": ROWS} for name in ("1m", "5m")]
    rows = list(csv.DictReader(io.StringIO(of_frames(*frames, {"window": "15m", "columns": COLUMNS, "data": []}))))
    assert [row["window"] for row in rows] == ["1m"] * 3 + ["5m"] * 3
    assert [row["scope"] for row in rows] == ["events", "all", "key"] * 2


def test_each_row_of_a_frame_can_pause() -> None:
    pauses: list[None] = []
    lines = frames_to_csv([{"window": "1m", "columns": COLUMNS, "data": ROWS}] * 2, lambda: pauses.append(None))
    assert len(list(lines)) == 7
    assert len(pauses) == 6


def test_event_columns_are_attributes_then_fields_by_appearance() -> None:
    events = [
        {"$topic": "t", "$offset": 1, "time": "2026-01-01T00:00:00.000Z", "type": "message", "b": 2**64 - 1, "a": True},
        {"$topic": "t", "$offset": 2, "time": "2026-01-01T00:00:01.000Z", "type": "x", "id": "i", "key": "k, 1",
         "c": {"d": [1, None]}, "b": None},
    ]  # fmt: skip
    assert of_events(events) == (
        "$offset,time,type,id,key,b,a,c\n"
        "1,2026-01-01T00:00:00.000Z,message,,,18446744073709551615,true,\n"
        '2,2026-01-01T00:00:01.000Z,x,i,"k, 1",,,"{""d"":[1,null]}"\n'
    )


def test_no_events_become_a_header() -> None:
    assert of_events([]) == "$offset,time,type,id,key\n"
    assert of_frames({"window": "1m", "columns": COLUMNS, "data": []}) == "window,scope,key,field,count,mean,min\n"


def test_any_text_is_read_back_unchanged() -> None:
    texts = ['a"b', "a,b", "a\nb", "a\rb", "a\r\nb", " a ", "'a", "", "\u2028", "=1", "-1"]
    text = of_events([{"note": note} for note in texts])
    assert [row["note"] for row in csv.DictReader(io.StringIO(text, newline=""))] == texts


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx", '=HYPERLINK("http://a","b")'])
def test_text_that_a_spreadsheet_would_run_is_escaped(text: str) -> None:
    assert read(cell(text)) == [[text]]
    assert read(cell(text, safe=True)) == [["'" + text]]
    assert read(of_events([{text: text}], safe=True)) == [
        ["$offset", "time", "type", "id", "key", "'" + text],
        ["", "", "", "", "", "'" + text],
    ]


def test_numbers_are_never_escaped() -> None:
    assert [cell(value, safe=True) for value in (-1, -1.5, 2**64 - 1, None, False)] == [
        "-1", "-1.5", "18446744073709551615", "", "false",
    ]  # fmt: skip


def test_a_table_has_a_bounded_number_of_cells() -> None:
    table = EventTable(60)
    rows = [{"$offset": n, **{f"n{n}-{i}": "x" for i in range(5)}} for n in range(4)]
    table.add(rows[0])
    table.add(rows[1])
    table.add(rows[2])  # 3 rows of 20 columns
    with pytest.raises(TooManyCells) as refused:
        table.add(rows[3])
    assert (refused.value.rows, refused.value.columns) == (3, 25)
    assert [len(row) for row in csv.reader(io.StringIO(b"".join(table.pieces()).decode()))] == [20] * 4
