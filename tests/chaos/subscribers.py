"""Subscribers that behave like a browser's EventSource and record what they receive."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from typing import Any

from pushsvc.sse import Decoder, Message
from pushsvc.topic import matches
from support.oracle import Statistics, summarize
from support.stack import Table

SILENCE = 30.0
"""Seconds without data after which a connection counts as lost; heartbeats come every second. A browser waits
for ever."""

SAMPLES = 5
Frame = tuple[Mapping[str, Any], Statistics]


@dataclass(frozen=True)
class Subscription:
    """A stream's path, the topics or patterns of its events, and those of its statistics with their ``windows``."""

    path: str
    events: tuple[str, ...] = ()
    statistics: tuple[str, ...] = ()
    windows: tuple[str, ...] = ()


class Subscriber(threading.Thread):
    """One EventSource: reconnects after ``retry`` with the last id; any status but 200 closes it for good.

    ``events`` has the marks of a topic's events by offset, ``tables`` the rows by (topic, window); hold ``lock`` to
    read them. ``faults`` lists violations of the contract.
    """

    def __init__(self, name: str, port: int, subscription: Subscription) -> None:
        super().__init__(name=name, daemon=True)
        self.subscription = subscription
        self.lock = threading.Lock()
        self.events: dict[str, dict[int, str]] = {}
        self.tables: dict[tuple[str, str], Table] = {}
        self.samples: dict[tuple[str, str], deque[Frame]] = {}
        self.faults: list[str] = []
        self.resets: Counter[str] = Counter()
        self.connects = self.messages = 0
        self.longest_gap = 0.0
        self.opened = threading.Event()
        self._port = port
        self._cursor = ""
        self._retry = 2_000
        self._last: dict[str, int] = {}
        self._rewound: set[str] = set()
        self._doubtful: dict[str, dict[int, str]] = {}  # events that must arrive again after a reset
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
                    self.faults.append(f"status {response.status}: {response.read()!r}")
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

    # Messages

    def _take(self, message: Message) -> None:
        now = time.monotonic()
        if self._last_message is not None:
            self.longest_gap = max(self.longest_gap, now - self._last_message)
        self._last_message = now
        if message.event == "heartbeat":
            return  # it has moved the cursor
        self.messages += 1
        data = json.loads(message.data)
        if message.event == "reset":
            self._take_reset(data)
        elif "$topic" in data:
            self._take_event(data["$topic"], data["$offset"], data["mark"])
        else:
            self._take_frame(message.event, data)

    def _take_reset(self, data: Mapping[str, Any]) -> None:
        """Forget all topics of a reset. It names a pattern if topics below it were deleted."""
        self.resets[data["reason"]] += 1
        self._rewound.update(topic for topic in (*self.events, data["topic"]) if matches(data["topic"], topic))
        for place in [place for place in self.tables if matches(data["topic"], place[0])]:
            del self.tables[place], self.samples[place]

    def _take_event(self, topic: str, offset: int, mark: str) -> None:
        seen = self.events.setdefault(topic, {})
        if topic in self._rewound:
            self._rewound.discard(topic)
            self._rewind(topic, offset)
        following = self._last.get(topic, 0) + 1
        if offset < following:
            self.faults.append(f"{topic}: {offset} was repeated without a reset where {following} follows")
        if offset > following:
            self.faults.append(f"{topic}: {offset} arrived where {following} follows")
        seen[offset] = mark
        self._last[topic] = offset

    def _rewind(self, topic: str, offset: int) -> None:
        """Doubt the known events from an offset on: after a reset the log follows from there, at most its last 1,000
        events, and may differ.

        If another reset interrupts that, the events before the new offset are confirmed: a restarted Redis loses at
        most its last second.
        """
        seen, doubtful = self.events[topic], self._doubtful.setdefault(topic, {})
        doubtful |= {known: seen.pop(known) for known in [known for known in seen if known >= offset]}
        for known in [known for known in doubtful if known < offset]:
            seen.setdefault(known, doubtful.pop(known))
        self._last[topic] = min(offset - 1, max(seen, default=0))

    def _take_frame(self, event: str, data: Mapping[str, Any]) -> None:
        place = data["topic"], data["window"]
        table = self.tables.setdefault(place, Table())
        if data["offset"] < table.offset:
            self.faults.append(f"{place}: offset {data['offset']} behind {table.offset}")
            table.offset = 0
        table.apply(event, dict(data))
        if data["from"] is not None:
            self.samples.setdefault(place, deque(maxlen=SAMPLES)).append((data, summarize(table.rows)))
        else:
            self.samples.setdefault(place, deque(maxlen=SAMPLES))
