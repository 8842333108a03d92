"""Starts the program's processes for tests and talks to them over HTTP."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from pushsvc.frame import RowId, apply_frame
from pushsvc.sse import Decoder, Message
from support.ports import free_port
from support.waiting import DEADLINE, until


def client_of(url: str) -> Any:
    """Return a Redis client for the URL that the tests run on, which may be a cluster."""
    import redis

    if url.startswith("redis+cluster://"):
        host, _, port = url.removeprefix("redis+cluster://").split(",")[0].partition(":")
        return redis.RedisCluster(host, int(port))
    return redis.Redis.from_url(url)


class Stack:
    """Web and aggregator processes over one Redis and one prefix."""

    def __init__(self, redis_url: str, prefix: str, folder: Path) -> None:
        self.redis_url = redis_url
        self.prefix = prefix
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.config: Path | None = None
        self.environment: dict[str, str] = {}
        """Variables of processes that start from now on."""

    def __enter__(self) -> Stack:
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._processes):
            self.stop(name)

    # Processes

    def start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Run ``pushsvc …``; its output is in the test's folder."""
        return self._start(name, ["-m", "pushsvc", *arguments])

    def _start(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PUSHSVC_")}
        environment |= {"PUSHSVC_REDIS": self.redis_url, "PUSHSVC_PREFIX": self.prefix} | self.environment
        if self.config is not None:
            environment["PUSHSVC_CONFIG"] = str(self.config)
        with (self._folder / f"{name}.log").open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, *command], stdin=subprocess.DEVNULL,
                stdout=output, stderr=output, env=environment, cwd=self._folder, start_new_session=True,
            )  # fmt: skip
        self._processes[name] = process
        return process

    def configure(self, text: str) -> None:
        """Write the pushsvc.toml of processes that start from now on."""
        self.config = self._folder / "pushsvc.toml"
        self.config.write_text(text)

    def start_web(self, *arguments: str) -> None:
        self.start("web", "web", "--port", str(self.port), *arguments)
        until(lambda: self.ready() or self.ended("web"))
        assert not self.ended("web"), self.output("web")

    def start_web_with(self, descriptors: int, *arguments: str) -> subprocess.Popen[bytes]:
        """Run web processes that may have so many open descriptors each."""
        script = (
            f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({descriptors}, {descriptors}))\n"
            "from pushsvc.__main__ import main; main()"
        )
        process = self._start("web", ["-c", script, "web", "--port", str(self.port), *arguments])
        until(lambda: self.ready() or self.ended("web"))
        assert not self.ended("web"), self.output("web")
        return process

    def start_iterated(self, heartbeat: int = 15) -> None:
        """Run the app under a foreign WSGI server."""
        script = Path(__file__).parent / "iterated.py"
        self._start("web", [str(script), self.redis_url, self.prefix, str(self.port), str(heartbeat)])
        until(lambda: self.ready() or self.ended("web"))
        assert not self.ended("web"), self.output("web")

    def start_aggregator(self) -> None:
        self.start("aggregator", "aggregator")

    def stop(self, name: str, how: signal.Signals = signal.SIGTERM) -> int:
        """Signal a process and wait for its end."""
        process = self._processes.pop(name)
        if process.poll() is None:
            process.send_signal(how)
        try:
            return process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise

    def signal_all(self, name: str, how: signal.Signals) -> None:
        """Signal a process and its children."""
        os.killpg(self._processes[name].pid, how)

    def restart_web(self, how: signal.Signals = signal.SIGKILL) -> None:
        self.stop("web", how)
        until(lambda: not self.listening())  # else an orphan that is ending could be taken for the new process
        self.start_web()

    def ended(self, name: str) -> bool:
        return self._processes[name].poll() is not None

    def output(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text()

    def listening(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), DEADLINE).close()
        except OSError:
            return False
        return True

    def ready(self) -> bool:
        try:
            return self.get("/readyz").status == 200
        except OSError:
            return False

    # Requests

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE)
        try:
            connection.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.request("GET", path, **headers)

    def post(self, topic: str, events: Any, media_type: str = "application/json", query: str = "") -> Answer:
        """Post events: bytes unchanged, anything else as JSON."""
        body = events if isinstance(events, bytes) else json.dumps(events).encode()
        return self.request("POST", f"/v1/topics/{topic}/events{query}", body, Content_Type=media_type)

    def stats(self, topic: str, query: str = "") -> dict[str, Any]:
        """Return the statistics of a topic, as soon as an aggregator has counted it."""
        path = f"/v1/topics/{topic}/stats{query}"
        answer = until(lambda: None if (found := self.get(path, Accept="application/json")).status == 503 else found)
        assert answer.status == 200, answer.body
        return answer.json()

    def metric(self, name: str) -> float:
        """Return the sum of a metric's samples over their labels."""
        samples = [line.split() for line in self.get("/metrics").body.decode().splitlines()]
        return sum(float(value) for series, *_, value in samples if series.split("{")[0] == name)

    @contextmanager
    def stream(self, path: str, **headers: str) -> Iterator[Stream]:
        stream = Stream(self.port, path, headers)
        try:
            yield stream
        finally:
            stream.close()


