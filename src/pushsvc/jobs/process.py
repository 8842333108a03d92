"""The process that joblib runs in, as its job sees it."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from queue import Empty, SimpleQueue

from pushsvc.jobs.messages import Lost, Message, Work

_GRACE = 5.0  # seconds after which a process group that did not end is killed: more than its own grace
_QUIET = "ignore:resource_tracker:UserWarning"  # what workers leave when they are killed, loky removes: that is no news


class WorkProcess:
    """Starts the process with some work. Its end is the end of all its workers, too."""

    def __init__(self, work: Work) -> None:
        self._socket, theirs = socket.socketpair()
        # Loky keeps its files beside those of the job, and a module in the present folder is none of Python's own.
        variables = os.environ | {"JOBLIB_TEMP_FOLDER": str(work.folder), "PYTHONSAFEPATH": "1"}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-W", _QUIET, "-m", "pushsvc.jobs", str(theirs.fileno())], stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()], env=variables, start_new_session=True,
            )  # fmt: skip
        self._messages = SimpleQueue[Message]()
        self._reader = threading.Thread(target=self._read, name="read from the job's process", daemon=True)
        with contextlib.suppress(OSError):  # it ended at once: the reader says so
            self._socket.sendall(pickle.dumps(list(work.path)) + pickle.dumps(work))
        self._reader.start()

    @property
    def pid(self) -> int:
        """The process, and the group of it and its workers."""
        return self._process.pid

    def receive(self, timeout: float) -> Message | None:
        """Return the next message; None if none comes within ``timeout`` seconds."""
        try:
            return self._messages.get(timeout=timeout)
        except Empty:
            return None

    def _read(self) -> None:
        with self._socket.makefile("rb") as file:
            while True:
                try:
                    self._messages.put(pickle.load(file))
                except (EOFError, OSError, pickle.UnpicklingError):
                    break
        self._messages.put(Lost("the process ended"))

    def end(self) -> None:
        """End the process and its workers, and wait until none of them is there."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        try:
            self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self._kill()
            self._process.wait()
        if not self._ends():  # the process was killed, and its workers do not notice
            self._kill()
            self._ends()
        self._reader.join()
        self._socket.close()

    def _ends(self) -> bool:
        """Return whether no process of the group is left, or becomes so within the grace."""
        end = time.monotonic() + _GRACE
        while self._group_exists():
            if time.monotonic() > end:
                return False
            time.sleep(0.01)
        return True

    def _group_exists(self) -> bool:
        try:
            os.killpg(self.pid, 0)
        except (ProcessLookupError, PermissionError):  # macOS answers with the latter for processes that ended
            return False
        return not Path("/proc/self/stat").exists() or any(map(self._is_member, Path("/proc").glob("[0-9]*/stat")))

    def _is_member(self, stat: Path) -> bool:
        """Return whether a process is in the group and has not ended: the first process of a container may be slow to
        collect those that did."""
        try:
            state, _, group = stat.read_text().rpartition(") ")[2].split()[:3]
        except OSError:
            return False
        return int(group) == self.pid and state not in "ZX"

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
