"""The cost of a request in the HTTP server, for an empty WSGI app and for publishing, beside gevent's pywsgi.

``python benchmarks/serving.py [--seconds N] [--connections N]`` starts each server in a process of its own, keeps every
connection busy with one request at a time, and prints requests per second and the server's CPU time per request.
Rounds alternate between the servers; the least time counts. Publish requests go to an embedded Valkey; only the CPU of
the HTTP server is measured.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

GET = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n"
EVENT = b'{"key":"pizza","rating":4.5,"note":"a single event of 60 B"}'
POST = (
    b"POST /v1/topics/bench/events%b HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: bench\r\nAccept: */*\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
)
FAST, FLASK = (POST % (query, len(EVENT), EVENT) for query in (b"", b"?on_error=refuse"))
ID = b"000000000000"
WITH_ID = EVENT.replace(b'{"key"', b'{"id":"%b","key"' % ID)
FAST_WITH_ID = POST % (b"", len(WITH_ID), WITH_ID)
NUMBERS = itertools.count(1)
ROUNDS = 3

ROWS = [
    ("empty WSGI app", "pywsgi", "empty", GET),
    ("empty WSGI app", "pushsvc", "empty", GET),
    ("fast path, nothing stored", "pushsvc", "stub", FAST),
    ("publish, Flask", "pywsgi", "publish", FLASK),
    ("publish, Flask", "pushsvc", "publish", FLASK),
    ("publish, fast path", "pushsvc", "publish", FAST),
    ("publish, fast path, with ids", "pushsvc", "publish", FAST_WITH_ID),
]


# The servers, each in a process of its own


def empty(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
    return [b"ok"]


def serve(kind: str, what: str, redis: str, descriptor: int) -> None:
    from gevent import monkey

    monkey.patch_all()
    listener = socket.socket(fileno=descriptor)
    app: Any = empty
    if what != "empty":
        from pushsvc.broker.broker import Broker
        from pushsvc.web.app import create_app

        app = create_app(Broker(redis, "bench:"))
    if kind == "pywsgi":
        serve_pywsgi(listener, app)
    else:
        serve_pushsvc(listener, app, what)


def serve_pywsgi(listener: socket.socket, app: Any) -> None:
    import gevent
    from gevent.pywsgi import WSGIServer

    server = WSGIServer(listener, app, log=None)
    gevent.signal_handler(signal.SIGTERM, server.stop)
    server.serve_forever()


def serve_pushsvc(listener: socket.socket, app: Any, what: str) -> None:
    import gevent
    from gevent.event import Event

    from pushsvc.server.accept import Acceptor
    from pushsvc.server.caps import Caps
    from pushsvc.server.context import FastPaths, ServerContext
    from pushsvc.server.request import HeadLimits, parse_head
    from pushsvc.server.wsgi import base_environ
    from pushsvc.web.long_requests import UNKNOWN

    draining, stopping = Event(), Event()
    fast_paths = None if what == "empty" else FastPaths.of(app, draining, batching=True)
    if what == "stub" and fast_paths is not None:
        publisher = fast_paths.publisher
        receipt = publisher.publish("bench", parse_head(FAST[: FAST.index(EVENT)], HeadLimits()), EVENT, UNKNOWN)
        publisher.publish = lambda *_: receipt  # type: ignore[method-assign]
    context = ServerContext(app, base_environ(listener.getsockname(), "http"), fast_paths, draining=draining)
    acceptor = Acceptor(listener, context, Caps())
    gevent.signal_handler(signal.SIGTERM, stopping.set)
    acceptor.start()
    stopping.wait()


# The load


def load(port: int, request: bytes, connections: int, seconds: float) -> int:
    """Return the number of answered requests; every answer must be a complete 2xx."""
    poll, sockets = select.epoll(), {}
    before, has_id, after = request.partition(ID)
    for _ in range(connections):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sockets[connection.fileno()] = connection
        poll.register(connection.fileno(), select.EPOLLIN)
        connection.sendall(request)
    partial_answers: dict[int, bytes] = {}
    poll.poll(30)  # until the server has started
    answered, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        for descriptor, _ in poll.poll(1):
            connection = sockets[descriptor]
            data = partial_answers.pop(descriptor, b"") + connection.recv(65_536)
            if not data.startswith(b"HTTP/1.1 2"):
                raise SystemExit(f"an answer that was not expected: {data!r}")
            if not is_whole(data):
                partial_answers[descriptor] = data
                continue
            answered += 1
            connection.sendall(b"%b%012d%b" % (before, next(NUMBERS), after) if has_id else request)
    for connection in sockets.values():
        connection.close()
    poll.close()
    return answered


def is_whole(data: bytes) -> bool:
    head, found, body = data.partition(b"\r\n\r\n")
    length = re.search(rb"\r\ncontent-length: ([0-9]+)", head, re.IGNORECASE)
    return bool(found and length) and len(body) >= int(length[1])


def measure(kind: str, what: str, request: bytes, redis: str, options: argparse.Namespace) -> tuple[float, float]:
    """Return requests per second and the server's CPU seconds per request."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        listener.set_inheritable(True)
        port, descriptor = listener.getsockname()[1], listener.fileno()
        process = subprocess.Popen(
            [sys.executable, __file__, "--serve", kind, what, redis, str(descriptor)], pass_fds=[descriptor]
        )
        try:
            load(port, request, options.connections, 0.5)  # imports and first uses
            before, started = cpu(process.pid), time.monotonic()
            answered = load(port, request, options.connections, options.seconds)
            return answered / (time.monotonic() - started), (cpu(process.pid) - before) / answered
        finally:
            process.terminate()
            try:
                process.wait(3)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def cpu(pid: int) -> float:
    """Return user and system seconds of a process (Linux only)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--serve", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        kind, what, redis, descriptor = options.serve
        serve(kind, what, redis, int(descriptor))
        return
    from pushsvc.broker.embedded import EmbeddedServer

    with tempfile.TemporaryDirectory() as folder:
        valkey = EmbeddedServer(Path(folder))
        valkey.start()
        try:
            report(valkey.url, options)
        finally:
            valkey.stop()


def report(redis: str, options: argparse.Namespace) -> None:
    found: dict[tuple[str, str], tuple[float, float]] = {}
    for _ in range(ROUNDS):
        for name, kind, what, request in ROWS:
            measured = measure(kind, what, request, redis, options)
            found[name, kind] = min(found.get((name, kind), measured), measured, key=lambda one: one[1])
    print(f"{options.connections} connections, {options.seconds:.0f} s, the best of {ROUNDS} rounds\n")
    print("| request | server | per second | CPU µs | of pywsgi's CPU |\n|---|---|---|---|---|")
    for (name, kind), (rate, seconds) in found.items():
        peer = found["publish, Flask" if name.startswith("publish") else "empty WSGI app", "pywsgi"]
        print(f"| {name} | {kind} | {rate:,.0f} | {seconds * 1e6:.1f} | {seconds / peer[1]:.2f} |")


if __name__ == "__main__":
    main()