class Answer:
    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    def json(self) -> Any:
        return json.loads(self.body)

    def json_without_id(self) -> Any:
        """Return the JSON without the id of the request, which each answer has for itself."""
        return {name: value for name, value in self.json().items() if name != "request_id"}

    def __repr__(self) -> str:
        return f"{self.status} {self.body[:500]!r}"


class Stream:
    """An open event stream. A read fails after the test's deadline, or if a blank line ends a message without data."""

    def __init__(self, port: int, path: str, headers: dict[str, str], seconds: float = DEADLINE) -> None:
        self.decoder = Decoder()
        self._connection = HTTPConnection("127.0.0.1", port, timeout=seconds)
        named = {k.replace("_", "-"): v for k, v in headers.items()}
        self._connection.request("GET", path, headers={"Accept": "text/event-stream", **named})
        self.response = self._connection.getresponse()
        self._messages: list[Message] = []
        self._unended = b""
        self.raw = b""

    @property
    def status(self) -> int:
        return self.response.status

    def read(self) -> bytes:
        """Return the next bytes; empty at the end of the stream."""
        data = self.response.read1(65_536)
        self.raw += data
        *ended, self._unended = (self._unended + data).split(b"\n\n")
        for message in ended:
            assert b"\ndata: " in b"\n" + message, message
        self._messages.extend(self.decoder.feed(data))
        return data

    def next(self) -> Message:
        end = time.monotonic() + DEADLINE
        while not self._messages:
            assert self.read(), f"the stream ended: {self.raw[-500:]!r}"
            assert time.monotonic() < end, f"no message within {DEADLINE} s; the last: {self.raw[-500:]!r}"
        return self._messages.pop(0)

    def frame(self) -> tuple[str, dict[str, Any]]:
        """Return the next message's event name and JSON."""
        message = self.next()
        return message.event, json.loads(message.data)

    def until(self, wanted: Callable[[str, dict[str, Any]], bool]) -> dict[str, Any]:
        end = time.monotonic() + DEADLINE
        while True:
            event, data = self.frame()
            if wanted(event, data):
                return data
            assert time.monotonic() < end, f"no such frame within {DEADLINE} s; the last: {self.raw[-500:]!r}"

    def rest(self) -> bytes:
        """Return all bytes when the server has ended the stream; fail if it does not."""
        until(lambda: not self.read())
        return self.raw

    def close(self) -> None:
        self.response.close()  # the response holds the socket
        self._connection.close()


class Table:
    """The state of a client of a statistics stream: rows by (key, field)."""

    def __init__(self) -> None:
        self.rows: dict[RowId, list[Any]] = {}
        self.offset = 0
        self.frames: list[str] = []

    def apply(self, event: str, data: dict[str, Any]) -> None:
        self.frames.append(event)
        if event == "heartbeat":
            return
        if event == "reset":
            self.offset = 0  # the log may have lost its end
        else:
            assert data["offset"] >= self.offset, "a frame's offset went back"
            self.offset = data["offset"]
        apply_frame(self.rows, event, data)

    def live(self) -> dict[RowId, list[Any]]:
        """Return the rows of a snapshot: totals, and no other rows at zero."""
        return {name: row for name, row in self.rows.items() if row[2] or name[0] is None}
