"""Producers that repeat every request until they know its outcome."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from typing import Any

TIMEOUT = 10.0
NEW_TOPIC_SHARE = 0.1
"""Share of requests that create a topic, so that topics are created during every fault."""

_REFUSALS = range(400, 500)


@dataclass(slots=True)
class Request:
    """One request with the marks of its events in order, and its receipt after the response."""

    topic: str
    marks: list[str]
    receipt: dict[str, Any] = field(default_factory=dict)


class Producer(threading.Thread):
    """Publishes one batch after the other; event ids or an idempotency key make a batch safe to repeat.

    Now and then it creates one of ``new_topics``, and publishes to it from then on.
    """

    def __init__(
        self,
        name: str,
        port: int,
        topics: Sequence[str],
        new_topics: Sequence[str],
        *,
        ids: bool,
        chance: random.Random,
    ) -> None:
        super().__init__(name=name, daemon=True)
        self.requests: list[Request] = []
        self.attempts = 0
        self.refusals: list[str] = []
        self.stopping = threading.Event()
        self._port = port
        self._topics = list(topics)
        self._new_topics = list(new_topics)
        self._ids = ids
        self._chance = chance
        self._connection: HTTPConnection | None = None

    def run(self) -> None:
        while not self.stopping.is_set():
            topic = self._topic()
            events = self._batch()
            request = Request(topic, [event["mark"] for event in events])
            self.requests.append(request)
            self._publish(request, events)
            self.stopping.wait(self._chance.uniform(0.1, 0.4))
        if self._connection is not None:
            self._connection.close()

    def _topic(self) -> str:
        if self._new_topics and self._chance.random() < NEW_TOPIC_SHARE:
            self._topics.append(self._new_topics.pop())
            return self._topics[-1]
        return self._chance.choice(self._topics)

    def _batch(self) -> list[dict[str, Any]]:
        """Return 1 to 15 events with and without key and price, some of them late. Values have exact sums."""
        chance = self._chance
        marks = [f"{self.name}-{len(self.requests)}-{number}" for number in range(chance.choice([1, 2, 15]))]
        return [
            {
                "mark": mark,
                "rating": chance.randrange(-400, 400) / 8,
                **({"id": mark} if self._ids else {}),
                **({"key": key} if (key := chance.choice(["pizza", "soup", "beer", None])) else {}),
                **({"type": "delete"} if chance.random() < 0.1 else {}),
                **({"price": chance.randrange(8_000) / 8} if chance.random() < 0.5 else {}),
                **({"time": int(time.time() * 1000) - chance.randrange(90_000)} if chance.random() < 0.3 else {}),
            }
            for mark in marks
        ]

    def _publish(self, request: Request, events: list[dict[str, Any]]) -> None:
        body = json.dumps(events).encode()
        headers = {"Content-Type": "application/json"}
        if not self._ids:
            headers["Idempotency-Key"] = request.marks[0]
        while True:
            self.attempts += 1
            try:
                status, answer = self._post(f"/v1/topics/{request.topic}/events", body, headers)
                receipt = json.loads(answer) if status == 202 else {}
            except (OSError, HTTPException, ValueError):  # ValueError: a truncated head
                self._forget_connection()
            else:
                if receipt:
                    request.receipt = receipt
                    return
                if status in _REFUSALS:
                    self.refusals.append(f"{status} {answer!r}")
                    return
            time.sleep(self._chance.uniform(0.05, 0.3))

    def _post(self, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        if self._connection is None:
            self._connection = HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT)
        self._connection.request("POST", path, body, headers)
        response = self._connection.getresponse()
        return response.status, response.read()

    def _forget_connection(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
