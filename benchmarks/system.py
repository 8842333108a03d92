"""The cost of an event in the running system: POST of NDJSON batches of 1,000, log, statistics, updates on a stream.

``python benchmarks/system.py [--batches N] [--keys N] [--connections N]`` starts ``pushsvc serve`` with its embedded
server, posts events, waits until all are counted, and prints for each process its CPU per event and the events per
second that one core allows. It also prints the cost of single steps in this process; the floor is msgspec's parsing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from pushsvc.event import EventReader
from pushsvc.event.columns import ColumnReader
from pushsvc.system_clock import now_ms

BATCH = 1_000
_TICK = os.sysconf("SC_CLK_TCK")
_PATH = "/v1/topics/bench"
_NDJSON = {"Content-Type": "application/x-ndjson"}


def bodies(count: int, keys: int) -> list[bytes]:
    """Return NDJSON batches."""
    random = np.random.default_rng(1)
    made = []
    for _ in range(count):
        names, values = random.integers(0, keys, BATCH).tolist(), (random.integers(0, 8_000, BATCH) / 8).tolist()
        lines = [f'{{"key":"key-{name}","value":{value}}}' for name, value in zip(names, values, strict=True)]
        made.append("\n".join(lines).encode())
    return made


def processes(root: int) -> dict[str, list[int]]:
    """Return the processes below ``root`` by role (Linux only)."""
    found: dict[str, list[int]] = {}
    pending = [root]
    while pending:
        pid = pending.pop()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        pending += map(int, children)
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        for role in ("_web", "_aggregator", "_shard", "valkey", "redis"):
            if any(role in word.rpartition("/")[2] for word in words[:6]):
                found.setdefault("server" if role in ("valkey", "redis") else role[1:], []).append(pid)
                break
    return found


def cpu(pids: list[int]) -> float:
    """Return the CPU seconds that processes have used."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(field[11]) + int(field[12]) for field in fields) / _TICK


def post(port: int, batches: list[bytes]) -> None:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    for body in batches:
        connection.request("POST", f"{_PATH}/events", body, _NDJSON)
        answer = connection.getresponse()
        text = answer.read()
        if answer.status != 202:
            raise SystemExit(f"{answer.status}: {text!r}")


def post_all(port: int, batches: list[bytes], connections: int) -> float:
    """Post over several connections; return the seconds until everything was counted."""
    started = time.monotonic()
    threads = [threading.Thread(target=post, args=(port, batches[n::connections])) for n in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    posted = time.monotonic()
    total = json.loads(get(port, _PATH))["last_offset"]
    while json.loads(get(port, f"{_PATH}/stats?field=value&key=&at_least={total}"))["offset"] < total:
        pass
    print(f"posted in {posted - started:.2f} s, counted {time.monotonic() - posted:.2f} s later")
    return time.monotonic() - started


def get(port: int, path: str) -> bytes:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path)
    return connection.getresponse().read()


def watch(port: int) -> None:
    """Subscribe to the statistics; read the stream and drop it."""
    connection = HTTPConnection("127.0.0.1", port, timeout=600)
    connection.request("GET", f"{_PATH}/stats?format=sse")
    answer = connection.getresponse()
    try:
        while answer.read1(1 << 16):
            pass
    except OSError:
        pass  # the server has ended


def parts(batches: list[bytes]) -> dict[str, float]:
    """Return the microseconds per event of single steps of web and aggregator, measured in this process."""
    some, now = batches[: min(20, len(batches))], now_ms()
    bodies, columns, decode = EventReader(), ColumnReader(), msgspec.json.Decoder().decode_lines
    stored = [bodies.read("bench", body, _NDJSON["Content-Type"], now=now).batch.data for body in some]
    columns.read(stored[0])
    return {
        "floor: msgspec parsing alone": cost(lambda body: decode(body), some),
        "web: read and judge": cost(lambda body: bodies.read("bench", body, _NDJSON["Content-Type"], now=now), some),
        "aggregator: into columns": cost(columns.read, stored),
    }


def cost(call: Callable[[Any], object], arguments: Sequence[Any]) -> float:
    """Return the least CPU microseconds per event of three rounds."""
    rounds = []
    for _ in range(3):
        started = time.process_time()
        for argument in arguments:
            call(argument)
        rounds.append(time.process_time() - started)
    return min(rounds) / len(arguments) / BATCH * 1e6


def wait_ready(port: int, server: subprocess.Popen[bytes]) -> None:
    while server.poll() is None:
        try:
            connection = HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass  # not yet
        time.sleep(0.1)
    raise SystemExit("pushsvc serve has ended")


def measure(port: int, batches: list[bytes], connections: int, server: subprocess.Popen[bytes]) -> None:
    wait_ready(port, server)
    post_all(port, batches[: max(1, len(batches) // 10)], connections)  # keys, rows and schemas exist
    threading.Thread(target=watch, args=(port,), daemon=True).start()
    time.sleep(1)
    roles = processes(server.pid)
    before = {role: cpu(pids) for role, pids in roles.items()}
    seconds = post_all(port, batches, connections)
    events = len(batches) * BATCH
    print(f"{events:,} events in {seconds:.2f} s: {events / seconds:,.0f}/s with everything on this machine\n")
    print(f"{'process':<32}{'CPU us/event':>14}{'events/s a core':>18}")
    for role, pids in sorted(roles.items()):
        spent = (cpu(pids) - before[role]) / events
        print(f"{role:<32}{spent * 1e6:>14.2f}{1 / spent:>18,.0f}")
    print(f"\n{'part, in this process':<32}{'CPU us/event':>14}")
    for name, microseconds in parts(batches).items():
        print(f"{name:<32}{microseconds:>14.2f}")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--batches", type=int, default=300)
    options.add_argument("--keys", type=int, default=1_000)
    options.add_argument("--connections", type=int, default=4)
    options.add_argument("--port", type=int, default=8765)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pushsvc", "serve", "--port", str(chosen.port), "--data-dir", folder]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            measure(chosen.port, bodies(chosen.batches, chosen.keys), chosen.connections, server)
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
