"""One address that opens connections as fast as it can, one in twenty with a request."""

from __future__ import annotations

import socket
import struct
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from hostile.calls import connect_from

NAME = "a flood of connections"
ADDRESS = "127.0.0.2"
LIMITED = True
_REQUEST = b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"


def attack(url: str, threads: int = 4, seconds: float = 10.0) -> Counter[str]:
    """Return how many connections got each status."""
    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(lambda _: _open(url, seconds), range(threads)), Counter())


def _open(url: str, seconds: float) -> Counter[str]:
    outcomes: Counter[str] = Counter()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            with connect_from(ADDRESS, url) as sock:
                # A reset leaves no port waiting. Most connections ask for nothing: the server has the work, not this.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                if outcomes.total() % 20:
                    outcomes["opened"] += 1
                    continue
                sock.sendall(_REQUEST)
                answer = sock.recv(65_536)
        except OSError:
            answer = b""
        outcomes[answer.split()[1].decode() if answer.startswith(b"HTTP/1.1 ") else "closed"] += 1
    return outcomes
