"""Servers of their own process, and clients that speak bytes."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.raw import Site

SCRIPT = Path(__file__).parent / "wsgi_site.py"


def start(folder: Path, **options: Any) -> Site:
    log = (folder / "site.log").open("ab")
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), json.dumps(options)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, (folder / "site.log").read_text()
    return Site(int(line), process, folder / "site.log")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server for all tests that do it no harm."""
    running = start(tmp_path_factory.mktemp("site"))
    yield running
    running.stop()


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """Start a server with options of one's own."""
    started: list[Site] = []

    def begin(**options: Any) -> Site:
        started.append(start(tmp_path, **options))
        return started[-1]

    yield begin
    for running in started:
        running.stop()


@pytest.fixture
def connect(site: Site) -> Iterator[Callable[[], socket.socket]]:
    opened: list[socket.socket] = []

    def open_one() -> socket.socket:
        opened.append(site.connect())
        return opened[-1]

    yield open_one
    for connection in opened:
        connection.close()
