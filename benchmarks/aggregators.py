"""The gain from a second aggregator process, and from shards of one hot topic; with a Valkey of its own.

``python benchmarks/aggregators.py [--rounds N] [--batches N] [--topics N] [--keys N] [--only many|one]`` starts
aggregators, waits until they share the partitions, and stops them (SIGSTOP) while it publishes batches of 1,000 events,
so that the producer uses none of their cores. Then they continue, and the script measures the time until the last frame
of every topic has the last offset of its log. Rounds alternate; a ratio compares neighbouring rounds. For one topic it
prints the cost without and with shards, and the cost of an event in one shard of this process.
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

from measure import BATCH, START, Table, machine, settle, stored_batches
from pushsvc.aggregate.aggregate import Aggregate
from pushsvc.aggregate.shard import Shard
from pushsvc.broker.broker import Broker
from pushsvc.broker.embedded import EmbeddedServer
from pushsvc.broker.keys import Log
from pushsvc.event import EventReader
from pushsvc.event.columns import ColumnReader
from pushsvc.settings import TopicSettings
from pushsvc.system_clock import now_ms
from pushsvc.topic import PARTITIONS, partition_of
from system import cpu, processes

HOT = "hot"
_PATIENCE = 120.0
_STOPPED = 60.0
"""Seconds that aggregators may be stopped; leases last as long."""


@dataclass(frozen=True)
class Round:
    """The duration of a round in ``seconds``, and the CPU seconds of each aggregator, of Valkey and of ``others``: all
    other programs on this machine, including its host."""

    events: int
    seconds: float
    aggregators: list[float]
    server: float
    others: float

    @property
    def pace(self) -> float:
        return self.events / self.seconds


def busy() -> float:
    """Return the seconds in which the cores of this machine were busy or taken by its host (Linux only)."""
    user, nice, system, _idle, _waiting, *rest = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:9])
    return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")


def wait(look: Callable[[], bool]) -> None:
    end = time.monotonic() + _PATIENCE
    while not look():
        if time.monotonic() > end:
            raise SystemExit("the aggregators did not get there in time")
        time.sleep(0.01)


def evenly(count: int) -> list[str]:
    """Return topics that are spread evenly over the partitions."""
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
    return sorted(Counter(owner for owner in broker.connections.commands(keys) if owner).values())


@contextmanager
def running(url: str, prefix: str, count: int, config: str) -> Iterator[int]:
    """Run aggregators that share the partitions; yield the process id of their parent."""
    command = [sys.executable, "-m", "pushsvc", "aggregator", "--aggregators", str(count)]
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder) / "pushsvc.toml"
        settings.write_text(config)
        environment = os.environ | {"PUSHSVC_REDIS": url, "PUSHSVC_PREFIX": prefix, "PUSHSVC_CONFIG": str(settings)}
        parent = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        broker = Broker(url, prefix)
        try:
            wait(lambda: shares(broker) == [PARTITIONS // count] * count)
            yield parent.pid
        finally:
            broker.close()
            parent.terminate()
            parent.wait()


def publish(broker: Broker, topics: list[str], batches: list[bytes]) -> None:
    reader, settings, started = EventReader(), TopicSettings(retention=10**9), time.monotonic()
    made = [reader.read(topics[0], data, "application/x-ndjson", now=now_ms()).batch for data in batches]
    started = time.monotonic()
    for number, batch in enumerate(made):
        broker.publish(topics[number % len(topics)], batch, settings)
    if time.monotonic() - started > _STOPPED:
        raise SystemExit("publishing took longer than leases last: take fewer --batches")


def lengthen(broker: Broker) -> None:
    """Extend the leases and presence of the aggregators beyond the time that they are stopped."""
    milliseconds, aggregators = int(_STOPPED * 1000), broker.keys.aggregators
    alive = broker.connections.command("ZRANGE", aggregators, 0, -1)
    commands = [("PEXPIRE", broker.keys.lease(number), milliseconds) for number in range(PARTITIONS)]
    commands += [("ZADD", aggregators, broker.time() + milliseconds, owner) for owner in alive]
    broker.connections.commands(commands)


def frame_offsets(broker: Broker, topics: list[str], windows: list[str]) -> dict[str, int]:
    """Return the offset of each topic's last frames."""
    answers = broker.metadata([Log(topic, window) for topic in topics for window in windows])
    sources = [int(answer.get("source", 0)) for answer in answers]
    return {topic: min(sources[n * len(windows) :][: len(windows)]) for n, topic in enumerate(topics)}


def run_round(server: EmbeddedServer, count: int, topics: list[str], batches: list[bytes], config: str = "") -> Round:
    prefix = f"bench-{time.monotonic_ns()}:"
    broker = Broker(server.url, prefix)
    broker.check_layout()
    broker.open_partitions()
    windows = [window.name for window in TopicSettings().windows]
    with running(server.url, prefix, count, config) as parent:
        publish(broker, topics, batches[: len(topics)])
        wait(lambda: all(frame_offsets(broker, topics, windows).values()))  # keys, rows and columns exist
        found = processes(parent)
        pids = [*found["aggregator"], *found.get("shard", []), server.pid or 0]
        for pid in found["aggregator"]:
            os.kill(pid, signal.SIGSTOP)
        lengthen(broker)
        publish(broker, topics, batches)
        last = {
            topic: int(one["last"]) for topic, one in zip(topics, broker.metadata(list(map(Log, topics))), strict=True)
        }
        before, all_before, started = [cpu([pid]) for pid in pids], busy(), time.monotonic()
        for pid in found["aggregator"]:
            os.kill(pid, signal.SIGCONT)
        wait(lambda: frame_offsets(broker, topics, windows) == last)
        seconds, everything = time.monotonic() - started, busy() - all_before
        *spent, valkey = [cpu([pid]) - was for pid, was in zip(pids, before, strict=True)]
    broker.connections.everywhere("FLUSHALL")
    broker.close()
    return Round(len(batches) * BATCH, seconds, spent, valkey, everything - sum(spent) - valkey)


