"""The cost of fan-out: CPU of the web process per delivery, latency, memory, connections.

The load client and the floor (a loop of ``send()``) are written in C; this script compiles them with ``cc``. The web
process has one core, all other processes share the others.

    python benchmarks/fanout.py [--quick]
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from statistics import median
from typing import Any

from measure import Table, Target, machine
from pushsvc.broker.embedded import EmbeddedServer
from pushsvc.supervisor.listener import listen

HERE = Path(__file__).parent / "fanout"
SERVER_CORE, OTHER_CORES = {0}, set(range(1, os.cpu_count() or 1)) or {0}
EVENTS, STATS = "/v1/topics/{}/events", "/v1/topics/{}/stats"
PAD = "x" * 40

REST = 0.02
"""Seconds within which a frame must reach all subscribers."""


def pinned(command: list[str], cores: set[int], **settings: Any) -> subprocess.Popen[str]:
    """Start a process on the given cores."""
    process = subprocess.Popen(command, text=True, **settings)
    os.sched_setaffinity(process.pid, cores)
    return process


def free_port() -> int:
    with listen("127.0.0.1", 0) as listener:
        return int(listener.getsockname()[1])


class Web:
    """A web process on a core of its own."""

    def __init__(
        self, redis: str, folder: Path, cores: set[int] = SERVER_CORE, port: int = 0, certificate: Path | None = None
    ) -> None:
        self.port = port or free_port()
        environment = {**os.environ, "PUSHSVC_REDIS": redis}
        command = [sys.executable, "-m", "pushsvc", "web", "--port", str(self.port)]
        command += [] if certificate is None else ["--certfile", str(certificate)]
        self.process = pinned(command, cores, env=environment, cwd=folder, stderr=subprocess.DEVNULL)
        self.worker = 0
        self._producer = HTTPConnection("127.0.0.1", self.port)
        if certificate is not None:
            self._producer = HTTPSConnection("127.0.0.1", self.port, context=_trusting())
        self._wait_ready()

    def _wait_ready(self) -> None:
        until = time.monotonic() + 30
        while time.monotonic() < until:
            try:
                self._producer.request("GET", "/readyz")
                answer = self._producer.getresponse()
                answer.read()
                if answer.status == 200:
                    self.worker = _child(self.process.pid)
                    return
            except OSError:
                self._producer.close()
            time.sleep(0.1)
        raise SystemExit("the web process did not become ready")

    def post(self, topic: str, count: int = 1) -> None:
        now = time.monotonic_ns()
        events = [{"t": now, "key": "a", "pad": PAD} for _ in range(count)]
        body = json.dumps(events if count > 1 else events[0], separators=(",", ":"))
        if self._producer.sock is not None:  # delayed acknowledgements would add latency that is not the server's
            self._producer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        self._producer.request("POST", EVENTS.format(topic), body, {"Content-Type": "application/json"})
        answer = self._producer.getresponse()
        answer.read()
        if answer.status != 202:
            raise SystemExit(f"publishing was answered {answer.status}")

    def cpu(self) -> float:
        """Return the CPU seconds of the web process so far."""
        return int(Path(f"/proc/{self.worker}/schedstat").read_text().split()[0]) / 1e9

    def lag(self) -> dict[float, float]:
        """Return how many samples of the event loop's lag were within each bound of seconds, so far."""
        with closing(HTTPConnection("127.0.0.1", self.port)) as own:
            own.request("GET", "/metrics")
            text = own.getresponse().read().decode()
        found = re.findall(r'pushsvc_loop_lag_seconds_bucket\{le="(.+)"\} (.+)', text)
        return {float(most): float(count) for most, count in found}

    def memory(self) -> int:
        """Return the resident bytes of the web process."""
        return int(Path(f"/proc/{self.worker}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)


def _trusting() -> ssl.SSLContext:
    """Return a client context that accepts any certificate, because this one is self-signed."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _child(parent: int) -> int:
    [child] = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return int(child)


class Client:
    """``nap`` is the microseconds between two polls of the load client; client.c gives the reason. With 0, it waits for
    each message."""

    nap = 500


class Program:
    """A compiled program of the load: it answers each line with a line, and ends with its input."""

    def __init__(self, command: list[str], cores: set[int], environment: Mapping[str, str] | None = None) -> None:
        self._name = Path(command[0]).name
        self._process = pinned(command, cores, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)

    def line(self) -> str:
        """Return the next line of its output."""
        assert self._process.stdout is not None
        line: str = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self._name} ended")
        return line

    def ask(self, request: str) -> Any:
        """Send a line; return the JSON of the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(request + "\n")
        self._process.stdin.flush()
        return json.loads(self.line())

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)


class Subscribers:
    """Streams of the C client, counted and timed since the last report."""

    def __init__(
        self, client: Path, port: int, path: str, count: int, stalled: int = 0, cursor: str | None = None
    ) -> None:
        command = [str(client), str(port), path, str(count), str(stalled)]
        environment = {**os.environ, "NAP": str(Client.nap), **({} if cursor is None else {"LAST_EVENT_ID": cursor})}
        self._program = Program(command, OTHER_CORES, environment)
        self.opened_in = float(self._program.line().split()[1])

    def report(self) -> dict[str, float]:
        found: dict[str, float] = self._program.ask("report")
        return found

    def received(self, wanted: int, seconds: float) -> dict[str, float]:
        """Return the report after that many messages, or the report at the deadline."""
        total: dict[str, float] = {"messages": 0, "bytes": 0, "p50_ms": 0, "p99_ms": 0, "max_ms": 0, "ended": 0}
        until = time.monotonic() + seconds
        time.sleep(0.2)
        while True:
            one = self.report()
            for name in ("messages", "bytes"):
                total[name] += one[name]
            for name in ("p50_ms", "p99_ms", "max_ms", "ended"):
                total[name] = max(total[name], one[name])
            if total["messages"] >= wanted or time.monotonic() > until:
                return total
            time.sleep(0.2)

    def __enter__(self) -> Subscribers:
        return self

    def __exit__(self, *_: object) -> None:
        self._program.close()
        time.sleep(0.5)


@contextmanager
def compiled() -> Iterator[tuple[Path, Path]]:
    """Compile the load client and the floor."""
    if shutil.which("cc") is None:
        raise SystemExit("a C compiler (cc) is needed for the load client")
    with tempfile.TemporaryDirectory() as folder:
        made = []
        for name in ("client", "floor"):
            made.append(Path(folder) / name)
            subprocess.run(["cc", "-O2", "-o", str(made[-1]), str(HERE / f"{name}.c")], check=True)
        yield made[0], made[1]


class Floor:
    """A loop of ``send()`` in C with its own subscribers."""

    def __init__(self, floor: Path, client: Path, subscribers: int, size: int) -> None:
        port = free_port()
        command = [str(floor), str(port), str(subscribers), str(size)]
        self._program = Program(command, SERVER_CORE)
        self._subscribers = subscribers
        self._program.line()
        self._streams = Subscribers(client, port, "/", subscribers)

    def send(self) -> float:
        """Send one message to all subscribers; return the CPU microseconds per send."""
        seconds: float = self._program.ask("send")
        return seconds / self._subscribers * 1e6

    def __enter__(self) -> Floor:
        return self

    def __exit__(self, *reason: object) -> None:
        self._program.close()
        self._streams.__exit__(*reason)


def floor_of(floor: Path, client: Path, subscribers: int, frames: int, size: int) -> float:
    """Return the CPU microseconds per send of the loop in C."""
    with Floor(floor, client, subscribers, size) as loop:
        return sum(_after_rest(loop.send) for _ in range(frames)) / frames


def _after_rest(send: Callable[[], float]) -> float:
    took = send()
    time.sleep(REST)
    return took


def one_at_a_time(web: Web, elsewhere: Web, client: Path, floor: Path, subscribers: int, frames: int) -> None:
    """Send one frame to all subscribers, then one by the floor, and so on: the speed of the machine may change."""
    table = Table(
        f"One frame at a time to {subscribers:,} subscribers",
        ["posted to", "floor µs", "pushsvc µs", "ratio", "median", "p50 ms", "p99 ms", "max ms", "lost"],
        "CPU of the web process per delivery, all of it: reading the log, the frame, the sends; and the POST, where it "
        "takes that too. Ratio: of the sums; median: of the ratios of each frame and the floor's next to it.",
    )
    ratios: dict[str, list[float]] = {"another": [], "the same": []}
    for number in range(4):
        name, poster = ("another", elsewhere) if number % 2 == 0 else ("the same", web)
        topic = f"one{number}"
        with Subscribers(client, web.port, EVENTS.format(topic), subscribers) as streams:
            for _ in range(2):
                poster.post(topic)
                size = int(
                    streams.received(subscribers, 10)["bytes"] / subscribers
                )  # from the second one: without response heads
            with Floor(floor, client, subscribers, size) as loop:
                turns = [_turn(web, poster, topic, subscribers, loop) for _ in range(frames)]
            found = streams.received(subscribers * frames, 20)
        took, base = (sum(side) / frames for side in zip(*turns, strict=True))
        ratios[name].append(took / base)
        lost = subscribers * frames - int(found["messages"])
        table.add(
            f"{name} process", f"{base:.2f}", f"{took:.2f}", f"{took / base:.2f}",
            f"{median(one / least for one, least in turns):.2f}",
            f"{found['p50_ms']:.1f}", f"{found['p99_ms']:.1f}", f"{found['max_ms']:.1f}", str(lost),
        )  # fmt: skip
    table.print()
    target = Target("≤ 1.3 × the floor", 1.3, least=False)
    for name, found_ratios in ratios.items():
        mean = sum(found_ratios) / len(found_ratios)
        print(f"{target.text}, posted to {name} process: {mean:.2f} (mean), {target.verdict(mean)}")


def _turn(web: Web, poster: Web, topic: str, subscribers: int, loop: Floor) -> tuple[float, float]:
    """Return the CPU microseconds per delivery of one frame, and per send of the floor."""
    before = web.cpu()
    poster.post(topic)
    time.sleep(REST)
    return (web.cpu() - before) / subscribers * 1e6, _after_rest(loop.send)


def burst(web: Web, client: Path, subscribers: int, seconds: int) -> None:
    """Publish 10,000 events a second in requests of 200, without waiting for answers."""
    posts = 50 * seconds
    with Subscribers(client, web.port, EVENTS.format("burst"), subscribers) as streams:
        before, started = web.cpu(), time.monotonic()
        for number in range(posts):
            time.sleep(max(0.0, started + number / 50 - time.monotonic()))
            web.post("burst", 200)
        took = time.monotonic() - started
        wanted = subscribers * posts * 200
        found = streams.received(wanted, 20)
        cpu = web.cpu() - before
    table = Table(
        f"10,000 frames/s offered to {subscribers} subscribers for {seconds} s, 200 frames a POST",
        ["offered", "delivered", "per second", "CPU µs/delivery", "p50 ms", "p99 ms", "max ms"],
    )
    table.add(
        f"{wanted:,}", f"{int(found['messages']):,}", f"{found['messages'] / took:,.0f}",
        f"{cpu / wanted * 1e6:.3f}", f"{found['p50_ms']:.1f}", f"{found['p99_ms']:.1f}", f"{found['max_ms']:.1f}",
    )  # fmt: skip
    table.print()


def idle(redis: str, folder: Path, client: Path, counts: list[int]) -> None:
    """Measure memory, the rate of new streams, and the cost of a connect and close beside many streams."""
    table = Table(
        "Idle subscribers",
        ["streams", "of", "KB each", "opened in s", "a second", "connect+close CPU ms", "max loop lag ms"],
    )
    churned = 300
    for path in (EVENTS.format("idle"), STATS.format("idle")):
        for count in counts:
            web = Web(redis, folder)  # in a process that was larger before, the memory of streams would not show
            subprocess.run([str(client), str(web.port), path, "100", "churn"], check=True)
            before = web.memory()
            with Subscribers(client, web.port, path, count) as streams:
                each = (web.memory() - before) / count / 1024
                time.sleep(1)
                cpu = web.cpu()
                time.sleep(2)
                resting = (web.cpu() - cpu) / 2
                cpu, started = web.cpu(), time.monotonic()
                subprocess.run([str(client), str(web.port), path, str(churned), "churn"], check=True)
                spent = web.cpu() - cpu - resting * (time.monotonic() - started)
                lag = _worst_answer(web)
                table.add(
                    f"{count:,}", path.rpartition("/")[2], f"{each:.2f}", f"{streams.opened_in:.1f}",
                    f"{count / streams.opened_in:,.0f}", f"{spent / churned * 1e3:.2f}", f"{lag:.1f}",
                )  # fmt: skip
            web.stop()
    table.print()


def reconnect(redis: str, folder: Path, client: Path, count: int) -> None:
    """Kill the web process under many statistics streams, which all reconnect to a new one at once."""
    table = Table(
        f"{count:,} subscribers come back to a new process",
        ["with", "open after s", "all have a frame after s", "CPU ms each", "loop lag p99 ms", "without a frame"],
    )
    path, keys = STATS.format("back"), 16
    command = [sys.executable, "-m", "pushsvc", "aggregator"]
    aggregator = pinned(command, OTHER_CORES, env={**os.environ, "PUSHSVC_REDIS": redis}, cwd=folder)
    web = Web(redis, folder)
    for _ in range(keys):
        web.post("back")
    time.sleep(3)
    for name in ("nothing", "a cursor"):
        with Subscribers(client, web.port, path, count) as streams:
            streams.received(count, 30)
            cursor = _cursor(web.port, path) if name == "a cursor" else None
            for process in (web.process.pid, web.worker):
                os.kill(process, signal.SIGKILL)
            web.process.wait()
        web = Web(redis, folder, port=web.port)
        web.post("back")  # so that resumed streams miss something
        time.sleep(2)
        cpu, lag, started = web.cpu(), web.lag(), time.monotonic()
        with Subscribers(client, web.port, path, count, cursor=cursor) as streams:
            found = streams.received(count, 30)
            took, spent = time.monotonic() - started, web.cpu() - cpu
            late = {most: seen - lag[most] for most, seen in web.lag().items()}
        p99 = min(most for most, seen in late.items() if seen >= 0.99 * late[math.inf])
        lost = count - min(count, int(found["messages"]))
        table.add(
            name, f"{streams.opened_in:.1f}", f"{took:.1f}", f"{spent / count * 1e3:.2f}", f"≤ {p99 * 1e3:g}", str(lost)
        )
    web.stop()
    aggregator.terminate()
    aggregator.wait(30)
    table.print()


def tls(redis: str, folder: Path, count: int) -> None:
    """Measure memory of idle streams over TLS, and CPU of a delivery with encryption."""
    table = Table(f"{count:,} streams over TLS", ["KB each", "handshake and opening CPU ms", "CPU µs/delivery"])
    certificate = folder / "own.pem"
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-keyout", "-", "-out", "-"],
        check=True, capture_output=True,
    )  # fmt: skip
    certificate.write_bytes(made.stdout)
    web, frames = Web(redis, folder, certificate=certificate), 50
    context, path = _trusting(), EVENTS.format("tls")
    _secure_streams(context, web.port, path, 50)
    memory, cpu = web.memory(), web.cpu()
    streams = _secure_streams(context, web.port, path, count)
    opening, each = (web.cpu() - cpu) / count, (web.memory() - memory) / count / 1024
    cpu = web.cpu()
    for _ in range(frames):
        web.post("tls")
        time.sleep(0.05)
    time.sleep(1)
    table.add(f"{each:.1f}", f"{opening * 1e3:.2f}", f"{(web.cpu() - cpu) / frames / count * 1e6:.1f}")
    for stream in streams:
        stream.close()
    web.stop()
    table.print()


