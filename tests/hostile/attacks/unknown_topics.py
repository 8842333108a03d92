"""Streams that name hundreds of topics that do not exist."""

from __future__ import annotations

import socket
import time
from collections import Counter
from contextlib import ExitStack

from hostile.calls import open_stream

NAME = "streams of unknown topics"


def attack(url: str, streams: int = 56, topics: int = 620, pause: float = 20.0) -> Counter[str]:
    """Return the beginnings of the answers. All streams are closed at once after a pause."""
    with ExitStack() as opened:
        connections = [
            opened.enter_context(open_stream(url, path(number, topics))) for number in range(streams)
        ]  # fmt: skip
        time.sleep(pause)
        return Counter(map(_status, connections))


def path(stream: int, topics: int) -> str:
    """Return the target of a stream. A request line has at most 8 KB, so the names are short."""
    return "/v1/stream?" + "&".join(
        f"{'stats' if topic % 2 else 'events'}={stream:x}-{topic:x}" for topic in range(topics)
    )


def _status(connection: socket.socket) -> str:
    connection.settimeout(60)
    try:
        return connection.recv(12)[9:].decode() or "ended"
    except OSError:
        return "no answer"
