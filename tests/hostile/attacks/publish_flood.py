"""One address that publishes as fast as it can: single events over 16 connections, and batches of 1,000 over 4."""

from __future__ import annotations

import re
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from hostile.calls import connect_from

NAME = "a flood of events"
ADDRESS = "127.0.0.2"
LIMITED = True
_STATUS = re.compile(rb"HTTP/1\.1 ([0-9]{3}) ")
_EVENT = b'{"key":"k%d","x":1}'


def attack(url: str, singles: int = 16, batches: int = 4, seconds: float = 10.0) -> Counter[str]:
    """Return how many requests got each status."""
    single = _EVENT % 1
    batch = b"[" + b",".join(_EVENT % (number % 100) for number in range(1_000)) + b"]"
    bodies = [single] * singles + [batch] * batches
    with ThreadPoolExecutor(len(bodies)) as pool:
        return sum(pool.map(lambda body: _publish(url, body, seconds), bodies), Counter())


def _publish(url: str, body: bytes, seconds: float) -> Counter[str]:
    """Send many requests before the first answer comes; then read all answers."""
    head = (
        "POST /v1/topics/hostile-flood/events HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    many = max(1, 100_000 // len(body) // 50)
    outcomes: Counter[str] = Counter()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with suppress(OSError), connect_from(ADDRESS, url) as sock:
            while time.monotonic() < end:
                sock.sendall((head.encode() + body) * many)
                got = b""
                while (answers := got.count(b"\nDate: ")) < many:
                    if not (data := sock.recv(65_536)):
                        break
                    got += data
                outcomes.update(status.decode() for status in _STATUS.findall(got))
                if answers < many:
                    break
    return outcomes