def _secure_streams(context: ssl.SSLContext, port: int, path: str, count: int) -> list[ssl.SSLSocket]:
    opened = []
    for _ in range(count):
        sock = context.wrap_socket(socket.create_connection(("127.0.0.1", port)))
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n".encode())
        seen = b""
        while b": pushsvc" not in seen:
            seen += sock.recv(4_096)
        opened.append(sock)
    return opened


def _cursor(port: int, path: str) -> str:
    """Return the first SSE id of a stream."""
    with closing(HTTPConnection("127.0.0.1", port, timeout=10)) as own:
        own.request("GET", path, headers={"Accept": "text/event-stream"})
        answer = own.getresponse()
        while not (line := answer.readline()).startswith(b"id: "):
            pass
        return line[4:].strip().decode()


def _worst_answer(web: Web) -> float:
    """Return the longest time of a request in ms over 16 s, in which all streams get heartbeats."""
    worst = 0.0
    until = time.monotonic() + 16
    connection = HTTPConnection("127.0.0.1", web.port)
    while time.monotonic() < until:
        started = time.monotonic()
        connection.request("GET", "/livez")
        connection.getresponse().read()
        worst = max(worst, time.monotonic() - started)
        time.sleep(0.005)
    return worst * 1e3


def stalled(web: Web, client: Path, subscribers: int, seconds: int) -> None:
    """Measure many subscribers with and without one that never reads."""
    table = Table(
        f"A subscriber that never reads, among {subscribers:,}", ["stalled", "p50 ms", "p99 ms", "max ms", "RSS + MB"]
    )
    for number, count in enumerate((0, 1, 0, 1)):
        topic = f"stalled{number}"
        with Subscribers(client, web.port, EVENTS.format(topic), subscribers, count) as streams:
            memory, started, posts = web.memory(), time.monotonic(), 20 * seconds
            for post in range(posts):
                time.sleep(max(0.0, started + post / 20 - time.monotonic()))
                web.post(topic, 50)
            found = streams.received((subscribers - count) * posts * 50, 20)
            grown = (web.memory() - memory) / 1e6
        table.add(
            str(count), f"{found['p50_ms']:.1f}", f"{found['p99_ms']:.1f}", f"{found['max_ms']:.1f}", f"{grown:.1f}"
        )
    table.print()


