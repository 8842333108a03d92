"""End-to-end latency: from the start of a POST until a subscriber has the statistics frame that counts its event.

The web process has one core; the aggregator, Valkey, the producers and the subscribers share the others. Sixteen
producers together post single events of 16 keys at a steady rate. One subscriber records when each frame arrives and
up to which offset it counts; ``--subscribers`` others receive the same stream.

    python benchmarks/latency.py [--rate 1000] [--subscribers 100] [--seconds 20]
"""

from __future__ import annotations

import json
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time
from argparse import ArgumentParser
from bisect import bisect_left
from collections import deque
from pathlib import Path

import numpy as np

from fanout import OTHER_CORES, STATS, Subscribers, Web, compiled, pinned
from measure import Table, Target, machine
from pushsvc.broker.embedded import EmbeddedServer

KEYS = 16
PRODUCERS = 16
SETTINGS = """
[topics."default"]
windows = ["1m"]

[topics."at-once"]
windows = ["1m"]
cadence_ms = 0
"""


class Watcher(threading.Thread):
    """A subscriber that records ``(offset, time)`` of each frame."""

    def __init__(self, port: int, topic: str) -> None:
        super().__init__(daemon=True)
        self.offsets: list[int] = []
        self.times: list[float] = []
        self._socket = socket.create_connection(("127.0.0.1", port))
        head = f"GET {STATS.format(topic)} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n"
        self._socket.sendall(head.encode())

    def run(self) -> None:
        rest = b""
        while data := self._socket.recv(1 << 20):
            now = time.monotonic()
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                if line.startswith(b"data:"):
                    self.offsets.append(int(line.split(b'"offset":', 1)[1].split(b",", 1)[0]))
                    self.times.append(now)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)


class Producer:
    """A connection with at most one request under way."""

    def __init__(self, port: int, topic: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.started = 0.0
        self._topic = topic.encode()
        self._answer = b""

    def post(self, number: int) -> None:
        self.started = time.monotonic()
        body = b'{"key":"key-%d","value":%d}' % (number % KEYS, number % 100)
        self.socket.sendall(
            b"POST /v1/topics/%b/events HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (self._topic, len(body), body)
        )

    def offset(self) -> int | None:
        """Read the available part of the answer; return the offset of the event when the answer is complete."""
        data = self.socket.recv(65_536)
        if not data:
            raise SystemExit(f"the connection ended: {self._answer!r}")
        self._answer += data
        if not self._answer.endswith(b"}"):
            return None
        answer, self._answer = self._answer, b""
        if not answer.startswith(b"HTTP/1.1 202"):
            raise SystemExit(answer.decode())
        return int(json.loads(answer.partition(b"\r\n\r\n")[2])["last_offset"])


def produce(port: int, topic: str, rate: int, seconds: int) -> tuple[dict[int, float], int]:
    """Post single events when they are due and a producer is free; return the start of each POST by offset, and how
    many started more than 10 ms late."""
    started: dict[int, float] = {}
    free = deque(Producer(port, topic) for _ in range(PRODUCERS))  # in turns: the server closes idle connections
    poll = select.poll()
    busy: dict[int, Producer] = {}
    for one in free:
        poll.register(one.socket, select.POLLIN)
    start, late, number, total = time.monotonic(), 0, 0, rate * seconds
    while number < total or busy:
        due = start + number / rate
        while number < total and free and due <= time.monotonic():
            one = free.popleft()
            one.post(number)
            late += one.started - due > 0.01
            busy[one.socket.fileno()] = one
            number += 1
            due = start + number / rate
        wait = max(0.0, due - time.monotonic()) * 1e3 if number < total and free else None
        for descriptor, _ in poll.poll(wait):
            one = busy[descriptor]
            if (offset := one.offset()) is not None:
                started[offset] = one.started
                del busy[descriptor]
                free.append(one)
    for one in free:
        one.socket.close()
    return started, late


def measure(web: Web, client: Path, topic: str, rate: int, seconds: int, subscribers: int) -> tuple[str, ...]:
    """Return a table row: percentiles of the latency in ms, frames a second, and late POSTs."""
    produce(web.port, topic, 100, 1)
    watcher = Watcher(web.port, topic)
    watcher.start()
    with Subscribers(client, web.port, STATS.format(topic), subscribers - 1):
        time.sleep(1)
        frames = len(watcher.times)
        started, late = produce(web.port, topic, rate, seconds)
        time.sleep(2)
        frames = len(watcher.times) - frames
    watcher.close()
    ages = []
    for offset, at in started.items():
        place = bisect_left(watcher.offsets, offset)
        if place == len(watcher.offsets):
            raise SystemExit(f"{topic}: no frame counts the event at offset {offset}")
        ages.append((watcher.times[place] - at) * 1e3)
    return (*(f"{np.percentile(ages, part):.1f}" for part in (50, 99, 100)), f"{frames / seconds:.0f}", str(late))


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=int, default=1_000, help="events a second")
    parser.add_argument("--subscribers", type=int, default=100)
    parser.add_argument("--seconds", type=int, default=20)
    given = parser.parse_args()
    print(machine())
    table = Table(
        f"From POST to frame: {given.rate:,} events/s, {KEYS} keys, one window, {given.subscribers} subscribers",
        ["cadence", "p50 ms", "p99 ms", "max ms", "frames/s", "late POSTs", "target", ""],
        "A late POST started 10 ms or more after it was due: a lag of the producer; its latency counts from its start.",
    )
    with compiled() as (client, _), tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pushsvc.toml").write_text(SETTINGS)
        redis = EmbeddedServer(folder / "data", options={"appendfsync": "no"})
        redis.start()
        command = [sys.executable, "-m", "pushsvc", "aggregator", "--redis", redis.url]
        aggregator = pinned(command, OTHER_CORES, cwd=folder, stderr=subprocess.DEVNULL)
        web = Web(redis.url, folder)
        try:
            for topic, cadence, bound in (("default", "100 ms", 150.0), ("at-once", "0", 20.0)):
                cells = measure(web, client, topic, given.rate, given.seconds, given.subscribers)
                target = Target(f"p99 <= {bound:g} ms", bound, least=False)
                table.add(cadence, *cells, target.text, target.verdict(float(cells[1])))
        finally:
            web.stop()
            aggregator.terminate()
            aggregator.wait(30)
            redis.stop()
    table.print()


if __name__ == "__main__":
    main()
