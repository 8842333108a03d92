"""Thousands of topics with a subscriber each, as a topic for each user or order has; a message comes now and then."""

from __future__ import annotations

import random
import selectors
import socket
import threading
import time
from collections import Counter
from contextlib import suppress
from heapq import heappop, heappush

from chaos.producers import Producer
from chaos.received import Received
from pushsvc.sse import Decoder

QUIET = "quiet."
HEARTBEAT = 10
SILENCE = 40.0
"""Seconds without data after which a connection counts as lost."""

_OPENED_TOGETHER = 500
_PRODUCERS = 4


def topics(number: int) -> list[str]:
    return [f"{QUIET}{n}" for n in range(number)]


def producers(round_: int, port: int, names: list[str], seed: int) -> list[Producer]:
    """Return producers whose events go to random ones of the topics."""
    return [
        Producer(
            f"quiet-{round_}-{number}", port, names, [], ids=number % 2 == 0,
            chance=random.Random(f"quiet {seed} {round_} {number}"),
        )
        for number in range(_PRODUCERS)
    ]  # fmt: skip


class _Client:
    """One EventSource of one topic, over HTTP/1.0: the bytes after the head are the stream."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.received = Received()
        self.cursor = "earliest"
        self.retry = 2_000
        self.heard = 0.0
        self.sock: socket.socket | None = None
        self.decoder = Decoder()
        self.head: bytes | None = None

    def begin(self, port: int) -> socket.socket:
        self.sock = socket.socket()
        self.sock.setblocking(False)
        with suppress(BlockingIOError):
            self.sock.connect(("127.0.0.1", port))
        self.decoder, self.head = Decoder("" if self.cursor == "earliest" else self.cursor), b""
        return self.sock

    @property
    def request(self) -> bytes:
        path = f"/v1/topics/{self.topic}/events?last_event_id={self.cursor}"
        return f"GET {path} HTTP/1.0\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n".encode()

    def take(self, data: bytes) -> None:
        if self.head is not None:
            self.head += data
            head, found, data = self.head.partition(b"\r\n\r\n")
            if not found:
                return
            if not head.startswith(b"HTTP/1.1 200"):
                self.received.faults.append(f"{self.topic}: {head[:100]!r} {data[:200]!r}")
            self.head = None
        for message in self.decoder.feed(data):
            self.received.take(message)

    def end(self) -> None:
        if self.sock is not None:
            self.sock.close()
            self.sock = None
        self.cursor = self.decoder.last_id or self.cursor
        self.retry = self.retry if self.decoder.retry is None else self.decoder.retry


class QuietSubscribers(threading.Thread):
    """A subscriber of each topic, all in one thread; each comes back with its cursor. Hold ``lock`` to read them."""

    def __init__(self, port: int, names: list[str]) -> None:
        super().__init__(name="quiet", daemon=True)
        self.lock = threading.Lock()
        self.connects = 0
        self._port = port
        self.topics = names
        self._clients = {name: _Client(name) for name in names}
        self._selector = selectors.DefaultSelector()
        self._due = [(0.0, name) for name in names]
        self._open: set[str] = set()
        self._stopping = threading.Event()

    def stop(self) -> None:
        self._stopping.set()

    def all_open(self) -> bool:
        with self.lock:
            return len(self._open) == len(self._clients)

    def known(self, topic: str) -> dict[int, str]:
        """Return the marks of a topic's events by offset."""
        with self.lock:
            return dict(self._clients[topic].received.events.get(topic, {}))

    def faults(self) -> list[str]:
        with self.lock:
            found = [fault for client in self._clients.values() for fault in client.received.faults]
            others = [name for name, client in self._clients.items() if client.received.events.keys() - {name}]
        return found[:10] + [f"{name} received events of another topic" for name in others[:10]]

    def resets(self) -> Counter[str]:
        with self.lock:
            return sum((client.received.resets for client in self._clients.values()), Counter())

    def run(self) -> None:
        while not self._stopping.is_set():
            self._begin_due()
            for key, _ in self._selector.select(0.2):
                self._serve(key.data, key.events)
            self._end_silent()
        for client in self._clients.values():
            client.end()

    def _begin_due(self) -> None:
        """Open connections whose time has come, not more at once than a machine's clients would."""
        now = time.monotonic()
        for _ in range(_OPENED_TOGETHER):
            if not self._due or self._due[0][0] > now:
                return
            client = self._clients[heappop(self._due)[1]]
            client.heard = now
            self._selector.register(client.begin(self._port), selectors.EVENT_WRITE, client)

    def _serve(self, client: _Client, events: int) -> None:
        sock = client.sock
        assert sock is not None
        try:
            if events & selectors.EVENT_WRITE:
                sock.send(client.request)
                self._selector.modify(sock, selectors.EVENT_READ, client)
                return
            data = sock.recv(65_536)
        except OSError:
            data = b""
        if not data:
            self._end(client)
            return
        client.heard = time.monotonic()
        with self.lock:
            if client.head is not None:
                self.connects += 1
                self._open.add(client.topic)
            client.take(data)

    def _end_silent(self) -> None:
        oldest = time.monotonic() - SILENCE
        for client in [one for one in self._clients.values() if one.sock is not None and one.heard < oldest]:
            self._end(client)

    def _end(self, client: _Client) -> None:
        assert client.sock is not None
        self._selector.unregister(client.sock)
        with self.lock:
            self._open.discard(client.topic)
            client.end()
        heappush(self._due, (time.monotonic() + client.retry / 1_000, client.topic))
