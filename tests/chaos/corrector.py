"""A producer that also corrects and deletes what it has published, on a topic of its own."""

from __future__ import annotations

import json
import random
import threading
import time
from http.client import HTTPConnection, HTTPException
from typing import Any

from chaos.producers import TIMEOUT

FIXED = "fixed"
"""The topic. Its subscribers would get corrections, so no stream of the run has it."""


class Corrector(threading.Thread):
    """Publishes, patches and deletes, each until it is answered. ``alive`` has the rating of each surviving event."""

    def __init__(self, name: str, port: int, chance: random.Random) -> None:
        super().__init__(name=name, daemon=True)
        self.alive: dict[str, float] = {}
        self.counts = {"POST": 0, "PATCH": 0, "DELETE": 0}
        self.refusals: list[str] = []
        self.stopping = threading.Event()
        self._port, self._chance = port, chance

    def run(self) -> None:
        while not self.stopping.is_set():
            chance = self._chance
            method = chance.choice(("POST", "POST", "PATCH", "DELETE")) if self.alive else "POST"
            self.counts[method] += 1
            rating = chance.randrange(-400, 400) / 8
            if method == "POST":
                mark = f"{self.name}-{self.counts[method]}"
                event = {"id": mark, "mark": mark, "key": chance.choice("ab"), "rating": rating}
                self._send(method, "", event, (202,))
                self.alive[mark] = rating
            else:
                mark = chance.choice(sorted(self.alive))
                if method == "PATCH":
                    self._send(method, f"/{mark}", {"rating": rating}, (200,))
                    self.alive[mark] = rating
                else:
                    self._send(method, f"/{mark}", None, (200, 404, 410))  # an unanswered request has deleted it
                    del self.alive[mark]
            self.stopping.wait(chance.uniform(0.1, 0.4))

    def _send(self, method: str, path: str, body: dict[str, Any] | None, expected: tuple[int, ...]) -> None:
        """Repeat a request until it is answered. It may be: an id, a patch and a deletion have one effect."""
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        while True:
            connection = HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT)
            try:
                sent = None if body is None else json.dumps(body)
                connection.request(method, f"/v1/topics/{FIXED}/events{path}", sent, {"Content-Type": kind})
                response = connection.getresponse()
                status, answer = response.status, response.read()
            except (OSError, HTTPException, ValueError):  # ValueError: a truncated head
                status, answer = 0, b""
            finally:
                connection.close()
            if status in expected:
                return
            if 400 <= status < 500:
                self.refusals.append(f"{method}: {status} {answer!r}")
                return
            time.sleep(self._chance.uniform(0.05, 0.3))
