"""Writes all events of a topic to a file."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)  # fmt: skip

from pushsvc.cli import parquet
from pushsvc.errors import StartupError

FORMATS = ("ndjson", "csv", "parquet")
_OFFSETS = {
    "ndjson": re.compile(rb'^\{"\$topic":"[^"]*","\$offset":([0-9]{1,18}),', re.MULTILINE),
    "csv": re.compile(rb"^([0-9]{1,18}),", re.MULTILINE),
}


class Span(NamedTuple):
    """The offsets of the first and of the last event that a topic has."""

    first: int
    last: int


def format_of(file: str) -> str:
    """Return the format that the name of a file says; NDJSON if it says none."""
    suffix = file.rpartition(".")[2].lower()
    return suffix if suffix in FORMATS else FORMATS[0]


def check(file: str, kind: str) -> None:
    """Raise StartupError if a format cannot be written to a file."""
    if kind != "parquet":
        return
    if file == "-":
        raise StartupError("a Parquet file cannot be written to the standard output: name a file")
    parquet.check()


def values_of(pairs: Iterable[str]) -> dict[str, list[str]]:
    """Return the values by field of texts such as ``user=u42``; raise StartupError for another text."""
    found: dict[str, list[str]] = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not name or not separator:
            raise StartupError(f"--by {pair!r}: a field, = and a value are expected, such as user=u42")
        found.setdefault(name, []).append(value)
    return found


def span_of(topic: Mapping[str, Any]) -> Span | None:
    """Return the offsets of a topic from its metadata; None if there is no such topic."""
    return Span(topic["first_offset"], topic["last_offset"]) if topic["exists"] else None


def write(pieces: Iterator[bytes], file: str, kind: str, span: Callable[[], Span | None]) -> None:
    """Write the pieces of a document to a file, or to the standard output (``-``), with a progress bar on a terminal.

    The pieces of a Parquet file are NDJSON. ``span`` is asked for the bar only; its offsets tell how far the document
    is. The file gets its name when it is whole. Raise StartupError if it cannot be written.
    """
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(),
        TextColumn("{task.fields[events]:,} events"), TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with _opened(file) as output, Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        if console.is_terminal:
            pieces = _shown(pieces, file, _OFFSETS["csv" if kind == "csv" else "ndjson"], span(), progress)
        if kind != "parquet":
            for piece in pieces:
                output.write(piece)
            return
        parquet.write(pieces, output)


def _shown(
    pieces: Iterator[bytes], file: str, offsets: re.Pattern[bytes], span: Span | None, progress: Progress
) -> Iterator[bytes]:
    """Yield the pieces, and show how far they are by the offsets at the beginnings of their lines."""
    first, last = span or Span(1, 0)
    task, events = progress.add_task(file, total=max(1, last - first + 1) if span else None, events=0), 0
    for piece in pieces:
        yield piece
        if found := offsets.findall(piece):
            events += len(found)
            reached = int(found[-1]) - first + 1
            progress.update(task, completed=min(max(reached, 0), last - first + 1), events=events)
    progress.update(task, completed=last - first + 1, total=last - first + 1)


@contextmanager
def _opened(file: str) -> Iterator[BinaryIO]:
    if file == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    part = Path(f"{file}.part")
    try:
        with part.open("wb") as output:
            yield output
        os.replace(part, file)
    except OSError as error:
        raise StartupError(f"cannot write {file}: {error.strerror}") from error
    finally:
        with suppress(OSError):
            part.unlink()
