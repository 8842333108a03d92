"""Writes all events of a topic to a file."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn, TransferSpeedColumn

from pushsvc.errors import StartupError

FORMATS = ("ndjson", "csv")


def format_of(file: str) -> str:
    """Return the format that the name of a file says; NDJSON if it says none."""
    suffix = file.rpartition(".")[2].lower()
    return suffix if suffix in FORMATS else FORMATS[0]


def write(pieces: Iterator[bytes], file: str) -> None:
    """Write pieces to a file, or to the standard output (``-``), with a progress bar on a terminal.

    The file gets its name when it is whole. Raise StartupError if it cannot be written.
    """
    console = Console(stderr=True)
    columns = (TextColumn("{task.fields[lines]} lines"), TransferSpeedColumn(), TimeElapsedColumn())
    with _opened(file) as output, Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task, lines = progress.add_task(file, total=None, lines=0), 0
        for piece in pieces:
            output.write(piece)
            lines += piece.count(b"\n")
            progress.update(task, advance=len(piece), lines=lines)


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
