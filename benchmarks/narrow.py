"""One topic for each subscriber: the cost of a message, and of opening streams, as the number of topics grows.

16 producers publish single events to random topics, each waits for its answer; every topic has one subscriber. The
result is the CPU of all processes of the server per message, Redis included. The load client is written in C; this
script compiles it with ``cc``. Peers in the same run: nchan (Debian's ``libnginx-mod-nchan``), which keeps messages in
memory and computes nothing, and with ``--centrifugo PATH`` the binary of Centrifugo with Redis and history. ``keys``
measures one topic whose subscribers have a key each.

    python benchmarks/narrow.py [--quick] [--topics 1000,10000] [--only messages,wide] [--centrifugo PATH]
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from statistics import median
from typing import Any

from fanout import Program, free_port
from fanout_peers import NCHAN_MISSING, cpu_of, nchan_command, tree_of
from measure import Table, machine
from pushsvc.broker.embedded import EmbeddedServer

PRODUCERS = 16
PRODUCER_COUNTS = (16, 64)
IDLE_SECONDS = 30
SETTLING_SECONDS = 100  # the sweeper checks a changed topic within 90 s
ROLES = ("web", "aggregator", "redis")
BODY = '{"t":%t,"key":"a","pad":"' + "x" * 40 + '"}'
PLAIN = "windows = []"
"""Settings of a topic of events alone."""

NCHAN_LOCATIONS = """
    location ~ /pub/(.*)$ { nchan_publisher; nchan_channel_id $1; nchan_message_buffer_length 10; }
    location ~ /sub/(.*)$ {
      nchan_subscriber eventsource; nchan_channel_id $1; nchan_subscriber_first_message newest;
    }
