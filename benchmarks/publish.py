"""The cost of publishing: NDJSON batches beside parsing alone, single POSTs beside a plain Flask view.

``python benchmarks/publish.py [--quick]`` starts an embedded Valkey and, in processes of their own, pushsvc's app and
a Flask view that only publishes to Redis, both under gevent's pywsgi. This process sends requests over 64 connections
and prints the CPU time of each server, which shows the capacity of one core. ``publish`` itself is also called from 64
greenlets of another process: the cost without a web server.
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
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import msgspec

from measure import BATCH, Table, Target, least, machine, stored_batches

CONNECTIONS = 64
_NDJSON, _JSON = "application/x-ndjson", "application/json"
_TICK = os.sysconf("SC_CLK_TCK")
_BATCHES = {False: Target("<= 8", 8, least=False), True: Target("<= 16", 16, least=False)}
_SINGLE = Target(">= 6", 6)


def batch(number: int, *, ids: bool) -> bytes:
    """Return an NDJSON body; bodies of different numbers share no id."""
    return stored_batches(1, BATCH, dressed=ids)[0].replace(b"producer-1/000000", b"producer-1/%06d" % number)


def single(number: int, *, ids: bool) -> bytes:
    """Return a JSON body of one event, 60 bytes without its id."""
    event = b'{"key":"key-17","value":104.25,"note":"a little text, no more"}'
    return b'{"id":"producer-1/%010d",' % number + event[1:] if ids else event


# -- the measured processes


def serve(kind: str, redis_url: str) -> None:
    """Serve on a free port and print it; or call ``publish`` as often as each line of the input demands."""
    from gevent import monkey

    monkey.patch_all()
    from gevent.pywsgi import WSGIServer

    if kind == "direct":
        return call_directly(redis_url)
    server = WSGIServer(("127.0.0.1", 0), plain_app(redis_url) if kind == "plain" else our_app(redis_url), log=None)
    server.start()
    print(server.server_port, flush=True)
    server.serve_forever()
    return None


def plain_app(redis_url: str) -> Any:
    """Return the simplest app: a view that publishes the JSON that it gets."""
    import flask
    import redis

    app = flask.Flask("plain")
    client = redis.Redis.from_url(redis_url)

    @app.post("/v1/topics/<topic>/events")
    def post(topic: str) -> tuple[flask.Response, int]:
        client.publish(topic, json.dumps(flask.request.get_json()))
        return flask.jsonify(accepted=1), 202

    return app


def our_app(redis_url: str) -> Any:
    from pushsvc.broker.broker import Broker
    from pushsvc.web.app import create_app

    return create_app(Broker(redis_url))


def call_directly(redis_url: str) -> None:
    """Publish from 64 greenlets, as often as each line of the input demands; print the CPU seconds."""
    import gevent

    from pushsvc.web.publish import publish

    context = our_app(redis_url).extensions["pushsvc"]
    numbers = count()
    print("ready", flush=True)
    for line in iter(sys.stdin.readline, ""):
        calls, ids, size = map(int, line.split())
        bodies = [single(next(numbers), ids=bool(ids)) if size == 1 else batch(next(numbers), ids=bool(ids))
                  for _ in range(calls)]  # fmt: skip
        waiting = iter(bodies)

        def work(waiting: Iterator[bytes] = waiting, kind: str = _JSON if size == 1 else _NDJSON) -> None:
            for body in waiting:
                answer = publish(context, "bench", kind, body)
                if answer.status != 202:
                    raise SystemExit(answer.body)

        started = time.process_time()
        gevent.joinall([gevent.spawn(work) for _ in range(CONNECTIONS)], raise_error=True)
        print(time.process_time() - started, flush=True)


class Child:
    """A measured process."""

    def __init__(self, kind: str, redis_url: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve", kind, "--redis", redis_url],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.first = self.line()

    def line(self) -> str:
        line = self.process.stdout and self.process.stdout.readline()
        if not line:
            raise SystemExit("a process that is measured has ended")
        return line.strip()

    def ask(self, *words: object) -> float:
        if self.process.stdin is not None:
            print(*words, file=self.process.stdin, flush=True)
        return float(self.line())

    def cpu(self) -> float:
        return cpu_of(self.process.pid)

    def end(self) -> None:
        self.process.terminate()
        self.process.wait()


def cpu_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


# -- the load


def request(body: bytes, kind: str) -> bytes:
    return (
        b"POST /v1/topics/bench/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n%b"
        % (kind.encode(), len(body), body)
    )


class Client:
    """One connection that posts again after each answer."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._answer = b""

    def answered(self) -> bool:
        """Read from the socket; return whether an answer is complete."""
        self._answer += self.socket.recv(65_536)
        head, end, body = self._answer.partition(b"\r\n\r\n")
        if not end or len(body) < int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]):
            return False
        if not self._answer.startswith(b"HTTP/1.1 202"):
            raise SystemExit(self._answer.decode())
        self._answer = b""
        return True


