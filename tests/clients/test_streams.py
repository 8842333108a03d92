"""Widely used SSE clients get each event at once, get no other messages, and resume."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clients.watch import messages_of
from support.chunked import ChunkDecoder
from support.proxy import Proxy
from support.stack import Stack
from support.waiting import DEADLINE, until

FOLDER = Path(__file__).parent
AT_ONCE = 0.3
"""Seconds within which a client sees an event. One that waits for a full buffer needs seconds, or never sees it."""

PYTHON = ("requests", "sseclient-py", "httpx-sse", "aiohttp-sse-client2")
NODE = ("eventsource", "fetch", "fetch-event-source")
GO = ("net/http", "r3labs/sse")
CURL = {"curl": "--http1.1", "curl over HTTP/1.0": "--http1.0"}
ALL = (*PYTHON, *NODE, *GO, *CURL)


class Watcher:
    """A client as a process of its own. ``seen`` holds its messages, each with the time when it was printed."""

    def __init__(self, command: list[str], *, prints_lines_of_stream: bool) -> None:
        self.seen: list[tuple[float, dict[str, str]]] = []
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env={**os.environ, "NO_PROXY": "*"}
        )
        self._parse = messages_of if prints_lines_of_stream else map_json
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for message in self._parse(line.rstrip("\n") for line in self._process.stdout):
            self.seen.append((time.monotonic(), message))

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    @property
    def data(self) -> list[Any]:
        """Return the data of all messages; that of one without data is None."""
        return [json.loads(message["data"]) if message["data"] else None for _, message in list(self.seen)]

    @property
    def names(self) -> list[str]:
        return [message["event"] or "message" for _, message in list(self.seen)]

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reading.join(DEADLINE)


def map_json(lines: Iterator[str]) -> Iterator[dict[str, str]]:
    return map(json.loads, lines)


@pytest.fixture(scope="session")
def go_program(tmp_path_factory: pytest.TempPathFactory) -> str:
    go = shutil.which("go")
    if go is None:
        pytest.skip("Go is not installed")
    program = tmp_path_factory.mktemp("go") / "watch"
    built = subprocess.run([go, "build", "-o", program, "."], cwd=FOLDER / "go", capture_output=True, text=True)
    if built.returncode and "dial tcp" in built.stderr:
        pytest.skip(f"Go's modules cannot be downloaded: {built.stderr}")
    assert built.returncode == 0, built.stderr
    return str(program)


@pytest.fixture(scope="session")
def command_of(request: pytest.FixtureRequest) -> Callable[[str, str, str], list[str]]:
    """Return a function from a client, a URL and a cursor to the command that runs the client."""

    def command(client: str, url: str, cursor: str) -> list[str]:
        arguments = [client, url, *([cursor] if cursor else [])]
        if client in PYTHON:
            return [sys.executable, str(FOLDER / "watch.py"), *arguments]
        if client in NODE:
            node = shutil.which("node")
            if node is None or not (FOLDER / "js" / "node_modules").is_dir():
                pytest.skip("Node or tests/clients/js/node_modules is missing: make .venv/node.done installs them")
            return [node, str(FOLDER / "js" / "watch.js"), *arguments]
        if client in GO:
            return [request.getfixturevalue("go_program"), *arguments]
        curl = shutil.which("curl")
        if curl is None:
            pytest.skip("curl is not installed")
        resume = ["--header", f"Last-Event-ID: {cursor}"] if cursor else []
        return [curl, "--silent", "--no-buffer", CURL[client], "--header", "Accept: text/event-stream", *resume, url]

    return command


@pytest.fixture
def watch(command_of: Callable[[str, str, str], list[str]]) -> Iterator[Callable[..., Watcher]]:
    """Start a client and wait until its stream is open."""
    running: list[Watcher] = []

    def start(client: str, server: Stack, path: str, *, cursor: str = "", through: str = "") -> Watcher:
        before = server.metric("pushsvc_streams")
        command = command_of(client, (through or server.url) + path, cursor)
        running.append(watcher := Watcher(command, prints_lines_of_stream=client in CURL))
        until(lambda: watcher.ended or server.metric("pushsvc_streams") > before)
        assert not watcher.ended, "the client ended"
        return watcher

    yield start
    for watcher in running:
        watcher.close()


@pytest.fixture(autouse=True)
def _without_other_streams(shared_server: Stack, heartbeat_server: Stack) -> None:
    """Wait until the servers have closed the streams of earlier tests: the tests count streams."""
    for server in (shared_server, heartbeat_server):
        until(lambda: server.metric("pushsvc_streams") == 0)  # noqa: B023


@pytest.fixture(scope="session")
def heartbeat_server(shared_server: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A server over the same Redis whose streams send a heartbeat each second."""
    with Stack(shared_server.redis_url, shared_server.prefix, tmp_path_factory.mktemp("heartbeat")) as stack:
        stack.start_web("--heartbeat", "1")
        yield stack


def await_heartbeats(server: Stack, path: str) -> None:
    """Return when every open stream was due for a heartbeat at least twice."""
    with server.stream(path) as stream:
        until(lambda: (stream.read(), stream.raw.count(b"heartbeat") >= 3)[1])


