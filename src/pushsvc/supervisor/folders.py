"""Private folders for the time that this process lives; what a killed one left behind is swept away later."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_YOUNG = 60.0
"""Seconds within which a folder may not be locked yet by the process that made it."""


@contextmanager
def private_folder(kind: str) -> Iterator[Path]:
    """Yield a new folder that only this user may enter, and remove it with all that is in it."""
    begin = f"pushsvc-{kind}-"
    _sweep(begin)
    folder = Path(tempfile.mkdtemp(prefix=begin))
    lock = os.open(folder, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        os.close(lock)
        shutil.rmtree(folder, ignore_errors=True)


def _sweep(begin: str) -> None:
    """Remove our folders that nobody holds. A lock ends with its process, however that ended."""
    for folder in Path(tempfile.gettempdir()).glob(begin + "*"):
        with suppress(OSError):
            lock = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
            try:
                status = os.fstat(lock)
                if status.st_uid == os.geteuid() and time.time() - status.st_ctime > _YOUNG:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
