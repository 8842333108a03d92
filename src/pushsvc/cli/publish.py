"""Reads events from a file or a pipe and sends them: as they arrive, or replayed by their own times."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec
import orjson
from rich.console import Console
from rich.progress import Progress, TextColumn

from pushsvc.client import Client, ClientError
from pushsvc.errors import Fault, InvalidBatch, InvalidInput
from pushsvc.event import Event, Limits, ParsedEvents, guess_media_type, parse
from pushsvc.event.formats import CSV, JSON, NDJSON

FORMATS = {"csv": CSV, "ndjson": NDJSON, "jsonl": NDJSON, "json": JSON}
"""Media types by format names, which are also the usual file name extensions."""

MAX_RECORD = 8_000_000  # bytes of one record
MAX_EVENTS = 1_000  # events of one request
_MAX_EARLY = 0.02  # seconds that a replayed event may be sent too early, so that close events share a request
_READ = 65_536
_NO_LIMIT = 1 << 40
# The server enforces its own limits; these must only not be lower.
EVENT_LIMITS = Limits(body=_NO_LIMIT, batch=_NO_LIMIT, key=_NO_LIMIT, type=_NO_LIMIT, id=_NO_LIMIT, name=_NO_LIMIT,
                      fields=_NO_LIMIT, depth=64)  # fmt: skip
NO_FUTURE = 1 << 47
_SENT = TextColumn("{task.fields[sent]} events")


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


def read(descriptor: int, media_type: str | None, columns: Mapping[str, str]) -> Iterator[tuple[ParsedEvents, int]]:
    """Yield the events of a file or pipe as they arrive, with the number of bytes that were read for them.

    ``lines`` are those of the file (in a JSON array its elements). Without ``media_type``, the first bytes decide the
    format. ``columns`` are those of ``parse``. Raise InvalidInput where the input as a whole cannot be read.
    """
    first = os.read(descriptor, _READ)
    kind = media_type or guess_format(first)
    if kind == JSON:
        body = b"".join([first, *iter(partial(os.read, descriptor, _READ), b"")])
        yield parse(body, JSON, now=NO_FUTURE, limits=EVENT_LIMITS), len(body)
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
            yield _parse(complete, kind, header, columns), size
            size = 0
        if not data:
            return
        data = os.read(descriptor, _READ)


def guess_format(first: bytes) -> str:
    """Return the media type of a file that begins so."""
    text = first.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text.startswith(b"{"):
        line = text.partition(b"\n")[0].rstrip()
        return NDJSON if line.endswith(b"}") else guess_media_type(text)
    return JSON if text.startswith(b"[") else CSV


def _parse(records: list[tuple[int, bytes]], kind: str, header: bytes, columns: Mapping[str, str]) -> ParsedEvents:
    """Parse complete records; number events and faults by the lines of the file."""
    body = header + b"".join(record for _, record in records)
    parsed = parse(body, kind, now=NO_FUTURE, columns=columns, limits=EVENT_LIMITS)
    position = header.count(b"\n") + 1
    lines = {}
    for line, record in records:
        for within in range(record.count(b"\n")):
            lines[position + within] = line + within
        position += record.count(b"\n")
    # A stray carriage return makes the csv module count more lines than the file has.
    parsed.lines = [lines.get(line, line) for line in parsed.lines]
    parsed.faults = [replace(fault, line=lines.get(fault.line, fault.line)) for fault in parsed.faults]
    return parsed


class ReplayClock:
    """Moves events to the present: the first is due now, the others at their distances divided by ``speed``."""

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._first: int | None = None
        self._start = 0.0

    def due(self, event: Event, now: float) -> float:
        """Return when an event is due; ``now`` and the result are in seconds since 1970.

        Raise InvalidInput for an event without a time.
        """
        if event.time is None:
            raise InvalidInput("an event has no time to be replayed by: name its column with --time")
        if self._first is None:
            self._first, self._start = event.time, now
        return self._start + (event.time - self._first) / 1000 / self._speed


class EventSender:
    """Sends batches to one topic. ``totals`` is the receipt of all events sent so far."""

    def __init__(
        self, client: Client, topic: str, *, skip: bool, replay: ReplayClock | None, on_fault: Callable[[str], None]
    ) -> None:
        self._client = client
        self._topic = topic
        self._skip = skip
        self._replay = replay
        self._on_fault = on_fault
        self._pending: list[tuple[int, Event]] = []
        self.totals: dict[str, Any] = {"topic": topic, "accepted": 0, "duplicates": 0, "rejected": 0, "late": 0}

    def send(self, batch: ParsedEvents, on_progress: Callable[[], None] = lambda: None) -> None:
        """Send a batch, each event when it is due.

        Raise InvalidBatch for a bad event unless bad events are skipped, and ClientError.
        """
        if batch.rejected:
            if not self._skip:
                raise InvalidBatch(batch.faults, batch.more)
            self.totals["rejected"] += batch.rejected
            self._report(batch.faults)
        for line, event in zip(batch.lines, batch.events, strict=True):
            if self._replay is not None:
                event = self._wait_for(event, self._replay)
                on_progress()
            self._pending.append((line, event))
            if len(self._pending) == MAX_EVENTS:
                self.flush()
                on_progress()
        self.flush()
        on_progress()

    def flush(self) -> None:
        """Send the pending events."""
        pending, self._pending = self._pending, []
        if not pending:
            return
        body = b"\n".join(_encode(event) for _, event in pending)
        try:
            receipt = self._client.publish(
                self._topic,
                body,
                NDJSON,
                repeatable=all(event.id is not None for _, event in pending),
                on_error="skip" if self._skip else "refuse",
            )
        except ClientError as error:
            faults = _faults(error.problem, pending)
            if not faults:
                raise
            raise InvalidBatch(faults, int(error.problem.get("more", 0))) from error
        self._report(_faults(receipt, pending))
        for name in ("accepted", "duplicates", "rejected", "late"):
            self.totals[name] += receipt.get(name, 0)
        self.totals.setdefault("first_offset", receipt.get("first_offset"))
        self.totals["last_offset"] = receipt.get("last_offset")

    def _wait_for(self, event: Event, replay: ReplayClock) -> Event:
        due = replay.due(event, time.time())
        if due - time.time() > _MAX_EARLY:
            self.flush()
            time.sleep(max(0.0, due - time.time()))
        return msgspec.structs.replace(event, time=round(due * 1000))

    def _report(self, faults: list[Fault]) -> None:
        for fault in faults:
            self._on_fault(str(InvalidBatch([fault])))


def _encode(event: Event) -> bytes:
    """Return an event as a producer writes it."""
    flat = event.public("", 0, 0)
    del flat["$topic"], flat["$offset"]
    if event.time is None:
        del flat["time"]
    return orjson.dumps(flat)


def _faults(answer: Mapping[str, Any], sent: list[tuple[int, Event]]) -> list[Fault]:
    """Return the faults in a server's answer with the lines of the file."""
    return [
        Fault(sent[int(fault["line"]) - 1][0], fault.get("field"), str(fault.get("detail", "")))
        for fault in answer.get("errors", ())
    ]


def publish_file(sender: EventSender, file: str, kind: str | None, columns: Mapping[str, str]) -> None:
    """Send the events of a file, or of the standard input (``-``), with a progress bar on a terminal.

    ``kind`` is a name in FORMATS. Without it, the file name or else the content decides the format.
    """
    media_type = FORMATS.get(kind or file.rpartition(".")[2].lower())
    descriptor = 0 if file == "-" else os.open(file, os.O_RDONLY)
    size = os.fstat(descriptor).st_size or None
    console = Console(stderr=True)
    with Progress(*Progress.get_default_columns(), _SENT, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(file, total=size, sent=0)
        try:
            for batch, bytes_read in read(descriptor, media_type, columns):
                sender.send(batch, lambda: progress.update(task, sent=sender.totals["accepted"]))
                progress.update(task, advance=bytes_read)
        finally:
            if descriptor:
                os.close(descriptor)
