"""Streams of one large window with different rankings, that are not read while the window changes."""

from __future__ import annotations

import socket
import time
from collections import Counter
from contextlib import ExitStack

import orjson

from hostile.calls import open_stream, post

NAME = "unread rankings"
TOPIC = "hostile-rankings"


def fill(url: str, keys: int, fields: int) -> None:
    """Make a window of ``keys`` × ``fields`` rows, in six requests."""
    for start in range(6):
        events = [
            {"key": f"k{key}", **{f"f{field}": key + field for field in range(fields)}}
            for key in range(start, keys, 6)
        ]  # fmt: skip
        assert post(url, TOPIC, orjson.dumps(events)).status == 202


def attack(
    url: str, keys: int = 3_000, fields: int = 30, streams: int = 30, events: int = 10, pause: float = 0.5
) -> Counter[str]:
    """Return how the streams stood at the end."""
    fill(url, keys, fields)
    with ExitStack() as opened:
        unread = [
            opened.enter_context(open_stream(url, f"/v1/topics/{TOPIC}/stats?top={keys - number}"))
            for number in range(streams)
        ]
        for number in range(events):
            post(url, TOPIC, orjson.dumps([{"key": f"k{number}", "f0": number}]))
            time.sleep(pause)
        return Counter(map(_state, unread))


def _state(connection: socket.socket) -> str:
    connection.settimeout(0.2)
    try:
        return connection.recv(12)[9:].decode() or "ended"
    except TimeoutError:
        return "no answer yet"
    except OSError:
        return "cut"
