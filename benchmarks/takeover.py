"""The cost of checkpoints, and the work that they save in a takeover; with a Valkey of its own.

``python benchmarks/takeover.py [--events N] [--keys N] [--seconds N]`` publishes events (1,000,000 of 1,000 keys, in
60 s) evenly to one topic and counts them as an aggregator does, with checkpoints at their normal times. Then it stops.
A successor takes over, once with the last checkpoint and once with the log alone; its time ends when it has counted
all events and written a snapshot. Times are CPU seconds of the aggregator's work in this process; "wall" includes the
time of Valkey.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
from prometheus_client import REGISTRY

from measure import BATCH, Table, machine, stored_batches
from pushsvc.broker.broker import Broker
from pushsvc.broker.embedded import EmbeddedServer
from pushsvc.broker.keys import Log
from pushsvc.event import EventReader
from pushsvc.settings import TopicRules
from pushsvc.system_clock import now_ms
from pushsvc.worker import checkpoints
from pushsvc.worker.worker import AggregatorWorker

TOPIC = "bench"
HOUR = 3_600_000


class Meter:
    """Adds up the CPU time of calls."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def measured(*arguments: Any, **named: Any) -> Any:
            started = time.thread_time()
            try:
                return call(*arguments, **named)
            finally:
                self.seconds += time.thread_time() - started

        return measured


def metric(name: str) -> float:
    return REGISTRY.get_sample_value(name) or 0.0


def owner(broker: Broker, *, rebuild_from_log: bool = False) -> AggregatorWorker:
    """Return a worker that has taken the topic's partition from its predecessor."""
    number = Log(TOPIC).partition
    broker.connections.command("DEL", broker.keys.lease(number))
    broker.connections.command("HDEL", broker.keys.partition(number), "owner")
    worker = AggregatorWorker(broker, TopicRules())
    worker.adopt(number, broker.lease([number], "bench", HOUR)[number] or 0)
    worker.partitions[number].rebuild_from_log = rebuild_from_log
    return worker


def turn(worker: AggregatorWorker) -> None:
    for partition in worker.partitions.values():
        partition.unread.add(TOPIC)
    worker.step()


def feed(
    broker: Broker, worker: AggregatorWorker, batches: list[bytes], count: int, seconds: float
) -> tuple[float, float]:
    """Publish evenly and count; return the CPU seconds of counting and of checkpoints."""
    rules, reader, counting, saving = TopicRules(), EventReader(), Meter(), Meter()
    store = broker.checkpoints
    store.write, store.commit = saving.around(store.write), saving.around(store.commit)  # type: ignore[method-assign]
    checkpoints.crc32 = saving.around(checkpoints.crc32)  # type: ignore[attr-defined]
    look, step = saving.around(worker.checkpointer.poll), counting.around(turn)
    started, beside = time.monotonic(), 0.0  # work of the greenlet that writes checkpoints, while counting paused
    for number in range(count):
        data = batches[number % len(batches)]
        batch = reader.read(TOPIC, data, "application/x-ndjson", now=now_ms()).batch
        broker.publish(TOPIC, batch, rules.settings_of(TOPIC))
        before = saving.seconds
        step(worker)
        beside += saving.seconds - before
        look(worker.partitions.values())
        gevent.sleep(max(0.0, started + seconds * number / count - time.monotonic()))
    return counting.seconds - beside, saving.seconds


def take_over(broker: Broker, last: int, *, rebuild_from_log: bool) -> tuple[float, float, int]:
    """Return the CPU and wall seconds until a successor has caught up, and the entries that it read."""
    entries = metric("pushsvc_entries_read_total")
    cpu, wall = time.thread_time(), time.monotonic()
    worker = owner(broker, rebuild_from_log=rebuild_from_log)
    turn(worker)
    (partition,) = worker.partitions.values()
    while partition.topics[TOPIC].counts.offset < last or not partition.topics[TOPIC].reported:
        turn(worker)
    took = time.thread_time() - cpu, time.monotonic() - wall
    return *took, int(metric("pushsvc_entries_read_total") - entries)


def run(url: str, events: int, keys: int, seconds: float) -> None:
    broker = Broker(url)
    broker.check_layout()
    broker.open_partitions()
    worker = owner(broker)
    counting, saving = feed(broker, worker, stored_batches(100, keys), events // BATCH, seconds)
    (partition,) = worker.partitions.values()
    (engine,) = partition.engines.values()
    written, size = int(metric("pushsvc_checkpoints_written_total")), engine.stored.size if engine.stored else 0
    worker.checkpointer.close()
    with_checkpoint, log_alone = (
        take_over(broker, events, rebuild_from_log=False),
        take_over(broker, events, rebuild_from_log=True),
    )
    broker.close()

    costs = Table(
        "What checkpoints cost",
        ("", "CPU s", "share"),
        f"{events:,} events, {keys:,} keys, three windows, in {seconds:.0f} s",
    )
    costs.add("counting", f"{counting:.2f}", "1.000")
    costs.add(f"{written} checkpoints of {size / 1e6:.1f} MB", f"{saving:.2f}", f"{saving / counting:.3f}")
    costs.print()
    table = Table("Taking over", ("", "entries read", "CPU s", "ratio", "wall s", "ratio"))
    for name, (cpu, wall, read) in (("with the checkpoint", with_checkpoint), ("the log alone", log_alone)):
        table.add(
            name, f"{read:,}", f"{cpu:.2f}", f"{cpu / log_alone[0]:.2f}", f"{wall:.2f}", f"{wall / log_alone[1]:.2f}"
        )
    table.print()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--events", type=int, default=1_000_000)
    options.add_argument("--keys", type=int, default=1_000)
    options.add_argument("--seconds", type=float, default=60.0)
    chosen = options.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        server = EmbeddedServer(Path(folder))
        server.start()
        try:
            run(server.url, chosen.events, chosen.keys, chosen.seconds)
        finally:
            server.stop()


if __name__ == "__main__":
    main()
