"""Servers in processes of their own, and raw connections to them."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.raw_http import ServerProcess

SCRIPT = Path(__file__).parent / "wsgi_server.py"


def start(folder: Path, **options: Any) -> ServerProcess:
    log = (folder / "server.log").open("ab")
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), json.dumps(options)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=log,
        pass_fds=[options["listener"]] if "listener" in options else [],
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, (folder / "server.log").read_text()
    return ServerProcess(int(line), process, folder / "server.log")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server shared by the tests that do not change it."""
    running = start(tmp_path_factory.mktemp("server"))
    yield running
    running.stop()


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., ServerProcess]]:
    """Start a server with options for one test."""
    started: list[ServerProcess] = []

    def begin(**options: Any) -> ServerProcess:
        started.append(start(tmp_path, **options))
        return started[-1]

    yield begin
    for running in started:
        running.stop()


@pytest.fixture
def connect(server: ServerProcess) -> Iterator[Callable[[], socket.socket]]:
    opened: list[socket.socket] = []

    def open_one() -> socket.socket:
        opened.append(server.connect())
        return opened[-1]

    yield open_one
    for connection in opened:
        connection.close()
