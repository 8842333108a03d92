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

from support.waiting import DEADLINE


@dataclass
class Answered:
    status: int
    headers: dict[str, str]
    body: bytes
    complete: bool

    def __repr__(self) -> str:
        return f"{self.status} {self.body[:200]!r}"


def split_answers(data: bytes, methods: tuple[str, ...] = ()) -> list[Answered]:
    """Read answers up to the end of the connection; ``methods`` are those of the requests, GET where none is named."""
    answers = []
    while data:
        head, found, data = data.partition(b"\r\n\r\n")
        assert found, head
        first, *lines = head.decode("latin-1").split("\r\n")
        status = int(re.fullmatch(r"HTTP/1\.1 ([0-9]{3}) .*", first)[1])  # type: ignore[index]
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        assert len(headers) == len(lines), lines
        asked = methods[len(answers)] if len(answers) < len(methods) else "GET"
        body, data, complete = b"", data, True
        if status == 100 or asked == "HEAD" or status in (204, 304):
            pass
        elif "transfer-encoding" in headers:
            body, data, complete = split_chunks(data)
        elif "content-length" in headers:
            length = int(headers["content-length"])
            body, data, complete = data[:length], data[length:], len(data) >= length
        else:
            assert headers["connection"] == "close"
            body, data = data, b""
        answers.append(Answered(status, headers, body, complete))
    return answers


def split_chunks(data: bytes) -> tuple[bytes, bytes, bool]:
    """Return body, rest and whether the body has its end."""
    body = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        length = int(size, 16)
        body += data[:length]
        assert data[length : length + 2] == b"\r\n"
        data = data[length + 2 :]
        if not length:
            return body, data, True
    return body, b"", False


def read_all(connection: socket.socket) -> bytes:
    pieces = []
    while piece := connection.recv(65_536):
        pieces.append(piece)
    return b"".join(pieces)


def read_until(connection: socket.socket, end: bytes) -> bytes:
    data = b""
    while end not in data:
        piece = connection.recv(65_536)
        assert piece, data
        data += piece
    return data


class Site:
    """A running server."""

    def __init__(self, port: int, process: subprocess.Popen[bytes], log: Path) -> None:
        self.port, self.process, self._log = port, process, log

    def connect(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def exchange(self, data: bytes, *methods: str, step: int = 0) -> list[Answered]:
        """Send bytes, ``step`` at a time if it is not 0, and read to the end of the connection."""
        with self.connect() as connection:
            for start in range(0, len(data), step or max(1, len(data))):
                connection.sendall(data[start : start + (step or len(data))])
            return split_answers(read_all(connection), methods)

    def catch_up(self) -> None:
        """Return when it has seen all that was sent to it before: a new connection is answered in a later turn of its
        loop than that in which the others are read."""
        [answer] = self.exchange(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert answer.complete

    @staticmethod
    def has_answered(connection: socket.socket) -> bool:
        return bool(select.select([connection], [], [], 0)[0])

    @property
    def log(self) -> str:
        return self._log.read_text()

    def stop(self) -> Any:
        """End it; return what it says of its end."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        assert self.process.stdout is not None
        try:
            words, _ = self.process.communicate(timeout=DEADLINE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        return words.decode().strip()
