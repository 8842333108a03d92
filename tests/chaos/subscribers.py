"""Subscribers that behave like a browser's EventSource and record what they receive."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException

from chaos.received import Received
from pushsvc.sse import Decoder, Message

SILENCE = 30.0
"""Seconds without data after which a connection counts as lost; heartbeats come every second. A browser waits
for ever."""


@dataclass(frozen=True)
class Subscription:
    """A stream's path, the topics or patterns of its events, those of its statistics with their ``windows``, and the
    topic of its newest events."""

    path: str
    events: tuple[str, ...] = ()
    statistics: tuple[str, ...] = ()
    windows: tuple[str, ...] = ()
    latest: str = ""


class Subscriber(threading.Thread):
    """One EventSource: reconnects after ``retry`` with the last id; any status but 200 closes it for good.

    Hold ``lock`` to read what it has ``received``.
    """

    def __init__(self, name: str, port: int, subscription: Subscription) -> None:
        super().__init__(name=name, daemon=True)
        self.subscription = subscription
        self.lock = threading.Lock()
        self.received = Received()
        self.connects = 0
        self.longest_gap = 0.0
        self.opened = threading.Event()
        self._port = port
        self._cursor = ""
        self._retry = 2_000
        self._last_message: float | None = None
        self._stopping = threading.Event()
        self._connection: HTTPConnection | None = None

    def stop(self) -> None:
        self._stopping.set()
        connection = self._connection
        if connection is not None and connection.sock is not None:
            with suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)

    def forget_silence(self) -> None:
        """Count no gap until the next message."""
        self._last_message = None

    def run(self) -> None:
        while not self._stopping.is_set():
            decoder = Decoder(self._cursor)
            with suppress(OSError, HTTPException):
                self._listen(decoder)
            # An incomplete message is lost with its connection.
            self._cursor = decoder.last_id
            self._retry = self._retry if decoder.retry is None else decoder.retry
            self._stopping.wait(self._retry / 1000)

    def _listen(self, decoder: Decoder) -> None:
        connection = self._connection = HTTPConnection("127.0.0.1", self._port, timeout=SILENCE)
        try:
            headers = {"Accept": "text/event-stream", **({"Last-Event-ID": decoder.last_id} if decoder.last_id else {})}
            connection.request("GET", self.subscription.path, headers=headers)
            sock = connection.sock
            with connection.getresponse() as response:
                connection.sock = sock  # getresponse has taken it; stop() needs it
                if response.status != 200:
                    self.received.faults.append(f"status {response.status}: {response.read()!r}")
                    self._stopping.set()
                    return
                self.connects += 1
                while data := response.read1(65_536):
                    self.opened.set()
                    for message in decoder.feed(data):
                        with self.lock:
                            self._take(message)
        finally:
            connection.close()

    def _take(self, message: Message) -> None:
        now = time.monotonic()
        if self._last_message is not None:
            self.longest_gap = max(self.longest_gap, now - self._last_message)
        self._last_message = now
        self.received.take(message)
