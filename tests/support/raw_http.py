"""HTTP in bytes: requests are sent exactly as written, and responses are parsed independently of http.client."""

from __future__ import annotations

import re
import select
import signal
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.chunked import ChunkDecoder
from support.waiting import DEADLINE


@dataclass
class RawResponse:
    status: int
    headers: dict[str, str]
    body: bytes
    complete: bool

    def __repr__(self) -> str:
        return f"{self.status} {self.body[:200]!r}"


def parse_responses(data: bytes, methods: tuple[str, ...] = ()) -> list[RawResponse]:
    """Parse all responses of a connection. ``methods`` are those of the requests; the default is GET."""
    responses = []
    while data:
        head, found, data = data.partition(b"\r\n\r\n")
        assert found, head
        first, *lines = head.decode("latin-1").split("\r\n")
        status = int(re.fullmatch(r"HTTP/1\.1 ([0-9]{3}) .*", first)[1])  # type: ignore[index]
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        assert len(headers) == len(lines), lines
        method = methods[len(responses)] if len(responses) < len(methods) else "GET"
        body, data, complete = b"", data, True
        if status == 100 or method == "HEAD" or status in (204, 304):
            pass
        elif "transfer-encoding" in headers:
            body, data, complete = parse_chunks(data)
        elif "content-length" in headers:
            length = int(headers["content-length"])
            body, data, complete = data[:length], data[length:], len(data) >= length
        else:
            assert headers["connection"] == "close"
            body, data = data, b""
        responses.append(RawResponse(status, headers, body, complete))
    return responses


def parse_chunks(data: bytes) -> tuple[bytes, bytes, bool]:
    """Return the body, the bytes after it, and whether the body has its last chunk."""
    decoder = ChunkDecoder()
    body = decoder.feed(data)
    return body, decoder.rest, decoder.complete


def read_all(connection: socket.socket) -> bytes:
    """Return all bytes until the server closes the connection."""
    pieces = []
    while piece := connection.recv(65_536):
        pieces.append(piece)
    return b"".join(pieces)


def read_until(connection: socket.socket, end: bytes) -> bytes:
    """Return the bytes up to those of one read that contains ``end``."""
    data = b""
    while end not in data:
        piece = connection.recv(65_536)
        assert piece, data
        data += piece
    return data


class ServerProcess:
    """A running server."""

    def __init__(self, port: int, process: subprocess.Popen[bytes], log: Path) -> None:
        self.port, self.process, self._log = port, process, log

    def connect(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def exchange(self, data: bytes, *methods: str, step: int = 0) -> list[RawResponse]:
        """Send bytes, ``step`` at a time unless it is 0, and return all responses until the connection closes."""
        with self.connect() as connection:
            for start in range(0, len(data), step or max(1, len(data))):
                connection.sendall(data[start : start + (step or len(data))])
            return parse_responses(read_all(connection), methods)

    def catch_up(self) -> None:
        """Return after the server has read all bytes sent to it before: it answers a new connection in a later turn of
        its event loop than that in which it reads the others."""
        [response] = self.exchange(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert response.complete

    def accepts(self) -> bool:
        """Return whether the server still accepts connections.

        While its listening socket closes, the kernel refuses a connection, or resets one that waits in the backlog.
        """
        try:
            self.connect().close()
        except (ConnectionRefusedError, ConnectionResetError):
            return False
        return True

    @staticmethod
    def has_answered(connection: socket.socket) -> bool:
        return bool(select.select([connection], [], [], 0)[0])

    @property
    def log(self) -> str:
        return self._log.read_text()

    def stop(self) -> Any:
        """Terminate the server; return its last output."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        assert self.process.stdout is not None
        try:
            output, _ = self.process.communicate(timeout=DEADLINE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        return output.decode().strip()
