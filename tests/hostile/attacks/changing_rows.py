"""Streams with different selections of one large window, all of whose rows change."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from contextlib import ExitStack

from hostile.attacks import rankings
from hostile.calls import get, open_stream

NAME = "all rows of a followed window"
TOPIC = rankings.TOPIC
SELECTIONS = ["", "shape=records", "field=f1&field=f2", "key=k1", "top=100", "every=1s"]


def attack(url: str, keys: int = 3_000, fields: int = 30, rounds: int = 3, pause: float = 2.0) -> Counter[str]:
    """Return how the streams stood at the end. They are read."""
    rankings.fill(url, keys, fields)
    assert any(get(url, f"/v1/topics/{TOPIC}/stats?top=1").status == 200 for _ in range(10)), "nothing is counted"
    with ExitStack() as opened:
        streams = [
            opened.enter_context(open_stream(url, f"/v1/topics/{TOPIC}/stats?{selection}", 0))
            for selection in SELECTIONS
        ]
        readers = [_Reader(stream) for stream in streams]
        for _ in range(rounds):
            time.sleep(pause)
            rankings.fill(url, keys, fields)
        time.sleep(pause)
        return Counter(reader.state() for reader in readers)


class _Reader(threading.Thread):
    def __init__(self, stream: socket.socket) -> None:
        super().__init__(daemon=True)
        self._stream = stream
        self._status, self._ended = b"", False
        self.start()

    def run(self) -> None:
        try:
            while data := self._stream.recv(1 << 20):
                self._status = self._status or data[9:12]
        except OSError:
            pass
        self._ended = True

    def state(self) -> str:
        return f"{self._status.decode() or 'no answer'}{', ended' if self._ended else ''}"
