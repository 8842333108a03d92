"""The cost of a token: a publish and a delivery with credentials, beside a server that asks nobody for them.

``python benchmarks/tokens.py [--rounds N] [--subscribers N]`` starts two servers, one with a key of tokens, and works
with both in alternation: single events over 16 connections, then one event at a time to many subscribers. It prints
the CPU time of the web processes per publish and per delivery (Linux only), as the kernel counts it in ns.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from http.client import HTTPConnection
from pathlib import Path
from statistics import median

import jwt

KEY = "a-secret-of-this-benchmark-0123456789"
CONNECTIONS = 16
EVENT = b'{"key":"key-17","value":104.25,"note":"a little text, no more"}'


class Server:
    """``pushsvc serve`` in a folder; with ``token`` every request presents one."""

    def __init__(self, folder: Path, *, token: bool) -> None:
        folder.mkdir()
        now = int(time.time())
        claims = {
            "sub": "bench",
            "iat": now,
            "exp": now + 86_400,
            "pushsvc": {"publish": ["bench.>"], "subscribe": ["bench.>"]},
        }
        self._authorization = f"Authorization: Bearer {jwt.encode(claims, KEY, 'HS256')}\r\n" if token else ""
        (folder / "pushsvc.toml").write_text(f'jwt_key = "{KEY}"\n' if token else "")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pushsvc", "serve", "--port", str(self.port)],
            cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        while not self._ready():
            time.sleep(0.1)
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        [self._web] = [pid for pid in children if b"_web" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")]

    def _ready(self) -> bool:
        if self._process.poll() is not None:
            raise SystemExit("the server has ended")
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def request(self, method: str, path: str, body: bytes = b"") -> bytes:
        length = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n{self._authorization}{length}\r\n"
        return head.encode() + body

    def connect(self) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self.port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def cpu(self) -> float:
        """Return the CPU seconds of the web process."""
        spent = (Path(task.path, "schedstat").read_text() for task in os.scandir(f"/proc/{self._web}/task"))
        return sum(int(text.split()[0]) for text in spent) / 1e9

    def end(self) -> None:
        self._process.terminate()
        self._process.wait()


def publish(server: Server, count: int) -> float:
    """Return the CPU seconds of a publish. Each connection waits for its answer."""
    request = server.request("POST", "/v1/topics/bench.publish/events", EVENT)
    chosen = selectors.DefaultSelector()
    for _ in range(CONNECTIONS):
        sock = server.connect()
        sock.sendall(request)
        chosen.register(sock, selectors.EVENT_READ)
    sent, answered = CONNECTIONS, 0
    before = server.cpu()
    while answered < count:
        for key, _ in chosen.select():
            answer = key.fileobj.recv(65_536)
            if not answer.startswith(b"HTTP/1.1 202"):
                raise SystemExit(answer.decode())
            answered += 1
            if sent < count:
                key.fileobj.sendall(request)
                sent += 1
    spent = server.cpu() - before
    for key in list(chosen.get_map().values()):
        key.fileobj.close()
    return spent / count


class Subscribers:
    """Streams of one topic; each event goes to all of them."""

    def __init__(self, server: Server, count: int) -> None:
        self._server = server
        self._selector = selectors.DefaultSelector()
        self.count = count
        request = server.request("GET", "/v1/topics/bench.fanout/events?format=sse")
        for _ in range(count):
            sock = server.connect()
            sock.sendall(request)
            head = b""
            while b": pushsvc" not in head:
                head += sock.recv(65_536)
            if not head.startswith(b"HTTP/1.1 200"):
                raise SystemExit(head.decode())
            self._selector.register(sock, selectors.EVENT_READ)
        self._producer = server.connect()

    def deliver(self, events: int) -> float:
        """Return the CPU seconds of a delivery; each event is sent when all streams have the one before."""
        request = self._server.request("POST", "/v1/topics/bench.fanout/events", EVENT)
        before = self._server.cpu()
        for _ in range(events):
            self._producer.sendall(request)
            if not self._producer.recv(65_536).startswith(b"HTTP/1.1 202"):
                raise SystemExit("an event was refused")
            waiting = self.count
            while waiting:
                for key, _ in self._selector.select():
                    waiting -= key.fileobj.recv(65_536).count(b"\ndata: ")
        return (self._server.cpu() - before) / events / self.count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--publishes", type=int, default=8_000, help="of a round")
    parser.add_argument("--subscribers", type=int, default=400)
    parser.add_argument("--events", type=int, default=100, help="to all subscribers, of a round")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        servers = [Server(Path(folder, name), token=token) for name, token in (("without", False), ("with", True))]
        streams = [Subscribers(server, given.subscribers) for server in servers]
        found: dict[str, list[list[float]]] = {"publish": [[], []], "delivery": [[], []]}
        for turn in range(given.rounds + 1):
            for which in (0, 1) if turn % 2 else (1, 0):
                took = publish(servers[which], given.publishes), streams[which].deliver(given.events)
                if turn:  # the first round warms up
                    for name, seconds in zip(found, took, strict=True):
                        found[name][which].append(seconds * 1e6)
        for server in servers:
            server.end()
    for name, (without, with_token) in found.items():
        pairs = [b - a for a, b in zip(without, with_token, strict=True)]
        print(
            f"{name:9} without a token {median(without):7.2f} us (least {min(without):.2f}), "
            f"with one {median(with_token):7.2f} us (least {min(with_token):.2f}); "
            f"median of the differences {median(pairs):+.2f} us, {median(pairs) / median(without):+.1%}"
        )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
