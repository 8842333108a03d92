"""``pushsvc serve`` with its default settings, for attacks."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from http.client import HTTPConnection
from pathlib import Path
from typing import Self

from hostile.turns import PROBE
from support.ports import free_port
from support.processes import children

DEADLINE = 60.0


class Site:
    """A server in ``folder``. The attacks all come from one address, so the limit of its connections is off."""

    def __init__(self, folder: Path, *options: str, deadline: float = DEADLINE) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._options = options
        self._deadline = deadline  # seconds for the start
        self.turns = folder / "turns"  # long turns of the event loops

    def __enter__(self) -> Self:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PUSHSVC_")}
        self.turns.mkdir(exist_ok=True)
        path = filter(None, (str(PROBE), environment.get("PYTHONPATH")))
        environment |= {"PYTHONPATH": os.pathsep.join(path), "HOSTILE_TURNS": str(self.turns)}
        with (self._folder / "server.log").open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "pushsvc", "serve", "--port", str(self.port), "--data-dir",
                 str(self._folder / "data"), *self._options],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, cwd=self._folder,
            )  # fmt: skip
        try:
            self._wait_until_ready()
        except BaseException:
            self.__exit__()
            raise
        self._web = self.web()
        return self

    def _wait_until_ready(self) -> None:
        end = time.monotonic() + self._deadline
        while not self._is_ready():
            assert self._process.poll() is None, "the server ended"
            assert time.monotonic() < end, "the server did not become ready"
            time.sleep(0.1)

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def pid(self) -> int:
        """The id of the process whose children do the work."""
        return self._process.pid

    def web(self) -> list[int]:
        """Return the ids of the web processes."""
        return children(self._process.pid, "_web")

    def is_alive(self) -> bool:
        """Return whether all processes are those of the start."""
        return self._process.poll() is None and self.web() == self._web

    def _is_ready(self) -> bool:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()
