"""A producer that sends POSTs at a rate over several connections, without waiting for answers."""

from __future__ import annotations

import json
import socket
import threading
import time

_STATUS = b"HTTP/1.1 "
STEP = 0.02
"""Seconds between two sends."""


class Flood:
    """Posts to one path of a local server; every event contains the time of its sending."""

    def __init__(self, port: int, path: str, connections: int = 32) -> None:
        self._sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(connections)]
        self._path = path
        self._refused: list[bytes] = []

    def offer(self, posts: int, a_second: int, events: int = 1) -> float:
        """Send requests of several events each at a rate; return the seconds until the last answer."""
        started = time.monotonic()
        shares = [len(range(number, posts, len(self._sockets))) for number in range(len(self._sockets))]
        readers = [threading.Thread(target=self._read, args=pair) for pair in zip(self._sockets, shares, strict=True)]
        for reader in readers:
            reader.start()
        # A connection that the server does not read blocks, so each has a writer of its own.
        rate = a_second / len(self._sockets)
        writers = [
            threading.Thread(target=self._write, args=(one, share, rate, started, events))
            for one, share in zip(self._sockets, shares, strict=True)
        ]
        for writer in writers:
            writer.start()
        for thread in (*writers, *readers):
            thread.join()
        if self._refused:
            raise SystemExit(f"a post was answered {self._refused[0]!r}")
        return time.monotonic() - started

    def _write(self, sock: socket.socket, posts: int, rate: float, started: float, events: int) -> None:
        sent = 0
        while sent < posts:
            due = min(posts, int((time.monotonic() - started) * rate) + 1)
            if due > sent:
                sock.sendall(b"".join([self._request(events) for _ in range(due - sent)]))
                sent = due
            time.sleep(STEP)

    def _request(self, events: int) -> bytes:
        event = {"t": time.monotonic_ns(), "key": "a", "pad": "x" * 40}
        body = json.dumps(event if events == 1 else [event] * events, separators=(",", ":"))
        return (
            f"POST {self._path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}"
        ).encode()

    def _read(self, sock: socket.socket, posts: int) -> None:
        """Count the answers."""
        tail, answered = b"", 0
        while answered < posts:
            piece = sock.recv(1 << 16)
            if not piece:
                self._refused.append(tail)
                return
            data = tail + piece
            answered += data.count(_STATUS)
            if data.count(_STATUS) != data.count(_STATUS + b"2"):
                self._refused.append(data)
            tail = data[len(data) - len(_STATUS) + 1 :] if len(data) >= len(_STATUS) else data
