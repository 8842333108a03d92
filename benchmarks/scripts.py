"""The time that Redis spends on each script, for an event, a frame or a read.

The script makes one call at a time to a real Valkey. The times are microseconds of wall time per call within the
server, from ``INFO commandstats``. A second table has the CPU of the whole server (network, subscriber and append-only
file included) for single events to random topics, sent in groups as concurrent requests are.

    python benchmarks/scripts.py [--quick]
"""

from __future__ import annotations

import random
import re
import tempfile
import threading
from argparse import ArgumentParser
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import redis

from measure import Table, machine
from pushsvc.broker.append import Append
from pushsvc.broker.broker import Broker, StatisticsWrite
from pushsvc.broker.embedded import EmbeddedServer
from pushsvc.broker.keys import Log
from pushsvc.broker.limits import BrokerLimits
from pushsvc.broker.log import FrameKind
from pushsvc.broker.publisher import EventPublisher
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
    fence = broker.lease([WINDOW.partition], "me", 3_600_000)[WINDOW.partition] or 0

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


def cpu(broker: Broker) -> float:
    """Return the CPU seconds of the server so far."""
    info = broker.connections.command("INFO", "cpu").decode()
    return sum(map(float, re.findall(r"used_cpu_(?:user|sys):([0-9.]+)", info)))


def drain(subscriber: redis.client.PubSub) -> None:
    with suppress(redis.RedisError):  # when the server stops
        for _ in subscriber.listen():
            pass


def measure_quiet_topics(broker: Broker, url: str, part: int) -> None:
    topics = [f"user.{number}" for number in range(10_000 // part)]
    table = Table(
        f"Redis's CPU for one event to one of {len(topics)} topics, each with a subscriber",
        ("events in a group", "with windows, us", "windows = [], us"), f"The least of {REPEATS} repeats.",
    )  # fmt: skip
    subscriber = redis.from_url(url, socket_timeout=None).pubsub()
    subscriber.subscribe(*[broker.keys.log_channel(Log(topic)) for topic in topics])
    threading.Thread(target=drain, args=[subscriber], daemon=True).start()
    connection = broker.connections.open()
    run = broker.connections.run_id(connection)

    commit = broker.committer
    publisher = EventPublisher(broker.keys, broker.publish_command, commit, max_topics=20_000, limits=BrokerLimits())

    def publish(settings: TopicSettings, group: int, count: int) -> None:
        for _ in range(count // group):
            calls = [Append(publisher.target(random.choice(topics), settings), events(1)) for _ in range(group)]
            commands = [call.command(run) for call in calls]
            connection.send_packed_command(connection.pack_commands(commands), check_health=False)
            for _ in calls:
                assert isinstance(connection.read_response(), bytes)

    publish(SETTINGS, 16, 2 * len(topics))
    for group in (1, 4, 16):
        found = []
        for settings in (SETTINGS, TopicSettings(windows=())):
            count = 16_000 // part
            costs = []
            for _ in range(REPEATS):
                begun = cpu(broker)
                publish(settings, group, count)
                costs.append((cpu(broker) - begun) / count * 1e6)
            found.append(f"{min(costs):.1f}")
        table.add(str(group), *found)
    connection.disconnect()
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
            measure_quiet_topics(broker, server.url, part)
        finally:
            broker.close()
            server.stop()


if __name__ == "__main__":
    main()
