"""What a request costs a server: CPU time of its processes, the longest stall of the event loop, and memory."""

from __future__ import annotations

import multiprocessing
import socket
import time
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Self
from urllib.parse import urlsplit

from hostile.search.recipe import Recipe, Reply, Sender
from hostile.site import Site
from hostile.watch import memory
from support.processes import descendants

ROLES = {"_web": "web", "_aggregator": "aggregator"}
PAUSE, LATER_PAUSE, MANY_LOOKS = 0.002, 0.02, 300
"""Seconds between two looks at ``/livez``, and after so many looks: their own cost is known only roughly."""

STEP, MOST_STEPS = 0.02, 100
"""Seconds between two looks whether the processes have finished, and how many there are at most."""

MOST_CPU, MOST_STALL = 2.0, 50.0
"""Milliseconds of the web process for each KB, and of a stall, above which a request is a finding."""


@dataclass(frozen=True)
class Cost:
    """CPU and stall are in milliseconds, ``kept`` in KB of the web process."""

    reply: Reply
    web: float
    aggregator: float
    broker: float
    stall: float
    kept: float
    idle: float = 0.0

    @property
    def per_kb(self) -> float:
        """Milliseconds of CPU for each KB sent and returned. Any takes 2 ms, so the least is 2 KB."""
        return (self.web + self.aggregator) / max(2.0, (self.reply.sent + self.reply.received) / 1_000)

    def __str__(self) -> str:
        mark = "FINDING" if self.per_kb > MOST_CPU or self.stall - self.idle > MOST_STALL else ""
        return (
            f"{self.reply.status} {self.reply.sent:9,} + {self.reply.received:10,} B  web {self.web:7.1f} ms  "
            f"aggregator {self.aggregator:7.1f}  redis {self.broker:7.1f}  "
            f"stall {self.stall:6.1f} ({self.idle:.1f} idle)  kept {self.kept:6.0f} KB"
            f"  {self.per_kb:7.2f} ms/KB {mark:7}"
        )


class Probe:
    """Measures requests to a server, one at a time."""

    def __init__(self, site: Site, sender: Sender) -> None:
        self._site, self._sender = site, sender
        context = multiprocessing.get_context("spawn")
        self._pipe, there = context.Pipe()
        self._process = context.Process(target=_look, args=(site.url, there), daemon=True)
        self._process.start()
        self._look_cost = 0.0
        self._pipe.recv()
        self.idle()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.send("end")
        self._process.join()

    def idle(self, seconds: float = 0.5) -> float:
        """Return the longest stall, in milliseconds, of a server without requests."""
        self._settle()
        before = self._cpu()["web"]
        self._pipe.send("begin")
        time.sleep(seconds)
        stall, looks = self._looked()
        self._look_cost = (self._cpu()["web"] - before) / max(1, looks)
        return stall

    def measure(self, recipe: Recipe) -> Cost:
        """Send a request, and wait until the server has done all that it does because of it."""
        data = self._sender.bytes_of(recipe)
        self._settle()
        kept, before = self._memory(), self._cpu()
        self._pipe.send("begin")
        reply = self._sender.send(recipe, data)
        self._settle()
        stall, looks = self._looked()
        after = self._cpu()
        spent = {role: after[role] - before[role] for role in after}
        web = max(0.0, spent["web"] - looks * self._look_cost)
        return Cost(reply, web, spent["aggregator"], spent["redis"], stall, self._memory() - kept)

    def confirm(self, recipe: Recipe, times: int = 5) -> Cost:
        """Return the medians of a repeated request, with the stall of the idle server; of memory, the mean."""
        idle = self.idle()
        kept = self._memory()
        costs = [self.measure(recipe) for _ in range(times)]
        medians = {
            name: median(getattr(cost, name) for cost in costs) for name in ("web", "aggregator", "broker", "stall")
        }
        return replace(costs[-1], **medians, kept=(self._memory() - kept) / times, idle=idle)

    def _looked(self) -> tuple[float, int]:
        self._pipe.send("report")
        stall, looks = self._pipe.recv()
        return stall * 1_000, looks

    def _memory(self) -> float:
        return 1_024 * sum(map(memory, self._site.web()))

    def _cpu(self) -> dict[str, float]:
        """Return the milliseconds of CPU that the processes of each role took."""
        taken = {"web": 0.0, "aggregator": 0.0, "redis": 0.0}
        for pid, words in descendants(self._site.pid).items():
            role = next((ROLES[word] for word in words if word in ROLES), None)
            if role is None:
                role = "redis" if "valkey-server" in words[0] else "aggregator"
            taken[role] += sum(_run_time(task) for task in Path(f"/proc/{pid}/task").glob("*/schedstat"))
        return taken

    def _settle(self) -> None:
        """Wait until all processes together take less than a quarter of a core more than the looks."""
        before = sum(self._cpu().values())
        for _ in range(MOST_STEPS):
            time.sleep(STEP)
            after = sum(self._cpu().values())
            if after - before < STEP * 250 + self._look_cost * STEP / PAUSE:
                return
            before = after


def _run_time(path: Path) -> float:
    try:
        return int(path.read_text().split()[0]) / 1e6
    except OSError:
        return 0.0


def _look(url: str, pipe: Connection) -> None:
    """Ask for ``/livez`` between ``begin`` and ``report``; answer with the longest time and the number of requests."""
    place = urlsplit(url)
    sock = socket.create_connection((place.hostname or "", place.port or 80))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    request = f"GET /livez HTTP/1.1\r\nHost: {place.netloc}\r\n\r\n".encode()
    pipe.send("ready")
    longest, looks, active = 0.0, 0, False
    while True:
        if pipe.poll(20 if not active else PAUSE if looks < MANY_LOOKS else LATER_PAUSE):
            said = pipe.recv()
            if said == "end":
                return
            if said == "report":
                pipe.send((longest, looks))
            active, longest, looks = said == "begin", 0.0, 0
        begun = time.perf_counter()
        sock.sendall(request)
        assert sock.recv(4_096), "the server closed the connection"
        longest, looks = max(longest, time.perf_counter() - begun), looks + 1
