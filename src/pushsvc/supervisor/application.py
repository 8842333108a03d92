"""The processes of the user's application, beside those of the server."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec

from pushsvc.config import Settings
from pushsvc.errors import StartupError
from pushsvc.supervisor.child_settings import without_settings
from pushsvc.supervisor.children import ChildProcess
from pushsvc.supervisor.folders import private_folder
from pushsvc.supervisor.listener import listen
from pushsvc.supervisor.served import SERVED_VARIABLE, Report, Served

_START = 60.0  # seconds that the application may take to load
_LOOK = 0.05
_QUEUE = 2_000  # connections that wait for the application: its socket has room for 2,048
_QUESTION_THREADS = 8


@dataclass(frozen=True, slots=True)
class ApplicationProcesses:
    """The WSGI application ``app``, such as ``shop:app`` or ``shop:create_app()``, with ``threads`` per process."""

    app: str
    processes: int = 2
    threads: int = 8


class ApplicationChildren:
    """Two processes of gunicorn: one serves pages, one only says what requests may do.

    So a request for a stream does not wait while all threads of the pages are busy.
    """

    def __init__(self, application: ApplicationProcesses, settings: Settings, resources: ExitStack) -> None:
        check_gunicorn()
        self._app = application.app
        self._folder = resources.enter_context(private_folder("app", sockets=True))
        self.inner: socket.socket = resources.enter_context(listen("127.0.0.1", 0))
        host, port = self.inner.getsockname()[:2]
        self._served = Served(host, port, settings.encode()).share()
        resources.callback(os.close, self._served)
        self._drain = settings.drain
        self.children = [
            self._child(1, "pages", application.processes, application.threads),
            self._child(2, "questions", 1, _QUESTION_THREADS),
        ]

    def _child(self, number: int, kind: str, processes: int, threads: int) -> ChildProcess:
        arguments = ["--socket", self._socket(kind), "--report", str(self._report(kind)), "--drain", str(self._drain)]
        arguments += ["--processes", str(processes), "--threads", str(threads)]
        arguments += ["--questions"] if kind == "questions" else []
        return ChildProcess("_app", number, [*arguments, self._app], [self._served])

    def _socket(self, kind: str) -> str:
        return str(self._folder / f"{kind}.sock")

    def _report(self, kind: str) -> Path:
        return self._folder / f"{kind}.json"

    def environment(self, lifeline: str, variable: str) -> dict[str, str]:
        """Return the environment of the processes: that of this program, without its settings."""
        return without_settings(dict(os.environ)) | {variable: lifeline, SERVED_VARIABLE: str(self._served)}

    def start(self, start: Callable[[ChildProcess], None]) -> Report:
        """Start the processes, and return what the application tells. Raise StartupError if it does not load."""
        for child in self.children:
            start(child)
        reports = [self._wait(child, kind) for child, kind in zip(self.children, ("pages", "questions"), strict=True)]
        return reports[0]

    def _wait(self, child: ChildProcess, kind: str) -> Report:
        until = time.monotonic() + _START
        while child.alive and time.monotonic() < until:
            if (found := read_report(self._report(kind))) is not None:
                if found.error:
                    raise StartupError(found.error)
                return found
            time.sleep(_LOOK)
        found = read_report(self._report(kind))
        reason = "it ended" if not child.alive else f"it takes longer than {_START:.0f} s"
        raise StartupError(found.error if found and found.error else f"--app {self._app} did not load: {reason}")

    def behind(self, report: Report, webs: int) -> str:
        """Return the argument of ``webs`` web processes about the application."""
        return json.dumps({
            "inner": self.inner.fileno(), "pages": self._socket("pages"), "questions": self._socket("questions"),
            "prefixes": [mount.prefix for mount in report.mounts], "waiting": max(1, _QUEUE // webs),
        })  # fmt: skip


def check_gunicorn() -> None:
    """Raise StartupError if gunicorn is not installed."""
    if importlib.util.find_spec("gunicorn") is None:
        raise StartupError(
            "--app runs the application under gunicorn, which is not installed: pip install 'pushsvc[app]'"
        )


def read_report(path: Path) -> Report | None:
    """Return the report that a process of the application wrote; None if there is none yet."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Report)
    except FileNotFoundError:
        return None


def write_report(path: Path, report: Report) -> None:
    """Write a report as a whole: several processes may write theirs at the same time."""
    part = path.with_suffix(f".{os.getpid()}")
    part.write_bytes(msgspec.json.encode(report))
    part.replace(path)