"""


@dataclass
class Server:
    """A server under test. In its paths and its body ``%d`` stands for the number of a topic."""

    name: str
    command: list[str]
    port: int
    stream: str
    publish: str
    folder: Path
    body: str = BODY
    header: str = ""
    missing: str | None = None
    ready: str = "/"
    environment: dict[str, str] = field(default_factory=dict)
    redis: EmbeddedServer | None = None

    @contextmanager
    def running(self) -> Iterator[Server]:
        """Start the server, and its Redis if it has one of its own; end both and remove their data."""
        if self.redis is not None:
            self.redis.start()
        self._started = subprocess.Popen(
            self.command,
            env={**os.environ, **self.environment},
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=(self.folder / "log").open("wb"),
        )
        try:
            self.wait_ready()
            yield self
        finally:
            self._started.terminate()
            try:
                self._started.wait(30)
            except subprocess.TimeoutExpired:
                self._started.kill()
            if self.redis is not None:
                self.redis.stop()
            for name in ("data", "redis"):
                shutil.rmtree(self.folder / name, ignore_errors=True)

    def wait_ready(self) -> None:
        until = time.monotonic() + 60
        while True:
            connection = HTTPConnection("127.0.0.1", self.port, timeout=5)
            try:
                connection.request("GET", self.ready)
                if connection.getresponse().status < 500:
                    return
            except OSError:
                pass
            finally:
                connection.close()
            if time.monotonic() > until or self._started.poll() is not None:
                raise SystemExit(f"{self.name} did not become ready: {(self.folder / 'log').read_text()[-1_000:]}")
            time.sleep(0.1)

    def processes(self) -> dict[int, str]:
        """Return the processes by their id, with what each is."""
        found = {pid: _role(pid) for pid in tree_of(self._started.pid)}
        if self.redis is not None and self.redis.pid is not None:
            found[self.redis.pid] = "redis"
        return found

    def cpu(self) -> dict[str, float]:
        """Return the CPU seconds so far by the role of the process."""
        total: dict[str, float] = {}
        for pid, role in self.processes().items():
            total[role] = total.get(role, 0.0) + cpu_of(pid)
        return total

    def kill(self, role: str) -> None:
        """Kill the processes of a role."""
        for pid, name in self.processes().items():
            if name == role:
                os.kill(pid, signal.SIGKILL)


def _role(pid: int) -> str:
    command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    names = {"_web": "web", "_aggregator": "aggregator", "valkey-server": "redis"}
    return next((role for name, role in names.items() if name in command), "other")


class Load(Program):
    """The load client: streams of many topics, and producers."""

    def __init__(self, binary: Path, server: Server, topics: int, streams: int, producers: int = PRODUCERS) -> None:
        command = [str(binary), str(server.port), server.stream, server.publish, server.body, server.header]
        command += [str(topics), str(streams), str(producers)]
        super().__init__(command, os.sched_getaffinity(0))

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        time.sleep(1)


def installed(servers: list[Server], table: Table) -> Iterator[Server]:
    """Yield the servers that can be measured; add a line for each of the others."""
    for server in servers:
        if server.missing:
            table.add(server.name, f"not measured: {server.missing}", *[""] * (len(table.header) - 2))
        else:
            yield server


def pushsvc(folder: Path, name: str, topics: str, *, workers: int = 1) -> Server:
    """Return the whole service with an embedded server and settings for all topics."""
    port = free_port()
    folder.mkdir()
    (folder / "pushsvc.toml").write_text(f'[topics.">"]\n{topics}\n[limits]\nfollowed = 1000000\n')
    command = [sys.executable, "-m", "pushsvc", "serve", "--port", str(port), "--workers", str(workers)]
    command += ["--data-dir", str(folder / "data"), "--max-connections-per-address", "0"]
    path = "/v1/topics/user.%d/events"
    return Server(name, command, port, path, path, folder, ready="/readyz")


def keyed(server: Server) -> Server:
    """Let all subscribers have one topic, and each the events of a key of its own."""
    server.stream, server.publish = "/v1/topics/users/events?key=u%d", "/v1/topics/users/events"
    server.body = BODY.replace('"a"', '"u%d"')
    return server


def nchan(folder: Path) -> Server:
    port = free_port()
    folder.mkdir()
    command = nchan_command(folder, port, NCHAN_LOCATIONS)
    return Server("nchan", command, port, "/sub/user.%d", "/pub/user.%d", folder, missing=NCHAN_MISSING)


def centrifugo(folder: Path, binary: Path) -> Server:
    port = free_port()
    folder.mkdir()
    redis = EmbeddedServer(folder / "redis", port=free_port())
    settings: dict[str, Any] = {
        "http_server": {"port": str(port)},
        "http_api": {"key": "key"},
        "client": {"insecure": True, "allowed_origins": ["*"]},
        "uni_sse": {"enabled": True},
        "engine": {"type": "redis", "redis": {"address": redis.url}},
        "channel": {
            "without_namespace": {
                "history_size": 100,
                "history_ttl": "300s",
                "allow_subscribe_for_client": True,
                "allow_subscribe_for_anonymous": True,
            }
        },
        "log": {"level": "error"},
    }
    (folder / "config.json").write_text(json.dumps(settings))
    stream = "/connection/uni_sse?cf_connect=%7B%22subs%22%3A%7B%22user.%d%22%3A%7B%7D%7D%7D"
    body = '{"channel":"user.%d","data":' + BODY + "}"
    command = [str(binary), "--config", str(folder / "config.json")]
    server = Server("Centrifugo, Redis", command, port, stream, "/api/publish", folder, body, "X-API-Key: key")
    server.redis = redis
    return server


def cost(server: Server, load: Load, messages: int) -> tuple[float, dict[str, float], dict[str, float]]:
    """Return CPU seconds per message, the same by role, and the report of the load client."""
    load.ask(f"publish {messages // 10} 0")
    before = server.cpu()
    found = load.ask(f"publish {messages} 0")
    if not found["received"]:
        raise SystemExit(f"the subscribers of {server.name} received nothing")
    # What follows the last delivery counts too: aggregators work at their cadence.
    time.sleep(1)
    spent = {role: (seconds - before.get(role, 0.0)) / messages for role, seconds in server.cpu().items()}
    return sum(spent.values()), spent, found


def messages_table(servers: list[Server], binary: Path, counts: list[int], messages: int) -> None:
    table = Table(
        "One topic (or one key of a topic) for each subscriber: 16 producers, single events to random ones",
        [
            "server",
            "topics",
            "streams",
            "CPU µs",
            "× nchan",
            "web",
            "aggregator",
            "redis",
            "messages/s",
            "p99 ms",
            "lost",
        ],
        "CPU per message of all processes of the server. × nchan: that of nchan with the fewest topics, in this run.",
    )
    floor = 0.0
    for server in installed(servers, table):
        for topics in counts:
            streams = min(topics, 15_000)
            with server.running(), Load(binary, server, topics, streams) as load:
                load.ask("open 256")
                each, spent, found = cost(server, load, messages)
            floor = floor or (each if server.name == "nchan" else 0.0)
            lost = messages - found["received"] if streams == topics else 0
            cells = [f"{each * 1e6:.0f}", f"{each / floor:.1f}" if floor else ""]
            cells += [f"{spent.get(role, 0.0) * 1e6:.0f}" for role in ROLES]
            table.add(
                server.name,
                f"{topics:,}",
                f"{streams:,}",
                *cells,
                f"{messages / found['seconds']:,.0f}",
                f"{found['p99_ms']:.1f}",
                f"{lost:.0f}",
            )
            if server.name == "nchan" and topics >= 10_000:
                break  # one process may hold 19,000 connections, streams and producers alike
    table.print()


def throughput_table(servers: list[Server], binary: Path, messages: int) -> None:
    table = Table(
        "1,000 topics with one subscriber each: messages a second by the number of producers, who wait for each answer",
        ["server", *(f"{producers} producers" for producers in PRODUCER_COUNTS), "CPU µs"],
        "The load client takes a part of the two cores, too. CPU per message with the most producers.",
    )
    for server in installed(servers, table):
        rates, each = [], 0.0
        for producers in PRODUCER_COUNTS:
            with server.running(), Load(binary, server, 1_000, 1_000, producers) as load:
                load.ask("open 256")
                each, _, found = cost(server, load, messages)
            rates.append(f"{messages / found['seconds']:,.0f}")
        table.add(server.name, *rates, f"{each * 1e6:.0f}")
    table.print()


def idle_table(server: Server, binary: Path, counts: list[int]) -> None:
    table = Table(
        "Topics in which nothing happens",
        ["server", "topics", *(f"{role} ms/s" for role in ROLES)],
        f"CPU a second, over {IDLE_SECONDS} s, once what was published is settled. 1,000 streams.",
    )
    for topics in counts:
        with server.running(), Load(binary, server, topics, 1_000) as load:
            load.ask("open 256")
            load.ask(f"publish {topics * 3} 0")
            time.sleep(SETTLING_SECONDS + topics / 1_000)
            before = server.cpu()
            time.sleep(IDLE_SECONDS)
            spent = {role: seconds - before.get(role, 0.0) for role, seconds in server.cpu().items()}
        table.add(server.name, f"{topics:,}", *(f"{spent.get(role, 0.0) / IDLE_SECONDS * 1e3:.1f}" for role in ROLES))
    table.print()


def wide_table(servers: list[Server], binary: Path, messages: int) -> None:
    table = Table(
        "One topic, 200 subscribers, one producer that waits for each answer",
        ["server", "CPU ms a message", "× nchan", "messages/s", "p99 ms"],
        "CPU of all processes of the server.",
    )
    floor = 0.0
    for server in installed(servers, table):
        with server.running(), Load(binary, server, 1, 200, producers=1) as load:
            load.ask("open 256")
            load.ask(f"publish {messages // 10} 0")
            load.ask("close")
            load.ask("forget")
            load.ask("open 256")
            before = sum(server.cpu().values())
            found = load.ask(f"publish {messages} 0")
            each = (sum(server.cpu().values()) - before) / messages
        floor = floor or each
        table.add(
            server.name,
            f"{each * 1e3:.2f}",
            f"{each / floor:.2f}",
            f"{messages / found['seconds']:,.0f}",
            f"{found['p99_ms']:.1f}",
        )
    table.print()


def open_table(servers: list[Server], binary: Path, streams: int) -> None:
    table = Table(
        f"Opening {streams:,} streams of different topics, 256 at a time",
        ["server", "new topics s", "known topics s", "with cursors after kill -9 s"],
        "Until every stream has its head. The killed web process is started again by the supervisor; that time counts.",
    )
    for server in installed(servers, table):
        with server.running(), Load(binary, server, streams, streams) as load:
            took = [load.ask("open 256")["seconds"]]
            load.ask(f"publish {streams * 2} 0")
            load.ask("close")
            load.ask("forget")
            took.append(load.ask("open 256")["seconds"])
            load.ask(f"publish {streams} 0")
            if server.name.startswith("pushsvc"):
                started = time.monotonic()
                server.kill("web")
                load.ask("close")
                while True:
                    try:
                        server.wait_ready()
                        break
                    except OSError:
                        time.sleep(0.02)
                load.ask("open 256")
                took.append(time.monotonic() - started)
        table.add(server.name, *(f"{seconds:.2f}" for seconds in took), *[""] * (3 - len(took)))
    table.print()


def latency_table(servers: list[Server], binary: Path, topics: int, rate: int, seconds: int) -> None:
    table = Table(
        f"{rate:,} messages a second over {topics:,} topics, one subscriber each",
        ["server", "p50 ms", "p99 ms", "max ms", "lost"],
        "From the time at which the message was due until its subscriber has it. Median of three runs.",
    )
    for server in installed(servers, table):
        with server.running(), Load(binary, server, topics, topics, producers=64) as load:
            load.ask("open 256")
            load.ask(f"publish {rate} {rate}")
            runs = [load.ask(f"publish {rate * seconds} {rate}") for _ in range(3)]
        cells = [f"{median(run[name] for run in runs):.1f}" for name in ("p50_ms", "p99_ms", "max_ms")]
        table.add(server.name, *cells, f"{sum(rate * seconds - run['received'] for run in runs):.0f}")
    table.print()


def burst_table(servers: list[Server], binary: Path, streams: int) -> None:
    table = Table(
        f"{streams:,} clients that connect at the same instant",
        ["server", "all open after s", "ListenOverflows", "ListenDrops"],
        "One topic for all. The counters are of the kernel, for this machine.",
    )
    for server in installed(servers, table):
        with server.running(), Load(binary, server, 1, streams) as load:
            before = _drops()
            took = load.ask(f"open {streams}")["seconds"]
            after = _drops()
        table.add(server.name, f"{took:.2f}", *(str(now - then) for now, then in zip(after, before, strict=True)))
    table.print()


def _drops() -> tuple[int, int]:
    lines = [line.split() for line in Path("/proc/net/netstat").read_text().splitlines() if line.startswith("TcpExt:")]
    counters = dict(zip(lines[0], lines[1], strict=True))
    return int(counters["ListenOverflows"]), int(counters["ListenDrops"])


@contextmanager
def compiled() -> Iterator[Path]:
    if shutil.which("cc") is None:
        raise SystemExit("a C compiler (cc) is needed for the load client")
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder) / "narrow"
        subprocess.run(["cc", "-O2", "-o", str(binary), str(Path(__file__).parent / "fanout" / "narrow.c")], check=True)
        yield binary


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer messages and streams")
    parser.add_argument("--topics", default="1000,10000", help="numbers of topics, separated by commas")
    parser.add_argument("--only", default="messages,throughput,wide,open,latency,burst", help="the tables to print")
    parser.add_argument("--centrifugo", type=Path, help="the binary of Centrifugo")
    parser.add_argument("--plain", default=PLAIN, help="settings of topics of events alone")
    arguments = parser.parse_args()
    part = 10 if arguments.quick else 1
    counts = [int(count) for count in arguments.topics.split(",")]
    print(machine())
    with compiled() as binary, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        servers = [nchan(folder / "nchan")]
        if arguments.centrifugo:
            servers.append(centrifugo(folder / "centrifugo", arguments.centrifugo))
        servers.append(pushsvc(folder / "plain", "pushsvc, no windows", arguments.plain))
        servers.append(pushsvc(folder / "windows", "pushsvc, default windows", ""))
        of_keys = [keyed(pushsvc(folder / "keys", "pushsvc, no windows, a key each", arguments.plain))]
        of_two = pushsvc(folder / "two", "pushsvc, no windows, 2 web processes", arguments.plain, workers=2)
        tables = {
            "messages": lambda: messages_table(servers + of_keys, binary, counts, 50_000 // part),
            "keys": lambda: messages_table(of_keys, binary, counts, 50_000 // part),
            "throughput": lambda: throughput_table([*servers, of_two], binary, 50_000 // part),
            "idle": lambda: idle_table(servers[-2], binary, counts),
            "wide": lambda: wide_table(servers, binary, 2_000 // part),
            "open": lambda: open_table(servers[1:], binary, 10_000 // part),
            "latency": lambda: latency_table(servers, binary, 10_000 // part, 2_000, 10),
            "burst": lambda: burst_table(servers, binary, 15_000 // part),
        }
        for table in arguments.only.split(","):
            tables[table]()


if __name__ == "__main__":
    main()
