"""Looking up one user's events by an index, against reading the log, and what the index costs.

A topic is filled with events of many users over a real Valkey; 43 events are of one user, evenly spread. A look-up is
what a history request does, without Flask. The memory is that of Redis, with the index and without; so is the time of a
publish.

    python benchmarks/index.py [--quick]
"""

from __future__ import annotations

import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median

import orjson

from measure import Table, machine
from pushsvc.broker.broker import Broker
from pushsvc.broker.embedded import EmbeddedServer
from pushsvc.broker.keys import Log
from pushsvc.event import Batch
from pushsvc.event.conditions import EventFilter
from pushsvc.pause import no_pause
from pushsvc.settings import TopicSettings
from pushsvc.web.history import HistoryFilter, PageRequest, ScanLimits, read_page

FOUND = 43
REPEATS = 21
FIELDS = ("user",)
UNLIMITED = ScanLimits(events=10_000_000, bytes=10_000_000_000)


class Count:
    """Counts the events of a page."""

    def __init__(self) -> None:
        self.events = 0

    def add(self, _event: object) -> int:
        self.events += 1
        return 0

    def reverse(self) -> None:
        pass


def batch(first: int, count: int, every: int) -> Batch:
    """Return events of 20,000 users, one in ``every`` of them of the user u42."""
    lines = [
        orjson.dumps({
            "user": "u42" if number % every == every // 2 else f"v{number * 7919 % 20_000}",
            "key": f"dish-{number % 50}",
            "rating": number % 5, "note": "a comment of some length",
        })
        for number in range(first, first + count)
    ]  # fmt: skip
    return Batch(b"\n".join(lines), count)


def fill(broker: Broker, topic: str, settings: TopicSettings, events: int, size: int) -> float:
    """Publish all events, ``size`` at a time; return Redis's microseconds an event."""
    broker.connections.command("CONFIG", "RESETSTAT")
    for first in range(0, events, size):
        broker.publish(topic, batch(first, min(size, events - first), events // FOUND), settings)
    info = broker.connections.command("INFO", "commandstats").decode()
    spent = next(line for line in info.splitlines() if line.startswith("cmdstat_evalsha:"))
    return int(spent.split("usec=")[1].split(",")[0]) / events


def settle(broker: Broker) -> None:
    """Wait until Redis has rewritten its file and freed what was deleted: both take processor time from look-ups."""
    busy = {"aof_rewrite_in_progress:1", "aof_rewrite_scheduled:1"}
    while True:
        info = broker.connections.command("INFO", "everything").decode().splitlines()
        if not busy.intersection(info) and "lazyfree_pending_objects:0" in info:
            return
        time.sleep(0.1)


def times(call: Callable[[], None], repeats: int) -> tuple[float, float]:
    """Return the median and the greatest milliseconds of a call."""
    found = []
    for _ in range(repeats):
        begun = time.perf_counter()
        call()
        found.append(time.perf_counter() - begun)
    return median(found) * 1_000, max(found) * 1_000


def look_up(broker: Broker, topic: str, index: tuple[str, ...]) -> None:
    rows = Count()
    wanted = EventFilter.of(None, None, (), [("user", "u42")])
    selected = HistoryFilter(None, None, wanted, index)
    read_page(broker, topic, selected, PageRequest(1_000), UNLIMITED, rows, no_pause)
    assert FOUND <= rows.events <= FOUND + 1, rows.events


def memory(broker: Broker, key: str) -> int:
    return int(broker.connections.command("MEMORY", "USAGE", key, "SAMPLES", 0) or 0)


def measure(broker: Broker, sizes: list[int]) -> None:
    table = Table(
        "One user's 43 events",
        ("events", "published by", "by index (ms)", "longest", "by reading the log (ms)", "index (B/value)",
         "log (B/event)", "publish, us/event", "without index"),
        "Median and longest of 21; reading the log once.",
    )  # fmt: skip
    for events in sizes:
        for size in (1_000, 10):
            topic = f"indexed-{events}-{size}"
            settings = TopicSettings(windows=(), retention=10_000_000, retention_bytes=0, index=FIELDS)
            plain = TopicSettings(windows=(), retention=10_000_000, retention_bytes=0)
            took = fill(broker, topic, settings, events, size)
            without = fill(broker, f"{topic}-plain", plain, events, size)
            broker.delete(f"{topic}-plain")
            settle(broker)
            by_index, longest = times(lambda topic=topic: look_up(broker, topic, FIELDS), REPEATS)
            by_scan, _ = times(lambda topic=topic: look_up(broker, topic, ()), 1)
            index, log = memory(broker, broker.keys.index(topic)), memory(broker, broker.keys.log(Log(topic)))
            table.add(
                f"{events:,}", f"{size:,}", f"{by_index:.1f}", f"{longest:.1f}", f"{by_scan:,.0f}",
                f"{index / events:.0f}", f"{log / events:.0f}", f"{took:.2f}", f"{without:.2f}",
            )  # fmt: skip
            broker.delete(topic)
    table.print()


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="90,000 events only")
    quick = parser.parse_args().quick
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        server = EmbeddedServer(Path(folder), options={"appendfsync": "no"})
        server.start()
        broker = Broker(server.url)
        try:
            measure(broker, [90_000] if quick else [90_000, 1_000_000])
        finally:
            with suppress(Exception):
                broker.close()
            server.stop()


if __name__ == "__main__":
    main()