PARTS = ("one", "burst", "stalled", "idle", "reconnect", "tls")


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the effort")
    parser.add_argument("--eager", action="store_true", help="let the load client wait for each message")
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="which tables; all if none is named")
    arguments = parser.parse_args()
    parts = arguments.parts or PARTS
    part = 10 if arguments.quick else 1
    Client.nap = 0 if arguments.eager else Client.nap
    print(machine())
    with compiled() as (client, floor), tempfile.TemporaryDirectory() as folder:
        redis = EmbeddedServer(Path(folder) / "data", options={"appendfsync": "no"})
        redis.start()
        try:
            web = Web(redis.url, Path(folder))
            try:
                if "one" in parts:
                    elsewhere = Web(redis.url, Path(folder), OTHER_CORES)
                    one_at_a_time(web, elsewhere, client, floor, 1_000 // part, 150 // part)
                    elsewhere.stop()
                if "burst" in parts:
                    burst(web, client, 200, max(1, 5 // part))
                if "stalled" in parts:
                    stalled(web, client, 1_000 // part, 5)
                if "idle" in parts:
                    idle(redis.url, Path(folder), client, [10_000 // part, 15_000 // part])
                if "reconnect" in parts:
                    reconnect(redis.url, Path(folder), client, 15_000 // part)
                if "tls" in parts:
                    tls(redis.url, Path(folder), 1_000 // part)
            finally:
                web.stop()
        finally:
            redis.stop()


if __name__ == "__main__":
    main()
