"""Streams that are not read, each with a query of its own and so with a backlog of its own, while much is published."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

import orjson

from hostile.calls import open_stream, post

NAME = "slow streams"
TOPIC = "hostile.slow"
_REST = partial(time.sleep, 4.0)
BODY = orjson.dumps([{"text": "x" * 900}] * 100)


def attack(
    url: str, streams: int = 600, bodies: int = 60, pause: float = 0.05,
    meanwhile: Callable[[], object] = _REST,
) -> Counter[str]:  # fmt: skip
    """Return the statuses of the streams, which end after ``meanwhile``."""
    post(url, TOPIC, BODY)
    with ExitStack() as opened:
        connections = [
            opened.enter_context(open_stream(url, f"/v1/stream?events={TOPIC}&events=none.{number}"))
            for number in range(streams)
        ]
        statuses = Counter(connection.recv(12, socket.MSG_PEEK)[9:].decode() for connection in connections)
        for _ in range(bodies):
            post(url, TOPIC, BODY)
            time.sleep(pause)
        meanwhile()
    return statuses
