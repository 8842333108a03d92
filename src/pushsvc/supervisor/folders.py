"""Private temporary folders. The next call removes the folders that killed processes left."""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pushsvc.broker.socket_paths import folder_for_sockets

_MIN_AGE = 60.0  # seconds from which on an unlocked folder is abandoned: its process locks it just after creating it


@contextmanager
def private_folder(kind: str, *, sockets: bool = False, min_age: float = _MIN_AGE) -> Iterator[Path]:
    """Yield a new folder that only this user may enter; remove it with its contents at the end.

    With ``sockets`` its path is short enough for Unix sockets in it. Also remove abandoned folders of this ``kind``
    that are older than ``min_age`` seconds.
    """
    prefix = f"pushsvc-{kind}-"
    parent = folder_for_sockets() if sockets else tempfile.gettempdir()
    _remove_abandoned(parent, prefix, min_age)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    lock = os.open(folder, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        os.close(lock)
        shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned(parent: str, prefix: str, min_age: float) -> None:
    """Remove this user's folders that no process has locked. A lock ends with its process."""
    for folder in Path(parent).glob(prefix + "*"):
        with suppress(OSError):
            lock = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
            try:
                status = os.fstat(lock)
                if status.st_uid == os.geteuid() and time.time() - status.st_ctime > min_age:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
