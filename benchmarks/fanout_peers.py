"""The load of ``fanout.py`` on other event-stream servers, one after another, with the same floor.

Each message goes to many subscribers; the result is the CPU of all processes of the server per delivery, on one core as
for pushsvc. A server that is not installed is printed as not measured: nchan is Debian's ``libnginx-mod-nchan``,
better-sse is searched in the folder ``--node-modules``, the others are in the extra ``bench``.

    python benchmarks/fanout_peers.py [--quick] [--node-modules FOLDER]
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPConnection
from pathlib import Path

from fanout import EVENTS, PAD, SERVER_CORE, Client, Subscribers, Web, compiled, floor_of, free_port, pinned
from flood import Flood
from measure import Table, machine
from pushsvc.broker.embedded import EmbeddedServer

SITES = Path(__file__).parent / "fanout"
_MODULE = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")
NCHAN_MISSING = None if _MODULE.exists() else "libnginx-mod-nchan is not installed"
_NGINX = """
load_module {module};
daemon off;
worker_processes 1;
worker_rlimit_nofile 20000;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 19000; }}
http {{
  access_log off;
  keepalive_requests 100000000;
  client_body_temp_path {folder}/body;
  nchan_max_reserved_memory 1G;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    {locations}
  }}
}}
"""
_LOCATIONS = """
    location = /pub { nchan_publisher; nchan_channel_id all; nchan_message_buffer_length 1000; }
    location = /sub { nchan_subscriber eventsource; nchan_channel_id all; nchan_subscriber_first_message newest; }