@pytest.mark.parametrize("client", ALL)
def test_a_single_event_arrives_at_once(client: str, watch: Any, shared_server: Stack, topic: str) -> None:
    """On a busy machine one event may take longer: the best of 20 counts. Each arrives before the next is published."""
    watcher = watch(client, shared_server, f"/v1/topics/{topic}/events")
    best = float("inf")
    for number in range(20):
        begun = time.monotonic()
        shared_server.post(topic, {"n": number})
        until(lambda: len(watcher.seen) > number, seconds=10)  # noqa: B023
        best = min(best, watcher.seen[number][0] - begun)
        if best < AT_ONCE:
            break
    assert best < AT_ONCE
    assert [event["n"] for event in watcher.data] == list(range(number + 1))


@pytest.mark.parametrize("client", ALL)
def test_a_client_sees_the_published_events_and_nothing_else(
    client: str, watch: Any, heartbeat_server: Stack, topic: str
) -> None:
    """Clients took blank lines after the opening and after heartbeats for empty messages."""
    path = f"/v1/topics/{topic}/events"
    watcher = watch(client, heartbeat_server, path)
    await_heartbeats(heartbeat_server, path)
    heartbeat_server.post(topic, [{"n": 1}, {"n": 2, "type": "update"}])
    until(lambda: len(watcher.seen) >= 2)
    await_heartbeats(heartbeat_server, path)
    heartbeat_server.post(topic, {"n": 3})
    until(lambda: len(watcher.seen) >= 3)
    assert [event and event["n"] for event in watcher.data] == [1, 2, 3]
    assert watcher.names == ["message", "update", "message"]


@pytest.mark.parametrize("client", ALL)
def test_statistics_of_one_key(client: str, watch: Any, heartbeat_server: Stack, topic: str) -> None:
    """The stream is filtered, so its heartbeats are events that carry the cursor. They have a name and data."""
    path = f"/v1/topics/{topic}/stats?key=a"
    heartbeat_server.post(topic, {"key": "a", "n": 1})
    until(lambda: heartbeat_server.stats(topic)["offset"] == 1)
    watcher = watch(client, heartbeat_server, path)
    until(lambda: watcher.names[:1] == ["snapshot"])
    await_heartbeats(heartbeat_server, path)
    last = heartbeat_server.post(topic, {"key": "a", "n": 2}).json()["last_offset"]
    until(lambda: any(data.get("offset") == last for data in watcher.data))
    names = set(watcher.names)
    assert names - {"heartbeat"} == {"snapshot", "update"}
    assert ("heartbeat" in names) == (client != "eventsource"), "it hides events that have no listener"


@pytest.mark.parametrize("client", ALL)
def test_a_client_resumes_after_its_last_event_id(client: str, watch: Any, shared_server: Stack, topic: str) -> None:
    path = f"/v1/topics/{topic}/events"
    shared_server.post(topic, [{"n": n} for n in range(3)])
    with shared_server.stream(path, Last_Event_ID="earliest") as stream:
        cursor = stream.next().id
    until(lambda: shared_server.metric("pushsvc_streams") == 0)
    watcher = watch(client, shared_server, path, cursor=cursor)
    shared_server.post(topic, {"n": 3})
    until(lambda: len(watcher.seen) >= 3)
    assert [event["n"] for event in watcher.data] == [1, 2, 3]


@pytest.mark.parametrize("client", ["eventsource", "r3labs/sse"])
def test_a_client_that_reconnects_by_itself_misses_nothing(
    client: str, watch: Any, shared_server: Stack, topic: str
) -> None:
    proxy = Proxy(("127.0.0.1", shared_server.port))
    try:
        path = f"/v1/topics/{topic}/events"
        watcher = watch(client, shared_server, path, through=f"http://127.0.0.1:{proxy.port}")
        shared_server.post(topic, {"n": 1})
        until(lambda: len(watcher.seen) == 1)
        proxy.downward = lambda data: None
        shared_server.post(topic, {"n": 2})
        until(lambda: shared_server.metric("pushsvc_streams") == 0)
        shared_server.post(topic, {"n": 3})
        proxy.downward = lambda data: data
        until(lambda: len(watcher.seen) >= 3)
        assert [event["n"] for event in watcher.data] == [1, 2, 3]
    finally:
        proxy.close()


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_only_http_11_gets_chunks(shared_server: Stack, topic: str, version: str) -> None:
    with socket.create_connection(("127.0.0.1", shared_server.port), DEADLINE) as connection:
        path = f"/v1/topics/{topic}/events?format=sse"
        connection.sendall(f"GET {path} HTTP/{version}\r\nHost: localhost\r\n\r\n".encode())
        got = b""
        while b": pushsvc\n" not in got:
            got += connection.recv(65_536)
        shared_server.post(topic, {"n": 1})
        while b'"n":1}\n\n' not in got:
            got += connection.recv(65_536)
    head, _, body = got.partition(b"\r\n\r\n")
    assert (b"Transfer-Encoding: chunked" in head) == (version == "1.1")
    if version == "1.1":
        chunks = ChunkDecoder()
        body = chunks.feed(body)
        assert len(chunks.sizes) == 2, "a chunk for each write"
    assert body.startswith(b"retry: 2000\n: pushsvc\nid: ")
    assert body.endswith(b'"n":1}\n\n')
