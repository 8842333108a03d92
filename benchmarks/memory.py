"""The memory of topics, events, ids and keys in Redis and in an aggregator, and of a socket in the kernel.

The script runs a real Valkey and real aggregators. The memory of Redis is its ``used_memory``, that of processes their
resident memory, and that of sockets the kernel's slabs, which include all other programs of the machine.

    python benchmarks/memory.py [--quick]
"""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from measure import Table, machine
from pushsvc.broker.broker import Broker
from pushsvc.broker.embedded import EmbeddedServer
from pushsvc.broker.keys import Log
from pushsvc.event import Batch
from pushsvc.settings import TopicSettings

SETTINGS = TopicSettings()
WINDOWS = [window.name for window in SETTINGS.windows]
PATIENCE = 120.0


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the sizes")
    part = 10 if parser.parse_args().quick else 1
    print(machine())
    measure_sockets(9_000 // part)
    with tempfile.TemporaryDirectory() as folder:
        server = EmbeddedServer(Path(folder), options={"appendonly": "no"})
        server.start()
        broker = Broker(server.url)
        try:
            measure_events(broker, 50_000 // part)
            measure_topics(broker, server.url, 2_000 // part)
            measure_keys(broker, server.url, 10_000 // part)
        finally:
            broker.close()
            server.stop()


def used(broker: Broker) -> int:
    """Return the bytes that Redis has allocated for data, connections and itself."""
    info: bytes = broker.connections.command("INFO", "memory")
    return next(int(line[12:]) for line in info.decode().split("\r\n") if line.startswith("used_memory:"))


def flush(broker: Broker) -> None:
    broker.connections.command("FLUSHALL", "SYNC")


def batch(count: int, size: int, *, ids: str = "") -> Batch:
    """Return events with a stored form of ``size`` bytes each, without the id."""
    line = b'{"key":"k","rating":4.5,"note":"%b"}'
    line %= b"x" * (size - len(line) + 2)
    names = [f"{ids}-{number:012}" for number in range(count)] if ids else None
    return Batch(b"\n".join([line] * count), count, names)


# -- sockets


def measure_sockets(pairs: int) -> None:
    """Measure open loopback connections; each has two sockets."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    held: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0), backlog=1_024) as listener:
        before = slabs()
        for _ in range(pairs):
            held += [socket.create_connection(listener.getsockname()), listener.accept()[0]]
        grown = slabs() - before
    for one in held:
        one.close()
    table = Table("an idle socket", ("sockets", "KB of kernel slab each"))
    table.add(f"{len(held):,}", f"{grown / len(held) / 1e3:.1f}")
    table.print()


def slabs() -> int:
    found = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("Slab:"))
    return int(found.split()[1]) * 1_024


# -- events


def measure_events(broker: Broker, count: int) -> None:
    table = Table(
        "an event in Redis",
        ("bytes an event", "events a request", "ids", "Redis bytes an event", "times its bytes"),
        f"``used_memory`` before and after {count:,} events of one topic. An id is kept for 10 to 20 minutes.",
    )
    for size, together, ids in (
        (64, 1, 0),
        (64, 100, 0),
        (64, 1_000, 0),
        (1_000, 1, 0),
        (1_000, 100, 0),
        (64, 1_000, 1),
    ):
        flush(broker)
        broker.publish("events", batch(1, size), SETTINGS)
        before = used(broker)
        for number in range(count // together):
            broker.publish("events", batch(together, size, ids=f"producer-{number:06}" if ids else ""), SETTINGS)
        each = (used(broker) - before) / (count // together * together)
        table.add(f"{size:,}", f"{together:,}", "yes" if ids else "no", f"{each:,.0f}", f"{each / size:.2f}")
    table.print()


# -- topics and keys


@contextmanager
def aggregator(redis: str) -> Iterator[int]:
    """Run an aggregator; yield the process id of its child that counts."""
    environment = {**os.environ, "PUSHSVC_REDIS": redis}
    process = subprocess.Popen([sys.executable, "-m", "pushsvc", "aggregator"], env=environment)
    try:
        yield child_of(process.pid)
    finally:
        process.terminate()
        process.wait()


def child_of(parent: int) -> int:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        if children:
            return int(children[0])
        time.sleep(0.05)
    raise SystemExit("the aggregator did not start")


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def await_counted(broker: Broker, topics: Sequence[str], last: int) -> None:
    """Wait until the frames of every topic's windows have the offset ``last``."""
    logs = [Log(topic, window) for topic in topics for window in WINDOWS]
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if all(int(metadata.get("source", 0)) >= last for metadata in broker.metadata(logs)):
            return
        time.sleep(0.5)
    raise SystemExit("not everything was counted in time")


def publish_to(broker: Broker, topics: Sequence[str]) -> None:
    for topic in topics:
        broker.publish(topic, batch(1, 64), SETTINGS)


def measure_topics(broker: Broker, redis: str, count: int) -> None:
    flush(broker)
    broker.publish("warm", batch(1, 64), SETTINGS)
    table = Table(
        "a topic",
        ("topics", "Redis KB a topic, log alone", "with statistics", "aggregator KB a topic"),
        "One event each, one key, one field, three windows; resident memory of the aggregator.",
    )
    topics = [f"topic-{number}" for number in range(count)]
    empty = used(broker)
    publish_to(broker, topics)
    alone = used(broker) - empty
    flush(broker)
    broker.publish("warm", batch(1, 64), SETTINGS)
    with aggregator(redis) as pid:
        await_counted(broker, ["warm"], 1)
        at_first, empty = resident(pid), used(broker)
        publish_to(broker, topics)
        await_counted(broker, topics, 1)
        whole = used(broker) - empty
        table.add(f"{count:,}", *(f"{size / count / 1e3:.1f}" for size in (alone, whole, resident(pid) - at_first)))
    table.print()


def measure_keys(broker: Broker, redis: str, count: int) -> None:
    flush(broker)
    broker.publish("keys", batch(1, 64), SETTINGS)
    table = Table(
        "a key",
        ("keys", "events a key", "Redis KB a key, statistics", "aggregator KB a key"),
        "One topic, one field, three windows with quantiles: six rows a key, of events in a few panes. In Redis the\n"
        "statistics logs alone, which hold the last two snapshots and the updates between.",
    )
    with aggregator(redis) as pid:
        await_counted(broker, ["keys"], 1)
        at_first = resident(pid)
        for events in range(1, 6):
            lines = [b'{"key":"key-%d","rating":%d}' % (key, key % 40 + events) for key in range(count)]
            for at in range(0, count, 1_000):
                broker.publish("keys", Batch(b"\n".join(lines[at : at + 1_000]), len(lines[at : at + 1_000])), SETTINGS)
            await_counted(broker, ["keys"], 1 + events * count)
            time.sleep(3)
            held = sum(memory_of(broker, Log("keys", window)) for window in WINDOWS)
            if events in (1, 5):
                table.add(
                    f"{count:,}",
                    str(events),
                    f"{held / count / 1e3:.1f}",
                    f"{(resident(pid) - at_first) / count / 1e3:.1f}",
                )
    table.print()


def memory_of(broker: Broker, log: Log) -> int:
    return int(broker.connections.command("MEMORY", "USAGE", broker.keys.log(log), "SAMPLES", 0) or 0)


if __name__ == "__main__":
    main()
