"""How long a corrected or deleted event takes until every row of its topic is what it would have been.

A topic of 100,000 events has a window with quantiles and distinct values, from which nothing can be subtracted: the
rows concerned are counted from the log again. One row has a tenth of the events, or a thousandth; the total row has
all of them. The time is that from the request to the first frame that is not ``pending`` and has the right totals,
which is asked for every 20 ms.

    python benchmarks/corrections.py [--events 100000] [--repeats 5]
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from measure import Table, machine

PORT = 18_438
BATCH = 1_000
POLL = 0.02  # s
SETTINGS = """
[topics.">"]
windows = ["1h"]
values = ["dish"]
statistics = ["p50", "p95", "distinct"]
"""


def ask(method: str, path: str, body: object = None, kind: str = "application/json") -> tuple[int, Any]:
    connection = HTTPConnection("127.0.0.1", PORT, timeout=60)
    try:
        connection.request(
            method,
            path,
            None if body is None else json.dumps(body),
            {"Content-Type": kind, "Accept": "application/json"},
        )
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read() or b"null")
    finally:
        connection.close()


def until(look: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not look():
        if time.monotonic() > deadline:
            raise SystemExit("no answer within two minutes")
        time.sleep(POLL)


def is_ready() -> bool:
    try:
        return ask("GET", "/readyz")[0] == 200
    except OSError:
        return False


class Topic:
    """A topic and what its total row must have."""

    def __init__(self, name: str, keys: int, events: int) -> None:
        self._path = f"/v1/topics/{name}"
        self._ratings = [number % 97 for number in range(events)]
        for first in range(0, events, BATCH):
            batch = [
                {"key": f"k{number % keys}", "rating": self._ratings[number], "dish": f"dish-{number % 300}"}
                for number in range(first, min(first + BATCH, events))
            ]
            status, answer = ask("POST", f"{self._path}/events", batch)
            assert status == 202, answer
        self._count, self._sum = events, sum(self._ratings)
        until(self._is_exact)

    def correct(self, offset: int) -> None:
        self._sum += 1_000 - self._ratings[offset - 1]
        self._change("PATCH", offset, "", {"rating": 1_000})

    def delete(self, offset: int) -> None:
        self._remove(offset, "")

    def erase(self, offset: int) -> None:
        self._remove(offset, "?erase=true")

    def _remove(self, offset: int, query: str) -> None:
        self._count, self._sum = self._count - 1, self._sum - self._ratings[offset - 1]
        self._change("DELETE", offset, query)

    def _change(self, method: str, offset: int, query: str, body: object = None) -> None:
        path = f"{self._path}/events/$%d{query}" % offset
        status, answer = ask(method, path, body, "application/merge-patch+json")
        assert status == 200, answer

    def wait(self) -> None:
        until(self._is_exact)

    def _is_exact(self) -> bool:
        _, frame = ask("GET", f"{self._path}/stats?window=1h&key=&field=rating")
        if frame.get("pending") or not frame["data"]:
            return False
        found = dict(zip(frame["columns"], frame["data"][0], strict=True))
        return (found["count"], found["sum"]) == (self._count, self._sum)


def timed(topic: Topic, change: Callable[[int], None], offsets: list[int]) -> tuple[float, float]:
    """Return for how many seconds the requests and the statistics took, one after the other."""
    begun = time.perf_counter()
    for offset in offsets:
        change(offset)
    answered = time.perf_counter()
    topic.wait()
    return answered - begun, time.perf_counter() - begun


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=5)
    chosen = parser.parse_args()
    table = Table(
        "Corrections", ("keys", "change", "answered (ms)", "exact (s)", "longest"),
        f"{machine()}; a topic of {chosen.events:,} events; median and longest of {chosen.repeats}",
    )  # fmt: skip
    with TemporaryDirectory() as folder:
        config = Path(folder, "pushsvc.toml")
        config.write_text(SETTINGS)
        command = [str(Path(sys.executable).with_name("pushsvc")), "serve", "--port", str(PORT), "--data-dir", folder]
        server = subprocess.Popen([*command, "--config", str(config)], stdout=subprocess.DEVNULL)
        try:
            until(is_ready)
            for keys in (10, 1_000):
                topic = Topic(f"corrected-{keys}", keys, chosen.events)
                step = chosen.events // 1_000
                offsets = iter(range(7, chosen.events, step))
                changes = {"patch": topic.correct, "delete": topic.delete, "erase": topic.erase}
                for name, change, number in (
                    *((n, c, 1) for n, c in changes.items()),
                    ("100 patches", topic.correct, 100),
                ):
                    runs = [timed(topic, change, [next(offsets) for _ in range(number)]) for _ in range(chosen.repeats)]
                    answered, exact = median(run[0] for run in runs), [run[1] for run in runs]
                    table.add(
                        f"{keys:,}",
                        name,
                        f"{answered * 1_000 / number:.1f}",
                        f"{median(exact):.2f}",
                        f"{max(exact):.2f}",
                    )
        finally:
            server.terminate()
            server.wait()
    table.print()


if __name__ == "__main__":
    main()