def run_rounds(
    server: EmbeddedServer, kinds: dict[str, tuple[int, list[str], str]], batches: list[bytes], count: int
) -> dict[str, list[Round]]:
    """Run rounds of every kind (aggregators, topics and pushsvc.toml) in alternation."""
    rounds: dict[str, list[Round]] = {name: [] for name in kinds}
    for _ in range(count):
        for name, (aggregators, topics, config) in kinds.items():
            rounds[name].append(run_round(server, aggregators, topics, batches, config))
    return rounds


def report(title: str, note: str, rounds: dict[str, list[Round]]) -> None:
    """Print every round, and the gain of the last kind over the first."""
    table = Table(
        title,
        ("", "events/s", "seconds", "CPU s of aggregators", "Valkey", "CPU us/event", "cores busy", "by others"),
        note,
    )
    for name, played in rounds.items():
        for one in played:
            each, total = " + ".join(f"{spent:.2f}" for spent in one.aggregators), sum(one.aggregators)
            table.add(
                name, f"{one.pace:,.0f}", f"{one.seconds:.2f}", each, f"{one.server:.2f}",
                f"{total / one.events * 1e6:.2f}", f"{(total + one.server) / one.seconds:.2f}",
                f"{one.others / one.seconds:.2f}",
            )  # fmt: skip
    table.print()
    first, *others = rounds
    for name in others:
        ratios = [b.pace / a.pace for a, b in zip(rounds[first], rounds[name], strict=True)]
        print(f"{name} / {first}: {statistics.median(ratios):.2f} (median), {min(ratios):.2f} to {max(ratios):.2f}")
    print(f"by CPU alone, on {os.cpu_count()} cores without other programs:")
    for name, played in rounds.items():
        print(f"  {name}: at most {statistics.median(map(most, played)):,.0f} events/s")


def report_shards() -> None:
    """Print the cost of an event in one engine and in one of several shards: the least CPU of three runs here."""
    table = Table(
        "An event in one shard of a topic", ("", "one engine, CPU us", "of 2 shards", "ratio", "of 4 shards", "ratio"),
        "three windows; watched: with frames every 33 entries",
    )  # fmt: skip
    for keys, fields in ((1_000, 1), (10_000, 1), (1_000, 4)):
        batches = stored_batches(200, keys, fields)
        for watched in (False, True):
            turns = [[cost_of_shard(parts, batches, watched=watched) for parts in (1, 2, 4)] for _ in range(3)]
            whole, *parts = map(min, zip(*turns, strict=True))
            cells = [cell for part in parts for cell in (f"{part:.2f}", f"{whole / part:.2f}")]
            name = f"{keys:,} keys, {fields} field{'s' * (fields > 1)}{', watched' * watched}"
            table.add(name, f"{whole:.2f}", *cells)
    table.print()


def cost_of_shard(parts: int, batches: list[bytes], *, watched: bool) -> float:
    """Return the CPU microseconds per event of the first of several shards, after its keys exist."""
    settings = TopicSettings(parts=parts)
    reader, part = ColumnReader(settings.key), Shard(settings, START)
    whole = Aggregate(settings, START)
    engine = part if parts > 1 else whole
    engine.open(HOT, START)
    known, started = len(batches) // 4, 0.0
    for number, data in enumerate(batches):
        if number == known:
            started = time.process_time()
        now = START + 3 * number
        engine.apply(HOT, (number + 1) * BATCH, now, reader.read(data))
        if watched and number % 33 == 0:
            if engine is whole:
                for frame in whole.flush(now):
                    frame.to_json(now)
            else:
                for window in range(len(settings.windows)):
                    part.report(HOT, window, full=False)
    settle(engine)
    return (time.process_time() - started) / ((len(batches) - known) * BATCH) * 1e6


def most(one: Round) -> float:
    """Return the events/s that a round's CPU allows: the busiest process has one core, all share all cores."""
    cores = max(max(one.aggregators), one.server, (sum(one.aggregators) + one.server) / (os.cpu_count() or 1))
    return one.events / cores


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=4)
    options.add_argument("--batches", type=int, default=1_500)
    options.add_argument("--topics", type=int, default=16)
    options.add_argument("--keys", type=int, default=1_000)
    options.add_argument("--only", choices=("many", "one"))
    chosen = options.parse_args()
    print(machine())
    batches = stored_batches(chosen.batches, chosen.keys)
    note = f"{chosen.batches * BATCH:,} events of {chosen.keys:,} keys in {{}}, three windows, no subscribers"
    with tempfile.TemporaryDirectory() as folder:
        server = EmbeddedServer(Path(folder))
        server.start()
        try:
            if chosen.only != "one":
                topics = evenly(chosen.topics)
                kinds = {"one aggregator": (1, topics, ""), "two aggregators": (2, topics, "")}
                rounds = run_rounds(server, kinds, batches, chosen.rounds)
                report("A second aggregator", note.format(f"{chosen.topics} topics"), rounds)
            if chosen.only != "many":
                kinds = {"unsplit": (1, [HOT], "")} | {
                    f"{parts} parts": (1, [HOT], f"[topics.{HOT}]\nparts = {parts}\n") for parts in (2, 4)
                }
                rounds = run_rounds(server, kinds, batches, chosen.rounds)
                report("One hot topic, one aggregator", note.format("one topic"), rounds)
                report_shards()
        finally:
            server.stop()


if __name__ == "__main__":
    main()
