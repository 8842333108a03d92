"""Producers that continue through failures and record every response."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from pushsvc.broker.broker import Broker
from pushsvc.broker.keys import Log
from support.stack import Stack


class Producers:
    """One thread per topic publishes events with ids and repeats each until it is acknowledged.

    ``acknowledged`` has the ids by topic, in order; ``refusals`` the statuses other than 202 with their problem types.
    """

    def __init__(self, stack: Stack, topics: list[str], *, prefix: str = "e") -> None:
        self._stack = stack
        self._prefix = prefix
        self._stopped = threading.Event()
        self.acknowledged: dict[str, list[str]] = {topic: [] for topic in topics}
        self.refusals: dict[str, list[tuple[int, str]]] = {topic: [] for topic in topics}
        self._threads = [threading.Thread(target=self._run, args=[topic], daemon=True) for topic in topics]
        for thread in self._threads:
            thread.start()

    def _run(self, topic: str) -> None:
        number = 0
        while not self._stopped.is_set():
            event = {"id": f"{self._prefix}{number}", "key": f"k{number % 3}", "n": 1}
            while not self._acknowledged(topic, event) and not self._stopped.is_set():
                time.sleep(0.02)
            number += 1

    def _acknowledged(self, topic: str, event: dict[str, Any]) -> bool:
        answer = self._stack.post(topic, event)
        if answer.status == 202:
            self.acknowledged[topic].append(event["id"])
            return True
        self.refusals[topic].append((answer.status, answer.json()["type"].rpartition(":")[2]))
        return False

    def count(self, topic: str) -> int:
        return len(self.acknowledged[topic])

    def stop(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a producer hangs"


class BatchProducer:
    """Publishes ``batch(number)`` to every topic, number after number, and repeats what was not acknowledged.

    ``posts`` is the number of batches that every topic has; ``refused`` counts responses other than 202.
    """

    def __init__(self, stack: Stack, topics: list[str], batch: Callable[[int], list[dict[str, Any]]]) -> None:
        self.posts = self.refused = 0
        self._stack, self._topics, self._batch = stack, topics, batch
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> BatchProducer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.is_set():
            events = self._batch(self.posts)
            for topic in self._topics:
                while self._stack.post(topic, events).status != 202:
                    self.refused += 1
            self.posts += 1


def stored(broker: Broker, topic: str) -> list[str]:
    """Return the ids of the events in a topic's log."""
    log, after, found = Log(topic), 0, []
    while True:
        logged = broker.read(log.partition, {log: after}).logs[log]
        found += [event.id for entry in logged.entries for event in entry.events]
        if not logged.more:
            return found
        after = logged.entries[-1].last
