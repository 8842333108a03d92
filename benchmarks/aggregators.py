"""What a second aggregator process adds: events counted a second with one and with two, over a Valkey of its own.

``python benchmarks/aggregators.py [--rounds N] [--batches N] [--topics N] [--keys N]`` starts aggregators, lets them
share the partitions, and stops them (SIGSTOP) while batches of 1,000 events are published, so that the producer takes
none of their cores. Then they go on, and the time is taken until the last frame of every topic has the log's last
offset. Rounds with one and two take turns; ratios are of neighbours.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from measure import BATCH, Table, machine, stored_batches
from pushsvc.broker import Broker, Log
from pushsvc.broker.embedded import EmbeddedServer
from pushsvc.event import Reader
from pushsvc.settings import TopicSettings
from pushsvc.topic import PARTITIONS, partition_of
from system import cpu, processes

_PATIENCE = 120.0
_QUICKLY = 3.5
"""Seconds that aggregators may be stopped: their leases end after 5."""


@dataclass(frozen=True)
class Round:
    """What one round took: ``seconds`` by the clock, CPU seconds of every aggregator and of Valkey."""

    events: int
    seconds: float
    aggregators: list[float]
    server: float

    @property
    def pace(self) -> float:
        return self.events / self.seconds


def wait(look: Callable[[], bool]) -> None:
    end = time.monotonic() + _PATIENCE
    while not look():
        if time.monotonic() > end:
            raise SystemExit("the aggregators did not get there in time")
        time.sleep(0.01)


def evenly(count: int) -> list[str]:
    """Return topics of as many partitions, spread over all of them."""
    found: dict[int, str] = {}
    wanted = {number * PARTITIONS // count for number in range(count)}
    number = 0
    while len(found) < count:
        name = f"bench-{number}"
        if partition_of(name) in wanted:
            found.setdefault(partition_of(name), name)
        number += 1
    return [found[partition] for partition in sorted(found)]


def shares(broker: Broker) -> list[int]:
    """Return how many partitions each aggregator owns."""
    keys = [("GET", broker.keys.lease(number)) for number in range(PARTITIONS)]
    return sorted(Counter(owner for owner in broker._connections.commands(keys) if owner).values())


@contextmanager
def running(url: str, prefix: str, count: int, config: str) -> Iterator[list[int]]:
    """Run aggregators that have shared the partitions; yield their process ids."""
    command = [sys.executable, "-m", "pushsvc", "aggregator", "--aggregators", str(count)]
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder) / "pushsvc.toml"
        settings.write_text(config)
        environment = os.environ | {"PUSHSVC_REDIS": url, "PUSHSVC_PREFIX": prefix, "PUSHSVC_CONFIG": str(settings)}
        parent = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        broker = Broker(url, prefix)
        try:
            wait(lambda: shares(broker) == [PARTITIONS // count] * count)
            yield processes(parent.pid)["aggregator"]
        finally:
            broker.close()
            parent.terminate()
            parent.wait()


def publish(broker: Broker, topics: list[str], batches: list[bytes]) -> None:
    reader, settings, begun = Reader(), TopicSettings(retention=10**9), time.monotonic()
    made = [reader.read(topics[0], data, "application/x-ndjson", now=int(time.time() * 1000)).batch for data in batches]
    begun = time.monotonic()
    for number, batch in enumerate(made):
        broker.publish(topics[number % len(topics)], batch, settings)
    if time.monotonic() - begun > _QUICKLY:
        raise SystemExit("publishing took longer than leases allow: take fewer --batches")


def told(broker: Broker, topics: list[str], windows: list[str]) -> dict[str, int]:
    """Return the offset of each topic's last frames."""
    answers = broker.figures([Log(topic, window) for topic in topics for window in windows])
    sources = [int(answer.get("source", 0)) for answer in answers]
    return {topic: min(sources[n * len(windows) :][: len(windows)]) for n, topic in enumerate(topics)}


def play(server: EmbeddedServer, count: int, topics: list[str], batches: list[bytes], config: str = "") -> Round:
    prefix = f"bench-{time.monotonic_ns()}:"
    broker = Broker(server.url, prefix)
    broker.check_layout()
    broker.open_partitions()
    windows = [window.name for window in TopicSettings().windows]
    with running(server.url, prefix, count, config) as workers:
        publish(broker, topics, batches[: len(topics)])
        wait(lambda: all(told(broker, topics, windows).values()))  # keys, rows and columns are there
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        publish(broker, topics, batches)
        last = {
            topic: int(figures["last"])
            for topic, figures in zip(topics, broker.figures(list(map(Log, topics))), strict=True)
        }
        before, begun = [cpu([pid]) for pid in [*workers, server.pid or 0]], time.monotonic()
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
        wait(lambda: told(broker, topics, windows) == last)
        seconds = time.monotonic() - begun
        *spent, valkey = [cpu([pid]) - was for pid, was in zip([*workers, server.pid or 0], before, strict=True)]
    broker._connections.everywhere("FLUSHALL")
    broker.close()
    return Round(len(batches) * BATCH, seconds, spent, valkey)


def report(title: str, note: str, rounds: dict[str, list[Round]]) -> None:
    """Print every round, and what the last kind adds to the first."""
    table = Table(
        title,
        ("", "events/s", "seconds", "CPU s of aggregators", "of Valkey", "CPU us/event", "cores busy"),
        note,
    )
    for name, played in rounds.items():
        for one in played:
            each, total = " + ".join(f"{spent:.2f}" for spent in one.aggregators), sum(one.aggregators)
            cores = (total + one.server) / one.seconds
            table.add(
                name, f"{one.pace:,.0f}", f"{one.seconds:.2f}", each, f"{one.server:.2f}",
                f"{total / one.events * 1e6:.2f}", f"{cores:.2f}",
            )  # fmt: skip
    table.print()
    first, *others = rounds
    for name in others:
        ratios = [b.pace / a.pace for a, b in zip(rounds[first], rounds[name], strict=True)]
        print(f"{name} / {first}: {statistics.median(ratios):.2f} (median), {min(ratios):.2f} to {max(ratios):.2f}")
    one = rounds[first][0]
    both = sum(sum(r.aggregators) + r.server for r in rounds[first]) / sum(r.events for r in rounds[first])
    alone = sum(sum(r.aggregators) for r in rounds[first]) / sum(r.events for r in rounds[first])
    print(
        f"limit: {os.cpu_count()} cores for aggregators and Valkey. By CPU alone two aggregators could be "
        f"{min(len(one.aggregators) * 2, (os.cpu_count() or 1) * alone / both):.2f} times one"
    )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=4)
    options.add_argument("--batches", type=int, default=1_500)
    options.add_argument("--topics", type=int, default=16)
    options.add_argument("--keys", type=int, default=1_000)
    chosen = options.parse_args()
    print(machine())
    batches, topics = stored_batches(chosen.batches, chosen.keys), evenly(chosen.topics)
    rounds: dict[str, list[Round]] = {"one aggregator": [], "two aggregators": []}
    with tempfile.TemporaryDirectory() as folder:
        server = EmbeddedServer(Path(folder))
        server.start()
        try:
            for _ in range(chosen.rounds):
                for count, name in enumerate(rounds, 1):
                    rounds[name].append(play(server, count, topics, batches))
        finally:
            server.stop()
    note = (
        f"{chosen.batches * BATCH:,} events of {chosen.keys:,} keys in {chosen.topics} topics, three windows, unwatched"
    )
    report("A second aggregator", note, rounds)


if __name__ == "__main__":
    main()
