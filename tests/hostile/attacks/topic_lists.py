"""Viewers of the list of topics while there are many, and some more are created."""

from __future__ import annotations

import selectors
import time
from collections import Counter
from contextlib import ExitStack

from hostile.calls import create_topics, get, open_stream

NAME = "20 lists of 20,000 topics"
PREFIX = "hostile-lists"


def attack(url: str, topics: int = 20_000, viewers: int = 20, births: int = 8, pause: float = 2.5) -> Counter[str]:
    """Return the statuses of searches, and how many times the list and how many kilobytes the viewers got."""
    seen: Counter[str] = Counter()
    create_topics(url, (f"{PREFIX}.{number}.x" for number in range(topics)))
    with ExitStack() as opened, selectors.DefaultSelector() as selector:
        for _ in range(viewers):
            sock = opened.enter_context(open_stream(url, "/v1/topics", buffer=0))
            sock.setblocking(False)
            selector.register(sock, selectors.EVENT_READ)
        received = 0
        for birth in range(births):
            create_topics(url, [f"{PREFIX}.later.{birth}"])
            seen[str(get(url, f"/v1/topics?search={birth}.x&limit=10").status)] += 1
            end = time.monotonic() + pause
            while (left := end - time.monotonic()) > 0:
                for key, _ in selector.select(left):
                    data = key.fileobj.recv(1 << 20)  # type: ignore[union-attr]
                    received += len(data)
                    seen["lists"] += data.count(b"event: topics\n")
        seen["kilobytes"] = received // 1_000
    return seen
