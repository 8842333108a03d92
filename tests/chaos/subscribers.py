"""Subscribers that do what a browser's EventSource does, and keep what they were told."""

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
from support.oracle import Figures, figures
from support.stack import Table

SILENCE = 30.0
"""Seconds after which a connection counts as lost: a browser would wait for ever. There are heartbeats every second."""

SAMPLES = 5
Frame = tuple[Mapping[str, Any], Figures]


@dataclass(frozen=True)
class Wanted:
    """A stream's address, the topics (or patterns) whose events come on it, and those whose statistics, by
    ``windows``."""

    path: str
    events: tuple[str, ...] = ()
    statistics: tuple[str, ...] = ()
    windows: tuple[str, ...] = ()


class Subscriber(threading.Thread):
    """One EventSource: comes back after ``retry`` with the last id; any status but 200 closes it for ever.

    ``events`` are the marks of a topic's events by offset, ``tables`` the rows of (topic, window); both are to be read
    with ``lock`` held. ``faults`` tells what no stream may do.
    """

    def __init__(self, name: str, port: int, wanted: Wanted) -> None:
        super().__init__(name=name, daemon=True)
        self.wanted = wanted
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
        self._doubtful: dict[str, dict[int, str]] = {}  # events that a reset was to tell again
        self._heard: float | None = None
        self._stopping = threading.Event()
        self._connection: HTTPConnection | None = None

    def stop(self) -> None:
        self._stopping.set()
        connection = self._connection
        if connection is not None and connection.sock is not None:
            with suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)

    def rest(self) -> None:
        """What is silent from now on is no gap."""
        self._heard = None

    def run(self) -> None:
        while not self._stopping.is_set():
            decoder = Decoder(self._cursor)
            with suppress(OSError, HTTPException):
                self._listen(decoder)
            # What came of a message without its end is lost with its connection.
            self._cursor = decoder.last_id
            self._retry = self._retry if decoder.retry is None else decoder.retry
            self._stopping.wait(self._retry / 1000)

    def _listen(self, decoder: Decoder) -> None:
        connection = self._connection = HTTPConnection("127.0.0.1", self._port, timeout=SILENCE)
        try:
            headers = {"Accept": "text/event-stream", **({"Last-Event-ID": decoder.last_id} if decoder.last_id else {})}
            connection.request("GET", self.wanted.path, headers=headers)
            sock = connection.sock
            with connection.getresponse() as response:
                connection.sock = sock  # the response holds it: for who stops this
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

    # What is told

    def _take(self, message: Message) -> None:
        now = time.monotonic()
        if self._heard is not None:
            self.longest_gap = max(self.longest_gap, now - self._heard)
        self._heard = now
        self.messages += 1
        data = json.loads(message.data)
        if message.event == "reset":
            self._take_reset(data)
        elif "$topic" in data:
            self._take_event(data["$topic"], data["$offset"], data["mark"])
        else:
            self._take_frame(message.event, data)

    def _take_reset(self, data: Mapping[str, Any]) -> None:
        """It may be of a pattern: of topics that are there no more nothing else is known."""
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
            self.faults.append(f"{topic}: {offset} came again without a reset, {following} was to come")
        if offset > following:
            self.faults.append(f"{topic}: {offset} came where {following} was to come")
        seen[offset] = mark
        self._last[topic] = offset

    def _rewind(self, topic: str, offset: int) -> None:
        """What is left of the log follows from an offset on, at most its last 1,000 events.

        What was known from there on may be another now. If a reset came before all of it was told again, those before
        the offset are what they were: no Redis that is restarted loses more than its last second.
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
            self.samples.setdefault(place, deque(maxlen=SAMPLES)).append((data, figures(table.rows)))
        else:
            self.samples.setdefault(place, deque(maxlen=SAMPLES))
