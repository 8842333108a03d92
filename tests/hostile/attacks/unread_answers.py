"""Requests for the largest page of a history whose answers are not read."""

from __future__ import annotations

import select
import socket
import time
from collections import Counter
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import orjson

NAME = "unread pages of history"
TOPIC = "hostile.unread"
PAGE = 10_000
TIMEOUT = 60.0


def attack(url: str, pages: int = 60, bytes_of_event: int = 3_900, pause: float = 0.0) -> Counter[str]:
    """Return how each unread answer stood at the end: its status, or ``cut`` if the server had ended it."""
    _publish(url, bytes_of_event)
    opened = []
    for _ in range(pages):
        opened.append(_ask(url))
    if pause:
        time.sleep(pause)
    return Counter(map(_state, opened))


def _publish(url: str, bytes_of_event: int) -> None:
    for _ in range(10):
        events = [{"number": number, "text": "x" * bytes_of_event} for number in range(PAGE // 10)]
        request = Request(
            f"{url}/v1/topics/{TOPIC}/events", orjson.dumps(events), {"Content-Type": "application/json"}, method="POST"
        )
        with urlopen(request, timeout=TIMEOUT) as answer:
            answer.read()


def _ask(url: str) -> socket.socket:
    """Ask for a page, wait for the beginning of the answer, and read no more than that."""
    host = urlsplit(url)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    connection.settimeout(TIMEOUT)
    connection.connect((host.hostname or "127.0.0.1", host.port or 80))
    target = f"/v1/topics/{TOPIC}/events?format=json&limit={PAGE}"
    connection.sendall(f"GET {target} HTTP/1.1\r\nHost: {host.netloc}\r\n\r\n".encode())
    connection.recv(1, socket.MSG_PEEK)
    return connection


def _state(connection: socket.socket) -> str:
    """Return the status of an answer; ``cut`` if the server has reset the connection."""
    with connection:
        poll = select.poll()
        poll.register(connection, 0)  # errors are reported anyway
        if poll.poll(0):
            return "cut"
        return connection.recv(64)[9:12].decode()
