"""Uploads of the largest size whose last bytes are withheld, and then sent all at once."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import urlsplit

import orjson

NAME = "uploads with their last bytes withheld"
BODY = orjson.dumps([{"number": number, "text": "x" * 760} for number in range(10_000)])
TIMEOUT = 60.0


def attack(url: str, uploads: int = 200, meanwhile: Callable[[], object] = bool) -> Counter[str]:
    """Return how many uploads were answered with each status, ``cut`` for those that got no answer.

    ``meanwhile`` is called while the last bytes are withheld.
    """
    host = urlsplit(url)
    address = (host.hostname or "127.0.0.1", host.port or 80)
    opened = [_begin(address, host.netloc, number) for number in range(uploads)]
    meanwhile()
    for connection in opened:
        _send(connection, BODY[-2:])
    return Counter(map(_status, opened))


def _begin(address: tuple[str, int], host: str, number: int) -> socket.socket:
    connection = socket.create_connection(address, timeout=TIMEOUT)
    head = (
        f"POST /v1/topics/hostile.uploads{number % 10}/events HTTP/1.1\r\nHost: {host}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(BODY)}\r\nConnection: close\r\n\r\n"
    )
    _send(connection, head.encode() + BODY[:-2])
    return connection


def _send(connection: socket.socket, data: bytes) -> None:
    with suppress(OSError):  # the server has ended the connection; its answer may still be there
        connection.sendall(data)


def _status(connection: socket.socket) -> str:
    with connection:
        try:
            return connection.recv(65_536)[9:12].decode() or "cut"
        except OSError:
            return "cut"