def load(port: int, requests: Iterator[bytes], connections: int) -> None:
    """Post all bodies, one at a time on each connection."""
    waiting = selectors.DefaultSelector()
    for _ in range(connections):
        client = Client(port)
        client.socket.sendall(next(requests))
        waiting.register(client.socket, selectors.EVENT_READ, client)
    while waiting.get_map():
        for key, _ in waiting.select():
            if key.data.answered():
                more = next(requests, None)
                if more is None:
                    waiting.unregister(key.data.socket)
                    key.data.socket.close()
                else:
                    key.data.socket.sendall(more)


# -- tables


class Run:
    """All processes of a run, and the unique numbers of its bodies."""

    def __init__(self, redis_url: str, quick: bool) -> None:
        self.singles, self.batches, self.repeats = (4_000, 100, 2) if quick else (20_000, 400, 4)
        self.children = {kind: Child(kind, redis_url) for kind in ("plain", "pushsvc", "direct")}
        self._numbers = count(1_000_000)

    def posted(self, kind: str, calls: int, make: Callable[..., bytes], media: str, *, ids: bool) -> float:
        """Return the CPU seconds of a server per POST."""
        child = self.children[kind]
        requests = [request(make(next(self._numbers) % 1_000_000, ids=ids), media) for _ in range(calls)]
        before = child.cpu()
        load(int(child.first), iter(requests), CONNECTIONS if make is single else 4)
        return (child.cpu() - before) / calls

    def called(self, calls: int, size: int, *, ids: bool) -> float:
        return self.children["direct"].ask(calls, int(ids), size) / calls

    def end(self) -> None:
        for child in self.children.values():
            child.end()


def batches(run: Run) -> None:
    table = Table(
        f"NDJSON batches of {BATCH}, us of web CPU an event",
        ("what", "ids", "msgspec alone", "web", "times", "issue", ""),
    )
    decode = msgspec.json.Decoder().decode_lines
    for ids in (False, True):
        body = batch(0, ids=ids)
        for what, cost in (
            ("publish() from 64 greenlets", lambda ids=ids: run.called(run.batches, BATCH, ids=ids)),
            (
                "POST through Flask on pywsgi",
                lambda ids=ids: run.posted("pushsvc", run.batches, batch, _NDJSON, ids=ids),
            ),
        ):
            cost()  # the schema is learned, the keys exist
            pairs = [(cost() / BATCH, least(lambda body=body: decode(body), 50) / BATCH) for _ in range(run.repeats)]
            ours, floor = min(pairs)
            target, times = _BATCHES[ids], ours / floor
            table.add(
                what, "yes" if ids else "no", f"{floor * 1e6:.2f}", f"{ours * 1e6:.2f}", f"{times:.1f}",
                target.text, target.verdict(times),
            )  # fmt: skip
    table.print()


def singles(run: Run) -> None:
    table = Table(
        f"Single events of 60 bytes, {CONNECTIONS} at a time, us of web CPU each",
        ("what", "ids", "us", "a core and second", "times the plain view", "issue", ""),
    )
    ways: list[tuple[str, str, Callable[[], float]]] = [
        (
            "plain Flask view on pywsgi: PUBLISH",
            "",
            lambda: run.posted("plain", run.singles // 4, single, _JSON, ids=False),
        )
    ]
    for ids in (False, True):
        word = "yes" if ids else "no"
        ways += [
            ("POST through Flask on pywsgi", word,
             lambda ids=ids: run.posted("pushsvc", run.singles // 4, single, _JSON, ids=ids)),
            ("publish() from 64 greenlets", word, lambda ids=ids: run.called(run.singles, 1, ids=ids)),
        ]  # fmt: skip
    for _, _, cost in ways:
        cost()
    rounds = [[cost() for _, _, cost in ways] for _ in range(run.repeats)]
    best = [min(column) for column in zip(*rounds, strict=True)]
    for (what, named, _), seconds in zip(ways, best, strict=True):
        ratio = best[0] / seconds
        judged = (_SINGLE.text, _SINGLE.verdict(ratio)) if what.startswith("publish()") else ("", "")
        table.add(what, named, f"{seconds * 1e6:.0f}", f"{1 / seconds:,.0f}", f"{ratio:.1f}", *judged)
    table.print()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="a fifth of the requests")
    options.add_argument("--serve", choices=("plain", "pushsvc", "direct"), help=argparse.SUPPRESS)
    options.add_argument("--redis", help="a Redis or Valkey to use in place of the embedded one")
    chosen = options.parse_args()
    if chosen.serve:
        serve(chosen.serve, chosen.redis)
        return
    from pushsvc.broker.embedded import EmbeddedServer

    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        server = None if chosen.redis else EmbeddedServer(Path(folder) / "data")
        if server is not None:
            server.start()
        run = Run(chosen.redis or server.url, chosen.quick)
        try:
            batches(run)
            singles(run)
        finally:
            run.end()
            if server is not None:
                server.stop()


if __name__ == "__main__":
    main()
