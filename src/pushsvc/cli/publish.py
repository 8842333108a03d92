"""Sends the events of a file or a pipe to a server: as they arrive, or replayed by their own times."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import orjson
from rich.console import Console
from rich.progress import Progress, TextColumn

from pushsvc.cli.event_file import FORMATS, NDJSON, FileBatch, read
from pushsvc.client import Client, ClientError
from pushsvc.errors import Fault, InvalidBatch, InvalidInput
from pushsvc.event import Event

MAX_EVENTS = 1_000
"""Events of one request."""

_MAX_EARLY = 0.02
"""Seconds that a replayed event may be sent before its time, so that close events share a request."""

_SENT = TextColumn("{task.fields[sent]} events")


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

    def send(self, batch: FileBatch, on_progress: Callable[[], None] = lambda: None) -> None:
        """Send a batch, each event when it is due.

        Raise InvalidBatch for a bad event unless bad events are skipped, and ClientError.
        """
        if batch.rejected:
            if not self._skip:
                raise InvalidBatch(batch.faults, batch.rejected - len(batch.faults))
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
            for batch in read(descriptor, media_type, columns):
                sender.send(batch, lambda: progress.update(task, sent=sender.totals["accepted"]))
                progress.update(task, advance=batch.size)
        finally:
            if descriptor:
                os.close(descriptor)