"""


def nchan_command(folder: Path, port: int, locations: str) -> list[str]:
    """Return the command of an nginx with nchan, whose configuration is written to a folder."""
    configuration = folder / "nginx.conf"
    configuration.write_text(_NGINX.format(module=_MODULE, folder=folder, port=port, locations=locations))
    return [shutil.which("nginx") or "nginx", "-c", str(configuration), "-p", str(folder)]


@dataclass
class Peer:
    """A server with ``POST /pub`` and streams at ``/sub``; ``missing`` is the reason why it cannot be measured."""

    name: str
    command: list[str]
    port: int
    missing: str | None = None
    environment: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def running(self) -> Iterator[Peer]:
        environment = {**os.environ, **self.environment}
        quiet = subprocess.DEVNULL
        self._process = pinned(self.command, SERVER_CORE, env=environment, cwd=SITES, stdout=quiet, stderr=quiet)
        self._producer = HTTPConnection("127.0.0.1", self.port)
        try:
            self._wait_ready()
            yield self
        finally:
            self._process.terminate()
            self._process.wait(30)

    def _wait_ready(self) -> None:
        until = time.monotonic() + 20
        while True:
            try:
                return self.post()
            except OSError:
                self._producer.close()
                if time.monotonic() > until or self._process.poll() is not None:
                    raise SystemExit(f"{self.name} did not become ready") from None
                time.sleep(0.1)

    def post(self) -> None:
        body = json.dumps({"t": time.monotonic_ns(), "key": "a", "pad": PAD}, separators=(",", ":"))
        self._producer.request("POST", "/pub", body, {"Content-Type": "application/json"})
        answer = self._producer.getresponse()
        answer.read()
        if answer.status >= 300:
            raise SystemExit(f"{self.name} answered {answer.status}")

    def cpu(self) -> float:
        """Return the CPU seconds of all processes of the server so far."""
        return sum(map(cpu_of, tree_of(self._process.pid)))


def tree_of(pid: int) -> Iterator[int]:
    """Yield a process and all its descendants."""
    yield pid
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        yield from tree_of(int(child))


def cpu_of(pid: int) -> float:
    """Return the CPU seconds of a process, all its threads."""
    return sum(int(file.read_text().split()[0]) for file in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def peers(folder: Path, redis: str, node_modules: Path | None) -> Iterator[Peer]:
    port = free_port()
    yield Peer("nchan", nchan_command(folder, port, _LOCATIONS), port, NCHAN_MISSING)
    port = free_port()
    node = [shutil.which("node") or "node", "site_better_sse.mjs", str(port)]
    there = node_modules is not None and (node_modules / "better-sse").exists()
    where = {"NODE_MODULES": str(node_modules)}
    yield Peer("better-sse", node, port, None if there else "no folder with better-sse was named", where)
    port = free_port()
    generators = [sys.executable, "site_generators.py", str(port)]
    yield Peer("generator per client, gevent", generators, port)
    port = free_port()
    uvicorn = [sys.executable, "-m", "uvicorn", "--no-access-log", "--port", str(port), "--backlog", "4096"]
    yield Peer("sse-starlette", [*uvicorn, "site_starlette:app"], port, _missing("sse_starlette", "uvicorn"))
    port = free_port()
    gunicorn = [
        sys.executable,
        "-m",
        "gunicorn",
        "-k",
        "gevent",
        "--worker-connections",
        "5000",
        "--graceful-timeout",
        "1",
    ]
    gunicorn += ["-b", f"127.0.0.1:{port}", "site_flask_sse:app"]
    yield Peer("flask-sse", gunicorn, port, _missing("flask_sse", "gunicorn"), {"REDIS_URL": redis})


def _missing(*modules: str) -> str | None:
    names = [name for name in modules if importlib.util.find_spec(name) is None]
    return f"{' and '.join(names)} are not installed" if names else None


def measure(server: Peer | Web, path: str, client: Path, subscribers: int, messages: int) -> tuple[float, float, int]:
    """Return CPU seconds per delivery, the 99th percentile of the latency in ms, and the number of lost messages."""
    publish = partial(server.post, "peers") if isinstance(server, Web) else server.post
    with kept_busy(publish):
        streams = Subscribers(client, server.port, path, subscribers)
    with streams:
        time.sleep(0.5)
        streams.report()
        before = server.cpu()
        for _ in range(messages):
            publish()
            time.sleep(0.02)
        found = streams.received(subscribers * messages, 60)
        cpu = server.cpu() - before
    return cpu / (subscribers * messages), found["p99_ms"], int(subscribers * messages - found["messages"])


def flooded(
    server: Peer | Web, paths: tuple[str, str], client: Path, posts: int, events: int, a_second: int
) -> tuple[float, ...]:
    """Publish messages at a rate to 200 subscribers; return deliveries a second, CPU seconds of each, the 99th
    percentile of the latency in ms, and the number of lost messages."""
    subscribers, (to, path) = 200, paths
    with kept_busy(partial(server.post, path.split("/")[3]) if isinstance(server, Web) else server.post):
        streams = Subscribers(client, server.port, path, subscribers)
    with streams:
        time.sleep(0.5)
        streams.report()
        before, started, wanted = server.cpu(), time.monotonic(), subscribers * posts * events
        Flood(server.port, to).offer(posts, a_second // events, events)
        found = streams.received(wanted, 5)
        took = time.monotonic() - started
        cpu = server.cpu() - before
    return found["messages"] / took, cpu / found["messages"], found["p99_ms"], wanted - found["messages"]


def floods(web: Web, nchan: Peer, client: Path, part: int) -> None:
    """Measure requests of one message and of 200, which nchan does not support."""
    table = Table(
        "Floods: messages offered to 200 subscribers",
        [
            "server",
            "offered/s",
            "messages a POST",
            "messages",
            "deliveries/s",
            "× nchan",
            "CPU µs each",
            "p99 ms",
            "lost",
        ],
        "Until the last delivery, or until 5 s brought none.",
    )
    nchans = 0.0
    if nchan.missing:
        table.add("nchan", "", "", "", f"not measured: {nchan.missing}", "", "", "", "")
    cases: list[tuple[str, Peer | Web, tuple[str, str], int, int, int]] = [
        ("pushsvc", web, (EVENTS.format("single"),) * 2, 20_000 // part, 1, 10_000),
        ("pushsvc", web, (EVENTS.format("batched"),) * 2, 250 // part, 200, 10_000),
        ("pushsvc", web, (EVENTS.format("doubled"),) * 2, 500 // part, 200, 20_000),
    ]
    if not nchan.missing:
        cases.insert(0, ("nchan", nchan, ("/pub", "/sub"), 10_000 // part, 1, 10_000))
    for name, server, paths, posts, events, a_second in cases:
        with server.running() if isinstance(server, Peer) else nullcontext():
            rate, cpu, late, lost = flooded(server, paths, client, posts, events, a_second)
        nchans = nchans or rate
        ratio = "" if nchan.missing else f"{rate / nchans:.1f}"
        cells = (f"{rate:,.0f}", ratio, f"{cpu * 1e6:.2f}", f"{late:.0f}", f"{lost:,.0f}")
        table.add(name, f"{a_second:,}", str(events), f"{posts * events:,}", *cells)
    table.print()


@contextmanager
def kept_busy(publish: Callable[[], None]) -> Iterator[None]:
    """Publish all the time: some servers send no response head before the first message."""
    over = threading.Event()

    def publish_repeatedly() -> None:
        while not over.wait(0.2):
            publish()

    thread = threading.Thread(target=publish_repeatedly)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer messages")
    parser.add_argument("--floods", action="store_true", help="only the table of floods")
    parser.add_argument("--eager", action="store_true", help="let the load client wait for each message")
    parser.add_argument("--node-modules", type=Path, help="the folder in which better-sse is installed")
    arguments = parser.parse_args()
    Client.nap = 0 if arguments.eager else Client.nap
    subscribers, messages = 1_000, 20 if arguments.quick else 100
    print(machine())
    table = Table(
        f"One message at a time to {subscribers:,} subscribers",
        ["server", "floor µs", "pushsvc µs", "µs", "× floor", "× pushsvc", "p99 ms", "lost"],
        "CPU per delivery of all processes of the server; the floor and pushsvc were measured just before each.",
    )
    with compiled() as (client, floor), tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        redis = EmbeddedServer(folder / "data", options={"appendfsync": "no"})
        redis.start()
        web = Web(redis.url, folder)
        try:
            others = list(peers(folder, redis.url, arguments.node_modules))
            floods(web, others[0], client, 10 if arguments.quick else 1)
            for peer in [] if arguments.floods else others:
                if peer.missing:
                    table.add(peer.name, "", "", f"not measured: {peer.missing}", "", "", "", "")
                    continue
                least = floor_of(floor, client, subscribers, messages, 150)
                ours, *_ = measure(web, EVENTS.format("peers"), client, subscribers, messages)
                with peer.running():
                    took, late, lost = measure(peer, "/sub", client, subscribers, messages)
                cells = (f"{least:.1f}", f"{ours * 1e6:.1f}", f"{took * 1e6:.1f}", f"{took * 1e6 / least:.1f}")
                table.add(peer.name, *cells, f"{took / ours:.1f}", f"{late:.1f}", str(lost))
        finally:
            web.stop()
            redis.stop()
    if not arguments.floods:
        table.print()


if __name__ == "__main__":
    main()
