"""Reads events from a file or a pipe in batches, as they arrive, with the line of each event."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pushsvc.errors import Fault, InvalidInput
from pushsvc.event import Event, Limits, guess_media_type, parse

JSON, NDJSON, CSV = "application/json", "application/x-ndjson", "text/csv"
FORMATS = {"csv": CSV, "ndjson": NDJSON, "jsonl": NDJSON, "json": JSON}
"""Media types by format names, which are also the usual file name extensions."""

MAX_RECORD = 8_000_000
"""Bytes of one record."""

_READ = 65_536
_NO_LIMIT = 1 << 40
# The server enforces its own limits; these must only not be lower.
_LIMITS = Limits(body=_NO_LIMIT, batch=_NO_LIMIT, key=_NO_LIMIT, type=_NO_LIMIT, id=_NO_LIMIT, name=_NO_LIMIT,
                 fields=_NO_LIMIT, depth=64)  # fmt: skip
_NO_FUTURE = 1 << 47


@dataclass(frozen=True, slots=True)
class FileBatch:
    """Events and the line of each (in a JSON array its element), and the faults of ``rejected`` other events.

    ``size`` is the number of bytes read for it.
    """

    events: list[Event]
    lines: list[int]
    faults: list[Fault]
    rejected: int
    size: int


class RecordSplitter:
    """Splits bytes into records: lines, or CSV rows whose quoted cells may contain line ends. Skips empty lines."""

    def __init__(self, *, quoted: bool, max_record: int = MAX_RECORD) -> None:
        self._quoted = quoted
        self._max_record = max_record
        self._line = 1
        self._tail = b""
        self._open: list[bytes] = []
        self._size = 0
        self._inside = False

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield the number of the first line and the bytes of each complete record.

        Raise InvalidInput for a record that is longer than the limit.
        """
        *lines, self._tail = (self._tail + data).split(b"\n")
        for line in lines:
            self._open.append(line + b"\n")
            self._size += len(line)
            self._inside ^= self._quoted and line.count(b'"') % 2 == 1
            if not self._inside:
                yield from self._close()
        if self._size + len(self._tail) > self._max_record:
            raise InvalidInput(f"line {self._line}: a record without an end; is a quote or a line end missing?")

    def end(self) -> Iterator[tuple[int, bytes]]:
        """Yield the last record if it has no line end."""
        if self._tail:
            self._open.append(self._tail + b"\n")
        yield from self._close()

    def _close(self) -> Iterator[tuple[int, bytes]]:
        record, count = b"".join(self._open), len(self._open)
        if record.strip():
            yield self._line, record
        self._line += count
        self._open, self._size, self._inside = [], 0, False


def read(descriptor: int, media_type: str | None, columns: Mapping[str, str]) -> Iterator[FileBatch]:
    """Yield the events of a file or pipe as they arrive. Without ``media_type``, the first bytes decide the format.

    ``columns`` are those of ``parse``. Raise InvalidInput where the input as a whole cannot be read.
    """
    first = os.read(descriptor, _READ)
    kind = media_type or _guess(first)
    if kind == JSON:
        yield _read_whole(descriptor, first)
        return
    if columns and kind != CSV:
        raise InvalidInput("only CSV has columns to name; other events have the members id, key, time and type")
    records = RecordSplitter(quoted=kind == CSV)
    header, size = b"", 0
    data = first
    while True:
        size += len(data)
        complete = list(records.feed(data) if data else records.end())
        if kind == CSV and not header and complete:
            header = complete.pop(0)[1]
        if complete:
            yield _parse(complete, kind, header, columns, size)
            size = 0
        if not data:
            return
        data = os.read(descriptor, _READ)


def _guess(first: bytes) -> str:
    text = first.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text.startswith(b"{"):
        line = text.partition(b"\n")[0].rstrip()
        return NDJSON if line.endswith(b"}") else guess_media_type(text)
    return JSON if text.startswith(b"[") else CSV


def _parse(
    records: list[tuple[int, bytes]], kind: str, header: bytes, columns: Mapping[str, str], size: int
) -> FileBatch:
    """Parse complete records; number events and faults by the lines of the file."""
    body = header + b"".join(record for _, record in records)
    parsed = parse(body, kind, now=_NO_FUTURE, columns=columns, limits=_LIMITS)
    position = header.count(b"\n") + 1
    lines = {}
    for line, record in records:
        for within in range(record.count(b"\n")):
            lines[position + within] = line + within
        position += record.count(b"\n")
    faults = [Fault(lines.get(fault.line, fault.line), fault.field, fault.detail) for fault in parsed.faults]
    return FileBatch(parsed.events, [lines.get(line, line) for line in parsed.lines], faults, parsed.rejected, size)


def _read_whole(descriptor: int, first: bytes) -> FileBatch:
    parts = [first]
    while data := os.read(descriptor, _READ):
        parts.append(data)
    body = b"".join(parts)
    parsed = parse(body, JSON, now=_NO_FUTURE, limits=_LIMITS)
    return FileBatch(parsed.events, parsed.lines, parsed.faults, parsed.rejected, len(body))
