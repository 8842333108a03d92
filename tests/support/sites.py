"""Applications with the extension, under the servers that run Flask applications."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from support.ports import free_port
from support.stack import Stack
from support.waiting import DEADLINE, until

COMMANDS = {
    "flask": ["-m", "flask", "--app", "shop", "run", "--port", "{port}"],
    "reloader": ["-m", "flask", "--app", "shop", "run", "--debug", "--port", "{port}"],
    "gthread": ["-m", "gunicorn", "-b", "127.0.0.1:{port}", "-k", "gthread", "--threads", "8", "shop:app"],
    "gevent": ["-m", "gunicorn", "-b", "127.0.0.1:{port}", "-k", "gevent", "--graceful-timeout", "60", "shop:app"],
    "gevent-preload": ["-m", "gunicorn", "-b", "127.0.0.1:{port}", "-k", "gevent", "--preload", "shop:app"],
    "patched-flask": [
        "-c",
        "from gevent import monkey; monkey.patch_all(); from flask.cli import main; main()",
        "--app",
        "shop",
        "run",
        "--port",
        "{port}",
    ],
    "serve": ["-m", "pushsvc", "serve", "--app", "shop:app", "--port", "{port}"],
    "serve-one-thread": [
        "-m",
        "pushsvc",
        "serve",
        "--app",
        "shop:create_app()",
        "--app-processes",
        "1",
        "--app-threads",
        "1",
        "--port",
        "{port}",
    ],
    "waitress": ["-m", "waitress", "--listen", "127.0.0.1:{port}", "--threads", "8", "shop:app"],
}


class Site(Stack):
    """An application in a module ``shop`` under a server."""

    def __init__(self, folder: Path, redis_url: str, prefix: str) -> None:
        super().__init__(redis_url, prefix, folder)
        self.folder = folder
        self.inherited: dict[str, str] = {}
        self.process: subprocess.Popen[bytes] | None = None

    def run(self, server: str, **environment: str) -> subprocess.Popen[bytes]:
        """Run the application, and return when it answers."""
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        ours = ("PUSHSVC_", "FLASK_")
        self.inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)} | environment
        with (self.folder / "site.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *(part.format(port=self.port) for part in COMMANDS[server])],
                cwd=self.folder, env=self.inherited, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        until(lambda: self.listening() or self.process_ended())
        assert not self.process_ended(), self.log()
        return self.process

    @property
    def process_id(self) -> int:
        assert self.process is not None
        return self.process.pid

    def process_ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def log(self) -> str:
        return (self.folder / "site.log").read_text()

    def end(self) -> None:
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(DEADLINE)


Start = Callable[..., Site]


def needs(module: str) -> None:
    """Skip the test where a package is missing."""
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")


def data_is_used(folder: Path) -> bool:
    """Return whether an embedded server works on the data folder of an application in ``folder``."""
    with suppress(FileNotFoundError), (folder / "pushsvc-data/valkey.lock").open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def valkey_pid(folder: Path) -> int:
    """Return the process of the embedded server of an application in ``folder``."""
    return int((folder / "pushsvc-data/valkey.lock").read_text().rsplit(maxsplit=1)[1])
