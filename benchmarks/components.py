"""How many events a second components handle, on a real Valkey with a real worker and the process of its handlers.

A log is filled first. Then a worker with a new group handles all of it; the time runs from its first commit on.
``CPU`` is that of worker and handlers together, in seconds for a million events. Handlers that count in a state have
1,000 keys; those that emit publish one event for each. Figures are the best of several runs.

With ``--kafka`` the same handlers of quixstreams and faust-streaming take turns with ours, over a broker that runs at
that address, with a Python that has both libraries. Their positions are committed at least every five seconds and at
the end, quixstreams' also exactly once (transactions).

    python benchmarks/components.py [--quick] [--kafka 127.0.0.1:9092 --python peers/bin/python]
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from contextlib import suppress
from pathlib import Path

import orjson

from measure import Table, machine
from pushsvc.broker.broker import Broker
from pushsvc.broker.embedded import EmbeddedServer
from pushsvc.event import Batch
from pushsvc.settings import TopicSettings

SETTINGS = TopicSettings(windows=(), retention=10_000_000)
CONFIG = '[topics.">"]\nwindows = []\nretention = 10000000\n'
HANDLERS = {
    "no-op": "pass",
    "state": "ctx.state['n'] = ctx.state.get('n', 0) + 1",
    "emit": "ctx.emit('out', {'key': event.key, 'n': event['n']})",
    "state and emit": "n = ctx.state['n'] = ctx.state.get('n', 0) + 1; ctx.emit('out', {'key': event.key, 'n': n})",
}


def fill(broker: Broker, topics: int, count: int) -> None:
    """Publish events to several topics, in batches of 1,000."""
    for first in range(0, count, 1_000):
        lines = [
            orjson.dumps({"key": f"k{number * 7919 % 1_000}", "n": number, "note": "a comment of some length"})
            for number in range(first, first + 1_000)
        ]
        broker.publish(f"in.{first // 1_000 % topics}", Batch(b"\n".join(lines), len(lines)), SETTINGS)


def run(url: str, folder: Path, handler: str, topics: int, count: int, repeat: int) -> tuple[float, float]:
    """Return events per second, and CPU seconds per million events."""
    prefix = f"{handler}-{topics}-{repeat}:".replace(" ", "-")
    broker = Broker(url, prefix)
    fill(broker, topics, count)
    (folder / "bench_app.py").write_text(
        f"from pushsvc import on\n@on('in.*', group='bench', start='beginning')\ndef handle(event, ctx):\n"
        f"    {HANDLERS[handler]}\n"
    )
    (folder / "pushsvc.toml").write_text(CONFIG)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PUSHSVC_")}
    command = [sys.executable, "-m", "pushsvc", "worker", "--app", "bench_app", "--redis", url, "--prefix", prefix]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    worker = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    begun, at_first = 0.0, 0
    while True:
        done = sum(
            offset for one in broker.components.overview("bench", range(64)) for offset in one["positions"].values()
        )
        if done and not begun:
            begun, at_first = time.monotonic(), done
        if done >= count:
            break
        time.sleep(0.005)
    speed = (count - at_first) / (time.monotonic() - begun)
    worker.send_signal(signal.SIGTERM)
    worker.wait()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    broker.close()
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return speed, spent / count * 1e6


PEERS = {"quixstreams": 100_000, "quixstreams-exactly-once": 100_000, "faust": 20_000}
"""Events that each handles: faust takes a second for some thousand."""


def run_peer(python: str, kafka: str, folder: Path, peer: str, handler: str) -> tuple[float, float]:
    """Return as ``run``."""
    command = [python, str(Path(__file__).with_name("stream_processors.py")), peer, handler, kafka, str(PEERS[peer])]
    ran = subprocess.run([*command, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    speed, spent = json.loads(ran.stdout.splitlines()[-1])
    return speed, spent / PEERS[peer] * 1e6


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--kafka")
    parser.add_argument("--python", default=sys.executable)
    options = parser.parse_args()
    count, repeats = (40_000, 1) if options.quick else (200_000, 3)
    print(machine())
    if options.kafka:
        command = [options.python, str(Path(__file__).with_name("stream_processors.py")), "fill", "-", options.kafka]
        subprocess.run([*command, str(max(PEERS.values())), "-"], check=True)
    table = Table("Components", ["handler", "", "events/s", "CPU s per million"])
    with tempfile.TemporaryDirectory() as name, suppress(KeyboardInterrupt):
        server = EmbeddedServer(Path(name) / "valkey", options={"appendfsync": "everysec"})
        server.start()
        try:
            for handler in HANDLERS:
                found: dict[str, list[tuple[float, float]]] = {}
                for repeat in range(repeats):
                    for topics in (1, 16):
                        took = run(server.url, Path(name), handler, topics, count, repeat)
                        found.setdefault(f"topics: {topics}", []).append(took)
                    for peer in PEERS if options.kafka else ():
                        took = run_peer(options.python, options.kafka, Path(name), peer, handler)
                        found.setdefault(peer, []).append(took)
                for who, runs in found.items():
                    speed, spent = max(speed for speed, _ in runs), min(spent for _, spent in runs)
                    table.add(handler, who, f"{speed:,.0f}", f"{spent:.1f}")
        finally:
            server.stop()
    table.print()


if __name__ == "__main__":
    main()
