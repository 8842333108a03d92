"""Ports that a test may take, give back and take again."""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from contextlib import suppress
from pathlib import Path

_FIRST, _LAST = 10_081, 32_000
"""Below the ports that the kernel gives to clients: none of them takes the port of a server that is about to start.
Above 10080, the highest port that browsers refuse (https://fetch.spec.whatwg.org/#port-blocking)."""

_held: list[int] = []


def free_port() -> int:
    """Return a port of this process alone until its end: other processes that run tests at the same time get others."""
    folder = Path(tempfile.gettempdir()) / f"pushsvc-test-ports-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    for _ in range(1_000):
        port = random.randrange(_FIRST, _LAST)
        lock = os.open(folder / str(port), os.O_CREAT | os.O_RDWR)
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.create_server(("127.0.0.1", port)):
                _held.append(lock)
                return port
        os.close(lock)
    raise AssertionError("no port is free")
