"""Streams that name hundreds of patterns each, while thousands of topics exist and further ones are created."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack

from hostile.calls import create_topics, open_stream

NAME = "6,000 patterns"
PREFIX = "hostile-patterns"


def query_of(stream: int, patterns: int) -> str:
    """Return a query of different patterns, as many as the target of a request has room for."""
    return "&".join(f"events=*.{chr(97 + stream)}{number:x}" for number in range(patterns))


def attack(url: str, topics: int = 3_000, streams: int = 10, patterns: int = 600, births: int = 50) -> Counter[str]:
    """Return how many streams were opened with which status line."""
    create_topics(url, (f"{PREFIX}.{number}" for number in range(topics)))
    with ExitStack() as opened:
        paths = [f"/v1/stream?{query_of(stream, patterns)}" for stream in range(streams)]
        socks = [opened.enter_context(open_stream(url, path)) for path in paths]
        statuses = Counter(sock.recv(65_536).split(b"\r\n")[0].decode() for sock in socks)
        create_topics(url, (f"{PREFIX}.later.{number}" for number in range(births)))
    return statuses
