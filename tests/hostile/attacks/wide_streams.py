"""Streams of all windows of topics with as many keys as they may have, read and unread."""

from __future__ import annotations

import socket
import time
from collections import Counter
from contextlib import ExitStack

import orjson

from hostile.calls import get, open_stream, post

NAME = "streams of 10,000 keys"
SECONDS = 60.0


def fill(url: str, topic: str, keys: int, fields: int) -> None:
    for begin in range(0, keys, 2_500):
        events = [
            {"key": f"key {key}", **{f"field{field}": 0.5 + key for field in range(fields)}}
            for key in range(begin, min(begin + 2_500, keys))
        ]
        assert post(url, topic, orjson.dumps(events)).status == 202
    end = time.monotonic() + SECONDS
    while get(url, f"/v1/topics/{topic}/stats?at_least={keys}&key=none").status != 200 and time.monotonic() < end:
        time.sleep(0.1)


def attack(url: str, keys: int = 10_000, topics: int = 3, fields: int = 4, most: int = 32) -> Counter[str]:
    """Return how the streams began: of some topics together, of each one, and of one with ``most`` fields."""
    for number in range(topics):
        fill(url, f"hostile.streams.{number}", keys, fields)
    fill(url, "hostile.streams.most", keys, most)
    paths = [
        *["/v1/stream?stats=hostile.streams.*&window=*"] * 3,
        *(f"/v1/stream?stats=hostile.streams.{number}&window=1m" for number in range(topics)),
        *(f"/v1/stream?stats=hostile.streams.{number}&window=*" for number in range(topics)),
        *(f"/v1/topics/hostile.streams.{number}/stats?window=*&shape=records" for number in range(topics)),
        "/v1/stream?" + "&".join(f"sub=stats/hostile.streams.{number}%3Fwindow%3D1m" for number in range(topics)),
        *["/v1/topics/hostile.streams.most/stats?window=*"] * 3,
        "/v1/topics/hostile.streams.most/stats?window=*&field=field1",
        "/v1/topics/hostile.streams.most/stats?window=1m&top=100",
    ]
    begun: Counter[str] = Counter()
    for read in (True, False):
        with ExitStack() as opened:
            for path in paths:
                connection = opened.enter_context(open_stream(url, path))
                begun[_beginning(connection) if read else "unread"] += 1
            time.sleep(0 if read else 5)
    return begun


def _beginning(connection: socket.socket) -> str:
    """Read until a snapshot or the end has come; return what the stream began with."""
    connection.settimeout(SECONDS)
    words = (b"event: snapshot", b"too many topics and windows", b"limits.snapshot", b"not reachable")
    data = b""
    try:
        while not (found := [word for word in words if word in data]) and (piece := connection.recv(65_536)):
            data += piece
    except OSError:
        return "cut"
    return found[0].decode() if found else "nothing"
