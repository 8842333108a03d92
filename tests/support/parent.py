"""A running supervisor as a real process, its output, and its children as /proc shows them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from support.waiting import DEADLINE, until


class Parent:
    """A running ``pushsvc`` command and its output."""

    def __init__(self, folder: Path, *arguments: str, nohup: bool = False, **environment: str) -> None:
        hangup = signal.SIG_IGN if nohup else signal.SIG_DFL
        self._file = folder / "output"
        plain = {name: value for name, value in os.environ.items() if not name.startswith("PUSHSVC_")}
        with self._file.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pushsvc", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=plain | {"TMPDIR": str(folder)} | environment,
                cwd=folder,
                start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGHUP, hangup),  # these tests may themselves run under nohup
            )
        self.pid = self.process.pid

    @property
    def output(self) -> str:
        return self._file.read_text()

    def ready(self) -> int:
        """Wait until the server is ready and return its port."""
        until(lambda: "pushsvc is ready" in self.output or self.process.poll() is not None)
        found = re.findall(r"pushsvc is ready: http://127\.0\.0\.1:(\d+)/", self.output)
        assert found, self.output
        return int(found[-1])

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(DEADLINE)


def stat(pid: int) -> list[str]:
    """Return the state, the parent and more of a process; nothing after its end."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def environment(pid: int) -> dict[str, str]:
    """Return the environment that a process was started with."""
    lines = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(line.split("=", 1) for line in lines if line)


def alive(pid: int) -> bool:
    state = stat(pid)
    return bool(state) and state[0] != "Z"


def children(parent: int) -> dict[int, str]:
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and stat(int(entry.name))[1:2] == [str(parent)] and alive(int(entry.name)):
            found[int(entry.name)] = command(int(entry.name))
    return found


def child(parent: int, word: str) -> int | None:
    return next((pid for pid, text in children(parent).items() if word in text), None)


def ask(port: int, method: str, path: str, body: object = None) -> tuple[int, Any]:
    connection = HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    try:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()
