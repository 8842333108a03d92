"""Requests of attacks: plain HTTP on sockets, without a client that would be kind."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException
from typing import Any, NamedTuple
from urllib.parse import urlsplit

SECONDS = 300.0


class Answer(NamedTuple):
    """``status`` is 0 if the connection broke."""

    status: int
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def call(url: str, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Answer:
    place = urlsplit(url)
    connection = HTTPConnection(place.hostname or "", place.port, timeout=SECONDS)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return Answer(response.status, response.read())
    except (OSError, HTTPException):
        return Answer(0, b"")
    finally:
        connection.close()


def post(url: str, topic: str, body: bytes, media_type: str = "application/json") -> Answer:
    return call(url, "POST", f"/v1/topics/{topic}/events", body, {"Content-Type": media_type})


def get(url: str, path: str) -> Answer:
    return call(url, "GET", path)


def get_all(url: str, paths: list[str]) -> list[Answer]:
    """Send all requests at the same time."""
    with ThreadPoolExecutor(len(paths)) as pool:
        return list(pool.map(lambda path: get(url, path), paths))


def abandon(url: str, path: str) -> None:
    """Send a request, and close the connection at once."""
    place = urlsplit(url)
    with socket.create_connection((place.hostname or "", place.port or 80)) as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: {place.netloc}\r\n\r\n".encode())


def connect_from(address: str, url: str) -> socket.socket:
    """Return a connection that comes from another address of the loopback network (Linux)."""
    place = urlsplit(url)
    return socket.create_connection((place.hostname or "", place.port or 80), SECONDS, (address, 0))


def open_stream(url: str, path: str, buffer: int = 4_096) -> socket.socket:
    """Ask for a stream on a socket that takes few bytes before they are read; 0: as many as usual."""
    place = urlsplit(url)
    sock = socket.socket()
    if buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    sock.settimeout(SECONDS)
    sock.connect((place.hostname or "", place.port or 80))
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: {place.netloc}\r\nAccept: text/event-stream\r\n\r\n".encode())
    return sock


def create_topics(url: str, topics: Iterable[str]) -> None:
    """Publish one event to each topic, over a few connections."""
    place = urlsplit(url)
    names = iter(list(topics))

    def work() -> None:
        connection = HTTPConnection(place.hostname or "", place.port, timeout=SECONDS)
        while (name := next(names, None)) is not None:
            connection.request("POST", f"/v1/topics/{name}/events", b'{"a":1}', {"Content-Type": "application/json"})
            response = connection.getresponse()
            response.read()
            assert response.status == 202, f"{name}: {response.status}"
        connection.close()

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(work) for _ in range(8)]:
            done.result()
