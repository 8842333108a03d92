"""Events of files and pipes: their formats, their lines, and when they are sent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pushsvc.cli.publish import EventSender, RecordSplitter, ReplayClock, read
from pushsvc.errors import InvalidBatch, InvalidInput
from pushsvc.event import Event, ParsedEvents
from pushsvc.event.formats import CSV, JSON, NDJSON


def records(text: bytes, *, step: int, **options: Any) -> list[tuple[int, bytes]]:
    splitter = RecordSplitter(**options)
    found = [record for at in range(0, len(text), step) for record in splitter.feed(text[at : at + step])]
    return [*found, *splitter.end()]


@pytest.mark.parametrize("step", [1, 2, 3, 1000])
def test_records_and_lines_do_not_depend_on_the_reads(step: int) -> None:
    assert records(b"a\r\n\n\nb\nc", quoted=False, step=step) == [(1, b"a\r\n"), (4, b"b\n"), (5, b"c\n")]
    text = b'a,"b\n""c"\nd\n\n"e\n\nf"\ng,"h"'
    assert records(text, quoted=True, step=step) == [
        (1, b'a,"b\n""c"\n'), (3, b"d\n"), (5, b'"e\n\nf"\n'), (8, b'g,"h"\n'),
    ]  # fmt: skip


def test_an_unclosed_quote_is_an_error_at_the_record_limit() -> None:
    with pytest.raises(InvalidInput, match="line 2: a record without an end"):
        records(b'a\n"b\n' + b"c,d\n" * 1_000, quoted=True, max_record=1_000, step=100)


def read_file(
    tmp_path: Path, text: bytes, media_type: str | None = None, **columns: str
) -> Iterator[tuple[ParsedEvents, int]]:
    path = tmp_path / "events"
    path.write_bytes(text)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield from read(descriptor, media_type, columns)
    finally:
        os.close(descriptor)


def batches(tmp_path: Path, text: bytes, media_type: str | None = None, **columns: str) -> list[ParsedEvents]:
    return [batch for batch, _ in read_file(tmp_path, text, media_type, **columns)]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (b'{"x":1}\n\n{"x":2}\n', [1, 3]),
        (b'\xef\xbb\xbf{"x":1}\n{"x":2}', [1, 2]),
        (b'[{"x":1},\n{"x":2}]', [1, 2]),
        (b"x\n1\n\n2\n", [2, 4]),
        (b"\xef\xbb\xbfx\r\n1\r\n2", [2, 3]),
        (b'{\n "x": 1\n}', [1]),
        (b'{"x":1}', [1]),
    ],
)
def test_the_content_decides_the_format(tmp_path: Path, text: bytes, lines: list[int]) -> None:
    found = list(batches(tmp_path, text))
    assert [line for batch in found for line in batch.lines] == lines
    assert [event.data["x"] for batch in found for event in batch.events] == [1, 2][: len(lines)]
    assert sum(size for _, size in read_file(tmp_path, text)) == len(text)


def test_csv_may_have_stray_carriage_returns(tmp_path: Path) -> None:
    """The csv module ends a line at a carriage return, but the file has no such line."""
    [batch] = batches(tmp_path, b"x\r\r\n1\r\r\n2\r\r\n", CSV)
    assert [event.data["x"] for event in batch.events] == [1, 2]


def test_columns_become_attributes_and_faults_have_the_lines_of_the_file(tmp_path: Path) -> None:
    text = b'when,"who",x\n2026-01-01T00:00:00Z,"a,b",1\nyesterday,b,2\n\n2026-01-01T00:00:01Z,c,3\n'
    [batch] = batches(tmp_path, text, CSV, time="when", key="who")
    assert [(event.key, event.time, event.data) for event in batch.events] == [
        ("a,b", 1767225600000, {"x": 1}),
        ("c", 1767225601000, {"x": 3}),
    ]
    assert batch.lines == [2, 5]
    assert [(fault.line, fault.field) for fault in batch.faults] == [(3, "time")]
    assert batch.rejected == 1


def test_lines_count_from_the_start_of_the_file_in_every_batch(tmp_path: Path) -> None:
    row = b"x" * 99 + b",2\n"
    text = b"a,b\n" + row * 2_000 + b"oops\n" + row
    found = list(batches(tmp_path, text, CSV))
    assert len(found) > 3
    assert sum(len(batch.events) for batch in found) == 2_001
    assert [fault.line for batch in found for fault in batch.faults] == [2_002]
    assert found[-1].lines[-1] == 2_003


def test_the_servers_limits_are_not_applied_by_the_client(tmp_path: Path) -> None:
    [batch] = batches(tmp_path, b'{"key":"%s","time":"2090-01-01T00:00:00Z"}' % (b"k" * 5_000), JSON)
    assert batch.rejected == 0


@pytest.mark.parametrize("text", [b"", b"\n", b"[]", b"{", b'{"x":1}{"x":2}'])
def test_unreadable_input_raises(tmp_path: Path, text: bytes) -> None:
    with pytest.raises(InvalidInput):
        batches(tmp_path, text, JSON)


def test_only_csv_has_columns(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="only CSV"):
        batches(tmp_path, b'{"x":1}', NDJSON, key="k")
    with pytest.raises(InvalidInput, match="no column 'k'"):
        batches(tmp_path, b"x\n1\n", CSV, key="k")


def test_a_bad_event_raises_with_its_line(tmp_path: Path) -> None:
    [batch] = batches(tmp_path, b'{"x":1}\nnonsense\n', NDJSON)
    with pytest.raises(InvalidBatch, match="line 2: not JSON"):
        EventSender(None, "t", skip=False, replay=None, on_fault=pytest.fail).send(batch)  # type: ignore[arg-type]


def test_the_replay_clock_moves_the_first_event_to_now_and_divides_distances() -> None:
    replay = ReplayClock(10)
    assert replay.due(Event(time=1_000_000), 50.0) == 50.0
    assert replay.due(Event(time=1_020_000), 50.5) == 52.0
    assert replay.due(Event(time=990_000), 53.0) == 49.0
    with pytest.raises(InvalidInput, match="--time"):
        replay.due(Event(), 54.0)
