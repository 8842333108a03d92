"""Events of a file or a pipe on their way to a server: sent as they come, or paced by their own time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import orjson
from rich.console import Console
from rich.progress import Progress, TextColumn

from pushsvc.client import Client, ClientError
from pushsvc.errors import Fault, InvalidBatch, InvalidInput
from pushsvc.event import Event, Limits, guess_media_type, parse

JSON, NDJSON, CSV = "application/json", "application/x-ndjson", "text/csv"
FORMATS = {"csv": CSV, "ndjson": NDJSON, "jsonl": NDJSON, "json": JSON}
"""Media types by the names of formats, which are the usual endings of files too."""

BATCH = 1_000
"""Events of one request at most."""

LONGEST_RECORD = 8_000_000
"""Bytes."""

_READ = 65_536
_TOGETHER = 0.02
_NO_LIMIT = 1 << 40
# The server has the last word on sizes; here they only must not stand in its way.
_LIMITS = Limits(body=_NO_LIMIT, batch=_NO_LIMIT, key=_NO_LIMIT, type=_NO_LIMIT, id=_NO_LIMIT, name=_NO_LIMIT,
                 fields=_NO_LIMIT, depth=64)  # fmt: skip
_NO_FUTURE = 1 << 47
_SENT = TextColumn("{task.fields[sent]} events")


@dataclass(frozen=True, slots=True)
class Batch:
    """Events with the line each stood in (the element of a JSON array), and what was wrong with others.

    ``size`` is the number of bytes read for it.
    """

    events: list[Event]
    lines: list[int]
    faults: list[Fault]
    rejected: int
    size: int


class Records:
    """Cuts bytes into records: lines, but in CSV a quoted cell may hold line ends. Empty lines are skipped."""

    def __init__(self, *, quoted: bool) -> None:
        self._quoted = quoted
        self._line = 1
        self._tail = b""
        self._open: list[bytes] = []
        self._size = 0
        self._inside = False

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield the complete records with the number of their first line; raise InvalidInput for an endless one."""
        *lines, self._tail = (self._tail + data).split(b"\n")
        for line in lines:
            self._open.append(line + b"\n")
            self._size += len(line)
            self._inside ^= self._quoted and line.count(b'"') % 2 == 1
            if not self._inside:
                yield from self._close()
        if self._size + len(self._tail) > LONGEST_RECORD:
            raise InvalidInput(f"line {self._line}: a record without end; is a quote or a line end missing?")

    def end(self) -> Iterator[tuple[int, bytes]]:
        """Yield what has no line end behind it."""
        if self._tail:
            self._open.append(self._tail + b"\n")
        yield from self._close()

    def _close(self) -> Iterator[tuple[int, bytes]]:
        record, count = b"".join(self._open), len(self._open)
        if record.strip():
            yield self._line, record
        self._line += count
        (
            self._open,
            self._size,
            self._inside,
        ) = [], 0, False


def read(descriptor: int, media_type: str | None, columns: Mapping[str, str]) -> Iterator[Batch]:
    """Yield the events of a file or pipe as they arrive; ``media_type`` None is told from the first bytes.

    ``columns`` are those of ``parse``. Raises InvalidInput where nothing can be read at all.
    """
    first = os.read(descriptor, _READ)
    kind = media_type or _guess(first)
    if kind == JSON:
        yield from _read_whole(descriptor, first)
        return
    if columns and kind != CSV:
        raise InvalidInput("only CSV has columns to name; other events bear id, key, time and type themselves")
    records = Records(quoted=kind == CSV)
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


def _parse(records: list[tuple[int, bytes]], kind: str, header: bytes, columns: Mapping[str, str], size: int) -> Batch:
    """Parse complete records; the lines of faults become those of the file."""
    body = header + b"".join(record for _, record in records)
    parsed = parse(body, kind, now=_NO_FUTURE, columns=columns, limits=_LIMITS)
    place = header.count(b"\n") + 1
    lines = {}
    for line, record in records:
        for within in range(record.count(b"\n")):
            lines[place + within] = line + within
        place += record.count(b"\n")
    faults = [Fault(lines.get(fault.line, fault.line), fault.field, fault.detail) for fault in parsed.faults]
    bad = {fault.line for fault in faults}
    good = [line for line, record in records if bad.isdisjoint(range(line, line + record.count(b"\n")))]
    return Batch(parsed.events, good, faults, parsed.rejected, size)


def _read_whole(descriptor: int, first: bytes) -> Iterator[Batch]:
    parts = [first]
    while data := os.read(descriptor, _READ):
        parts.append(data)
    body = b"".join(parts)
    parsed = parse(body, JSON, now=_NO_FUTURE, limits=_LIMITS)
    bad = {fault.line for fault in parsed.faults}
    lines = [line for line in range(1, len(parsed.events) + len(bad) + 1) if line not in bad]
    yield Batch(parsed.events, lines, parsed.faults, parsed.rejected, len(body))


