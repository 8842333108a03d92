"""The time that Redis spends on each script, for an event, a frame or a read.

The script makes one call at a time to a real Valkey. The times are microseconds of wall time per call within the
server, from ``INFO commandstats``.

    python benchmarks/scripts.py [--quick]
"""

from __future__ import annotations

import re
import tempfile
from argparse import ArgumentParser
from collections.abc import Callable
from functools import partial
from pathlib import Path

from measure import Table, machine
from pushsvc.broker.broker import Broker, StatisticsWrite
from pushsvc.broker.embedded import EmbeddedServer
from pushsvc.broker.keys import Log
from pushsvc.broker.log import FrameKind
from pushsvc.event import Batch
from pushsvc.settings import TopicSettings

SETTINGS = TopicSettings()
TOPIC = "scripts"
WINDOW = Log(TOPIC, "1m")
FRAME = b'{"data":"%b"}' % (b"x" * 2_000)
REPEATS = 3


def events(count: int, named: str = "") -> Batch:
    ids = [f"{named}-{number:06}" for number in range(count)] if named else None
    return Batch(b"\n".join([b'{"key":"k","rating":4.5,"note":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}'] * count), count, ids)


def spent(broker: Broker, call: Callable[[int], object], count: int) -> float:
    """Return the least microseconds of a call over several repeats."""
    found = []
    for repeat in range(REPEATS):
        broker.connections.command("CONFIG", "RESETSTAT")
        for number in range(count):
            call(repeat * count + number)
        info = broker.connections.command("INFO", "commandstats").decode()
        matched = re.search(r"cmdstat_evalsha:calls=\d+,usec=\d+,usec_per_call=([0-9.]+)", info)
        assert matched is not None
        found.append(float(matched[1]))
    return min(found)


def measure(broker: Broker, part: int) -> None:
    fence = broker.lease([WINDOW.partition], "me", 3_600_000)[WINDOW.partition]

    def publish(count: int, named: bool, number: int) -> None:
        broker.publish(TOPIC, events(count, f"producer-{number:06}" if named else ""), SETTINGS)

    def write(number: int) -> None:
        broker.append_statistics(
            [StatisticsWrite(WINDOW, FrameKind.UPDATE if number % 20 else FrameKind.SNAPSHOT, 1, FRAME)], fence
        )

    def look(number: int) -> None:
        broker.read(WINDOW.partition, {WINDOW: last - 1})

    table = Table("Redis's time for a script", ("call", "us"), "The least of three repeats.")
    rows: list[tuple[str, Callable[[int], object], int]] = [
        ("publish one event", partial(publish, 1, False), 3_000),
        ("publish one event with an id", partial(publish, 1, True), 3_000),
        ("publish 1,000 events", partial(publish, 1_000, False), 100),
        ("publish 1,000 events with ids", partial(publish, 1_000, True), 100),
        ("write a frame of 2 KB", write, 2_000),
    ]
    for name, call, count in rows:
        table.add(name, f"{spent(broker, call, count // part):,.0f}")
    last = int(broker.metadata([WINDOW])[0]["last"])
    table.add("read a frame of 2 KB", f"{spent(broker, look, 3_000 // part):,.0f}")
    idle = spent(broker, lambda _: broker.sweep({TOPIC: SETTINGS}, fence, 50), 3_000 // part)
    table.add("sweep a topic, nothing to do", f"{idle:,.0f}")
    table.print()


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the calls")
    part = 10 if parser.parse_args().quick else 1
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        server = EmbeddedServer(Path(folder))
        server.start()
        broker = Broker(server.url)
        try:
            measure(broker, part)
        finally:
            broker.close()
            server.stop()


if __name__ == "__main__":
    main()
