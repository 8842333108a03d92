"""The cost of streams beside an application: ``serve --app`` next to ``serve``, and to gunicorn's gevent workers.

``python benchmarks/application.py [--quick]`` needs ``cc`` and the extra ``app``. The three run at the same time on one
core, over one Valkey on the other, and take turns, because the speed of the machine changes. Each has one web process
and as many subscribers to one topic. CPU is that of a server's web process, and of all its processes, without Valkey.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from statistics import median

from fanout import OTHER_CORES, PAD, REST, SERVER_CORE, Floor, Subscribers, compiled, free_port, pinned
from measure import Table, Target, machine
from pushsvc.broker.embedded import EmbeddedServer

APP = """
from flask import Flask, request
from pushsvc import Push

app = Flask(__name__)
push = Push(app)


@push.authorize
def may(action, topic, key):
    return True


@app.get("/ready")
def ready():
    push.publish("ready", {"n": 1}, wait=True, timeout=60)
    return "ready"


@app.post("/many")
def many():
    for n in range(int(request.args["count"])):
        push.publish("many", {"n": n, "key": "a", "pad": "x" * 40})
    push.flush(60)
    return "published"
"""

EVENTS = "/v1/topics/{}/events"
WITHIN = Target("≤ 1.05 × serve", 1.05, least=False)


class Server:
    """A server with all its processes on one core. ``prefix`` is that of its URLs."""

    def __init__(self, name: str, command: Sequence[str], prefix: str, redis: str, folder: Path) -> None:
        self.name, self.prefix, self.port = name, prefix, free_port()
        environment = {**os.environ, "PUSHSVC_REDIS": redis, "PUSHSVC_PREFIX": f"{name.replace(' ', '-')}:"}
        filled = [part.format(port=self.port) for part in command]
        self.process = pinned(
            [sys.executable, "-m", *filled], SERVER_CORE, env=environment, cwd=folder,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self._producer = HTTPConnection("127.0.0.1", self.port, timeout=60)
        self._wait_ready("/ready" if prefix else "/readyz")

    def _wait_ready(self, path: str) -> None:
        until = time.monotonic() + 60
        while time.monotonic() < until and self.process.poll() is None:
            try:
                if self.request("GET", path) == 200:
                    return
            except OSError:
                self._producer.close()
            time.sleep(0.1)
        raise SystemExit(f"{self.name} did not become ready")

    def request(self, method: str, path: str, body: bytes | None = None) -> int:
        headers = {} if body is None else {"Content-Type": "application/json"}
        self._producer.request(method, path, body, headers)
        answer = self._producer.getresponse()
        answer.read()
        return answer.status

    def events(self, topic: str) -> str:
        return self.prefix + EVENTS.format(topic)

    def post(self, topic: str) -> None:
        body = {"t": time.monotonic_ns(), "key": "a", "pad": PAD}
        status = self.request("POST", self.events(topic), json.dumps(body, separators=(",", ":")).encode())
        if status != 202:
            raise SystemExit(f"{self.name}: publishing was answered {status}")

    def cpu(self) -> dict[str, float]:
        """Return the CPU seconds of the web process, and of all processes together."""
        used = {"web": 0.0, "all": 0.0}
        pending = [self.process.pid]
        while pending:
            pid = pending.pop()
            tasks = Path(f"/proc/{pid}/task")
            seconds = sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()) / 1e9
            pending += [int(one) for task in tasks.iterdir() for one in (task / "children").read_text().split()]
            used["all"] += seconds
            if "\0_web\0" in Path(f"/proc/{pid}/cmdline").read_text():
                used["web"] += seconds
        return used

    def spent(self, work: Callable[[], object]) -> dict[str, float]:
        """Return the CPU seconds that the server spent while something was done."""
        before = self.cpu()
        work()
        return {role: seconds - before[role] for role, seconds in self.cpu().items()}

    def stop(self) -> None:
        self._producer.close()
        self.process.terminate()
        self.process.wait(60)


@contextmanager
def servers(redis: str, folder: Path) -> Iterator[list[Server]]:
    """Run the three servers, each with one web process."""
    (folder / "shop.py").write_text(APP)
    gunicorn = ["gunicorn", "-k", "gevent", "-b", "127.0.0.1:{port}", "--worker-connections", "5000"]
    gunicorn += ["--keep-alive", "75", "shop:app"]
    serve = ["pushsvc", "serve", "--port", "{port}"]
    with ExitStack() as running:
        found = []
        for name, command, prefix in (
            ("serve", serve, ""),
            ("serve --app", [*serve, "--app", "shop:app"], "/push"),
            ("gunicorn gevent", gunicorn, "/push"),
        ):
            found.append(Server(name, command, prefix, redis, folder))
            running.callback(found[-1].stop)
        yield found


def per(count: int, spent: Sequence[Mapping[str, float]], role: str) -> float:
    """Return the median of microseconds."""
    return median(one[role] for one in spent) / count * 1e6


def fan_out(running: Sequence[Server], client: Path, floor: Path, subscribers: int, frames: int) -> None:
    """Send a frame to the subscribers of each server in turn, and by the floor."""
    table = Table(
        f"One frame at a time to {subscribers:,} subscribers, posted by HTTP to the same server",
        ["server", "web µs", "all µs", "× serve, web", "× serve, all", "× floor, all", "p50 ms", "p99 ms", "lost"],
        "CPU per delivery, with the POST: medians of the frames. ×: medians of the ratios to the frame beside it.",
    )  # fmt: skip
    topic = "fan"
    with ExitStack() as open_:
        streams = [
            open_.enter_context(Subscribers(client, one.port, one.events(topic), subscribers)) for one in running
        ]
        for _ in range(2):
            for one in running:
                one.post(topic)
            sizes = [of.received(subscribers, 10)["bytes"] / subscribers for of in streams]
        loop = open_.enter_context(Floor(floor, client, subscribers, int(sizes[0])))
        spent: list[list[dict[str, float]]] = [[] for _ in running]
        base: list[float] = []
        for number in range(frames):
            base.append(_rested(loop.send))
            for place in _alternating(len(running), number):
                server = running[place]
                spent[place].append(server.spent(lambda server=server: _rested(lambda: server.post(topic))))
        reports = [of.received(subscribers * frames, 20) for of in streams]
    ratios = {}
    for place, (server, report) in enumerate(zip(running, reports, strict=True)):
        pairs = list(zip(spent[place], spent[0], strict=True))
        beside = {role: median(one[role] / other[role] for one, other in pairs) for role in ("web", "all")}
        to_floor = median(one["all"] / subscribers * 1e6 / least for one, least in zip(spent[place], base, strict=True))
        ratios[server.name] = beside
        web = f"{per(subscribers, spent[place], 'web'):.2f}" if beside["web"] else ""
        table.add(
            server.name, web, f"{per(subscribers, spent[place], 'all'):.2f}", f"{beside['web']:.3f}" if web else "",
            f"{beside['all']:.3f}", f"{to_floor:.2f}", f"{report['p50_ms']:.1f}", f"{report['p99_ms']:.1f}",
            str(subscribers * frames - int(report["messages"])),
        )  # fmt: skip
    table.print()
    for role in ("web", "all"):
        value = ratios["serve --app"][role]
        print(f"{WITHIN.text}, {role}: {value:.3f}, {WITHIN.verdict(value)}")


def _alternating(count: int, number: int) -> list[int]:
    """Return the places in another order each time: nobody is always the one behind the floor."""
    return [(number + place) % count for place in range(count)]


def _rested(run: Callable[[], float | None]) -> float:
    took = run()
    time.sleep(REST)
    return took or 0.0


def publish(running: Sequence[Server], rounds: int, posts: int) -> None:
    """Publish single events without subscribers: by POST over one connection, and from a view."""
    table = Table(
        "Single events without subscribers", ["server, by", "web µs", "all µs", "× serve, all"],
        "CPU per event, medians of the rounds.",
    )  # fmt: skip

    def post_all(server: Server) -> None:
        for _ in range(posts):
            server.post("single")

    def view(server: Server) -> None:
        if server.request("POST", f"/many?count={posts}", b"") != 200:
            raise SystemExit(f"{server.name}: the view failed")

    ways = [("POST", one, post_all) for one in running] + [("push.publish", one, view) for one in running[1:]]
    spent: list[list[dict[str, float]]] = [[] for _ in ways]
    for number in range(rounds):
        for place in _alternating(len(ways), number):
            _, server, run = ways[place]
            spent[place].append(server.spent(lambda run=run, server=server: run(server)))
    for (way, server, _), found in zip(ways, spent, strict=True):
        ratio = median(one["all"] / other["all"] for one, other in zip(found, spent[0], strict=True))
        web = per(posts, found, "web")
        table.add(
            f"{server.name}, {way}", f"{web:.1f}" if web else "", f"{per(posts, found, 'all'):.1f}", f"{ratio:.2f}"
        )
    table.print()


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the effort")
    parser.add_argument("--subscribers", type=int, default=500)
    arguments = parser.parse_args()
    part = 10 if arguments.quick else 1
    print(machine())
    with compiled() as (client, floor), tempfile.TemporaryDirectory() as folder:
        redis = EmbeddedServer(Path(folder) / "data", options={"appendfsync": "no"})
        redis.start()
        os.sched_setaffinity(0, OTHER_CORES)
        try:
            with servers(redis.url, Path(folder)) as running:
                fan_out(running, client, floor, arguments.subscribers, 200 // part)
                publish(running, 20 // part + 1, 200)
        finally:
            redis.stop()


if __name__ == "__main__":
    main()
