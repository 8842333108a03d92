"""Normal work beside an attack, in a process of its own: subscribers, a producer, and looks at the server's health."""

from __future__ import annotations

import json
import multiprocessing
import re
import resource
import selectors
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from urllib.parse import urlsplit

TOPIC = "hostile-normal"
PAUSE = 0.02
"""Seconds between two events, and between two looks at ``/livez``."""

DEADLINE = 10.0
"""Seconds for which a report waits for events that are on their way."""

_EVENT = re.compile(rb'"sent":([0-9.]+)')


@dataclass
class Report:
    """Of one attack: the seconds until subscribers had an event, how long ``/livez`` took at most, the greatest memory
    of a web process and the last one (MB), and the events that were accepted (``sent``) and that subscribers lack."""

    latencies: list[float] = field(default_factory=list)
    stall: float = 0.0
    greatest: float = 0.0
    last: float = 0.0
    sent: int = 0
    missing: int = 0

    @property
    def p99(self) -> float:
        return sorted(self.latencies)[int(len(self.latencies) * 0.99)] if self.latencies else 0.0


def memory(pid: int) -> float:
    """Return the resident memory of a process in MB; 0 if it has ended."""
    try:
        found = re.search(r"VmRSS:\s+([0-9]+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0.0
    return int(found[1]) / 1024 if found else 0.0


class Watch:
    """A process that does the normal work until ``close``."""

    def __init__(self, url: str, subscribers: int, pids: Iterable[int]) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, there = context.Pipe()
        self._process = context.Process(target=_run, args=(url, subscribers, list(pids), there), daemon=True)
        self._process.start()
        self._pipe.recv()

    def report(self) -> Report:
        """Return what was seen since the last report."""
        self._pipe.send("report")
        report: Report = self._pipe.recv()
        return report

    def close(self) -> None:
        self._pipe.send("end")
        self._process.join()


def _run(url: str, subscribers: int, pids: list[int], pipe: Connection) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, subscribers + 100)), hard))
    _Work(url, subscribers, pids, pipe).run()


class _Call:
    """A keep-alive connection with at most one request under way."""

    def __init__(self, place: tuple[str, int]) -> None:
        self._place = place
        self.sock: socket.socket | None = None
        self.began = 0.0
        self.busy = False

    def send(self, data: bytes, now: float) -> socket.socket | None:
        """Send a request; return the socket if it is a new one."""
        fresh = None
        try:
            if self.sock is None:
                self.sock = fresh = socket.create_connection(self._place)
                self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.sock.sendall(data)
        except OSError:
            self.sock = None
            return None
        self.began, self.busy = now, True
        return fresh

    def receive(self) -> bytes:
        """Return bytes of the answer; none if the connection has ended."""
        assert self.sock is not None
        try:
            data = self.sock.recv(65_536)
        except OSError:
            data = b""
        self.busy = False
        if not data:
            self.sock.close()
            self.sock = None
        return data


class _Work:
    def __init__(self, url: str, subscribers: int, pids: list[int], pipe: Connection) -> None:
        parts = urlsplit(url)
        self._host = parts.netloc
        self._place = parts.hostname or "", parts.port or 80
        self._pids, self._pipe = pids, pipe
        self._selector = selectors.DefaultSelector()
        self._report = Report()
        self._seen: dict[socket.socket, int] = {}
        self._rests: dict[socket.socket, bytes] = {}  # of a line whose end has not arrived
        self._accepted = 0
        self._report_by: float | None = None  # a report is due then at the latest
        self._health, self._producer = _Call(self._place), _Call(self._place)
        self._selector.register(pipe, selectors.EVENT_READ, "pipe")
        for _ in range(subscribers):
            sock = socket.create_connection(self._place)
            head = f"GET /v1/topics/{TOPIC}/events HTTP/1.1\r\nHost: {self._host}\r\nAccept: text/event-stream\r\n\r\n"
            sock.sendall(head.encode())
            assert sock.recv(65_536).startswith(b"HTTP/1.1 200")
            sock.setblocking(False)
            self._seen[sock] = 0
            self._selector.register(sock, selectors.EVENT_READ, "stream")

    def run(self) -> None:
        self._pipe.send("ready")
        due = 0.0
        while True:
            now = time.monotonic()
            if now >= due:
                due = now + PAUSE
                self._turn(now)
            for key, _ in self._selector.select(max(0.0, due - time.monotonic())):
                if key.data == "stream":
                    self._take(key.fileobj)  # type: ignore[arg-type]
                elif key.data == "pipe":
                    if self._pipe.recv() == "end":
                        return
                    self._report_by = time.monotonic() + DEADLINE
                else:
                    self._finish(key.data)
            if self._report_by is not None and (self._is_complete() or time.monotonic() > self._report_by):
                self._report_by = None
                self._answer()

    def _turn(self, now: float) -> None:
        self._report.greatest = max([self._report.greatest, *map(memory, self._pids)])
        self._report.stall = max([self._report.stall, *(now - one.began for one in (self._health,) if one.busy)])
        if not self._health.busy:
            self._begin(self._health, f"GET /livez HTTP/1.1\r\nHost: {self._host}\r\n\r\n".encode(), now)
        if not self._producer.busy and self._report_by is None:
            body = json.dumps({"sent": now}).encode()
            head = (
                f"POST /v1/topics/{TOPIC}/events HTTP/1.1\r\nHost: {self._host}\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\n\r\n"
            )
            self._begin(self._producer, head.encode() + body, now)

    def _begin(self, call: _Call, data: bytes, now: float) -> None:
        fresh = call.send(data, now)
        if fresh is not None:
            self._selector.register(fresh, selectors.EVENT_READ, call)

    def _finish(self, call: _Call) -> None:
        sock = call.sock
        assert sock is not None
        if call is self._health:
            self._report.stall = max(self._report.stall, time.monotonic() - call.began)
        answer = call.receive()
        if not answer:
            self._selector.unregister(sock)
        elif call is self._producer and answer.startswith(b"HTTP/1.1 202"):
            self._accepted += 1
            self._report.sent += 1

    def _take(self, sock: socket.socket) -> None:
        data = sock.recv(1 << 20)
        if not data:
            self._selector.unregister(sock)
            return
        now = time.monotonic()
        lines, _, self._rests[sock] = (self._rests.get(sock, b"") + data).rpartition(b"\n")
        for sent in _EVENT.findall(lines):
            self._report.latencies.append(now - float(sent))
            self._seen[sock] += 1

    def _is_complete(self) -> bool:
        return not self._producer.busy and not self._missing()

    def _missing(self) -> int:
        """Return how many events subscribers lack. An event may be stored though its answer was lost."""
        events = max([self._accepted, *self._seen.values()])
        return sum(events - seen for seen in self._seen.values())

    def _answer(self) -> None:
        self._report.last = max(map(memory, self._pids), default=0.0)
        self._report.missing = self._missing()
        self._pipe.send(self._report)
        self._report = Report()