class Pace:
    """Moves events to now: the first becomes the present, the others keep their distance, divided by ``speed``."""

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._first: int | None = None
        self._start = 0.0

    def due(self, event: Event, now: float) -> float:
        """Return the moment (seconds since 1970) of an event, given the present; raise InvalidInput without time."""
        if event.time is None:
            raise InvalidInput("an event has no time to be replayed by: name its column with --time")
        if self._first is None:
            self._first, self._start = event.time, now
        return self._start + (event.time - self._first) / 1000 / self._speed


class Feed:
    """Sends batches to one topic and keeps the sums. ``totals`` is the receipt of everything sent so far."""

    def __init__(
        self, client: Client, topic: str, *, skip: bool, pace: Pace | None, on_fault: Callable[[str], None]
    ) -> None:
        self._client = client
        self._topic = topic
        self._skip = skip
        self._pace = pace
        self._on_fault = on_fault
        self._waiting: list[tuple[int, Event]] = []
        self.totals: dict[str, Any] = {"topic": topic, "accepted": 0, "duplicates": 0, "rejected": 0, "late": 0}

    def send(self, batch: Batch, on_progress: Callable[[], None] = lambda: None) -> None:
        """Send a batch, in time; raise InvalidBatch for a bad event (unless they are skipped), or ClientError."""
        if batch.rejected:
            if not self._skip:
                raise InvalidBatch(batch.faults, batch.rejected - len(batch.faults))
            self.totals["rejected"] += batch.rejected
            self._tell(batch.faults)
        for line, event in zip(batch.lines, batch.events, strict=False):
            if self._pace is not None:
                event = self._wait_for(event, self._pace)
                on_progress()
            self._waiting.append((line, event))
            if len(self._waiting) == BATCH:
                self.flush()
                on_progress()
        self.flush()
        on_progress()

    def flush(self) -> None:
        """Send what is held back."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        body = b"\n".join(_public(event) for _, event in waiting)
        try:
            receipt = self._client.publish(
                self._topic,
                body,
                NDJSON,
                repeatable=all(event.id is not None for _, event in waiting),
                on_error="skip" if self._skip else "refuse",
            )
        except ClientError as error:
            faults = _faults(error.problem, waiting)
            if not faults:
                raise
            raise InvalidBatch(faults, int(error.problem.get("more", 0))) from error
        self._tell(_faults(receipt, waiting))
        for name in ("accepted", "duplicates", "rejected", "late"):
            self.totals[name] += receipt.get(name, 0)
        self.totals.setdefault("first_offset", receipt.get("first_offset"))
        self.totals["last_offset"] = receipt.get("last_offset")

    def _wait_for(self, event: Event, pace: Pace) -> Event:
        due = pace.due(event, time.time())
        if due - time.time() > _TOGETHER:
            self.flush()
            time.sleep(max(0.0, due - time.time()))
        return msgspec.structs.replace(event, time=round(due * 1000))

    def _tell(self, faults: list[Fault]) -> None:
        for fault in faults:
            self._on_fault(str(InvalidBatch([fault])))


def _public(event: Event) -> bytes:
    """Return an event as a producer writes it."""
    flat = event.public("", 0, 0)
    del flat["$topic"], flat["$offset"]
    if event.time is None:
        del flat["time"]
    return orjson.dumps(flat)


def _faults(answer: Mapping[str, Any], sent: list[tuple[int, Event]]) -> list[Fault]:
    """Return a server's faults with the lines of our file."""
    return [
        Fault(sent[int(fault["line"]) - 1][0], fault.get("field"), str(fault.get("detail", "")))
        for fault in answer.get("errors", ())
    ]


def publish_file(feed: Feed, file: str, kind: str | None, columns: Mapping[str, str]) -> None:
    """Send a file's events, or those of the standard input (``-``), with a progress bar on a terminal.

    ``kind`` is a name of FORMATS; None is told from the file's name, else from its content.
    """
    media_type = FORMATS.get(kind or file.rpartition(".")[2].lower())
    descriptor = 0 if file == "-" else os.open(file, os.O_RDONLY)
    size = os.fstat(descriptor).st_size or None
    console = Console(stderr=True)
    with Progress(*Progress.get_default_columns(), _SENT, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(file, total=size, sent=0)
        try:
            for batch in read(descriptor, media_type, columns):
                feed.send(batch, lambda: progress.update(task, sent=feed.totals["accepted"]))
                progress.update(task, advance=batch.size)
        finally:
            if descriptor:
                os.close(descriptor)
