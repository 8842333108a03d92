"""The system of a run: web, aggregator and component processes, their Redis, and a proxy in front of each."""

from __future__ import annotations

import os
import random
import re
import signal
import sys
from contextlib import suppress
from pathlib import Path

from chaos.servers import Servers
from support.proxy import Proxy
from support.stack import Stack
from support.waiting import until

WEB, AGGREGATOR, COMPONENTS = NAMES = "web", "aggregator", "worker"
WORKERS = AGGREGATORS = 2
WINDOWS = {"10s": 10_000, "1m": 60_000, "5m": 300_000}
"""Lengths in ms."""

BOARD = "chaos.b"
TOPICS = ("chaos.a", "chaos.b", "chaos.c.d", "order")
"""The topic BOARD keeps the newest event of each key."""

LOUD, LOUDNESS, BUSY = "loud", 45, "busy"
"""Alerts on the first topic: on each event of such a rating, and on each key with many events."""

COUNTED_TOPICS, COUNTED = ("chaos.c.d", "order"), "counted"
"""A component emits an event to COUNTED for each event of these topics."""

_APP = f"""
from pushsvc import on


@on(*{COUNTED_TOPICS}, group="count", start="beginning", retries=100, backoff=0.05)
def count(event, ctx):
    ctx.state["n"] = ctx.state.get("n", 0) + 1
    ctx.emit("{COUNTED}", {{"mark": event["mark"], "source": event.topic, "of": event.key or "", "n": ctx.state["n"]}})
"""

SUPPORTED = sys.platform.startswith("linux")
"""Processes are found in /proc, and prlimit simulates a full disk."""

_ARGUMENTS = {
    WEB: ["--workers", str(WORKERS), "--drain", "1", "--wait"],
    AGGREGATOR: ["--aggregators", str(AGGREGATORS), "--drain", "1", "--wait"],
    COMPONENTS: ["--app", "chaos_app", "--processes", "2", "--drain", "1", "--wait"],
}
_TRACEBACK = re.compile(r".*\nTraceback .*(?:\n .*)*\n.*")
_MARK = "CHAOS_SITE"  # in the environment of all our processes: children do not inherit the variables of the program


class Site:
    """The running system and its faults. ``tend`` restarts processes that ended.

    Only one thread may use it, and must outlive it, as with its servers.
    """

    def __init__(self, folder: Path, chance: random.Random, *, replicated: bool = False, heartbeat: int = 1) -> None:
        self.prefix = f"chaos-{os.getpid()}-{chance.randrange(1 << 30)}:"
        self._chance = chance
        self._heartbeat = str(heartbeat)
        self.servers = Servers(folder, chance, replicated=replicated)
        self.to_redis = self.servers.proxy
        self.stack = Stack(self.to_redis.url, self.prefix, folder)
        self.stack.environment[_MARK] = self.prefix
        (folder / "chaos_app.py").write_text(_APP)
        windows = f"windows = {list(WINDOWS)}\n"
        self.stack.configure(
            f'[[alerts]]\nname = "{LOUD}"\ntopic = "{TOPICS[0]}"\nwhen = "event.rating >= {LOUDNESS}"\n'
            f'[[alerts]]\nname = "{BUSY}"\ntopic = "{TOPICS[0]}"\nwhen = "count(10s) > 20"\nby = "key"\n'
            f'[topics.order]\nparts = 2\n{windows}[topics."{BOARD}"]\nlatest = true\n{windows}'
            f'[topics.">"]\n{windows}[topics."quiet.>"]\nwindows = []\n[topics.{COUNTED}]\nwindows = []\n'
        )
        self.to_web = Proxy(("127.0.0.1", self.stack.port))
        self.started = dict.fromkeys(NAMES, 0)
        for name in NAMES:
            self._start(name)
        until(self.stack.ready)

    def close(self) -> None:
        """Stop all processes in order; fail if one is left."""
        for name in NAMES:
            self.stack.stop(name)
        until(lambda: not self.processes())
        self.to_web.close()
        self.servers.stop()

    def destroy(self) -> None:
        """Kill all remaining processes."""
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.to_web.close()
        self.servers.stop()

    def tend(self) -> None:
        """Restart ended processes, as the system's service manager would."""
        for name in NAMES:
            if self.stack.ended(name):
                self._start(name)
        self.servers.tend()

    def _start(self, name: str) -> None:
        more = ["--port", str(self.stack.port), "--ack", self.servers.ack, "--heartbeat", self._heartbeat]
        more = more if name == WEB else []
        self.stack.start(name, name, *more, *_ARGUMENTS[name])
        self.started[name] += 1

    # Processes

    def processes(self, role: str = "") -> list[int]:
        """Return the processes of a role, such as ``_web`` or ``_shard``, or of all roles, orphans included."""
        found = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                with suppress(OSError):  # it ended, or belongs to another user
                    ours = f"{_MARK}={self.prefix}\0".encode() in (folder / "environ").read_bytes()
                    if ours and (not role or role.encode() in (folder / "cmdline").read_bytes().split(b"\0")):
                        found.append(int(folder.name))
        return sorted(found)

    def errors(self) -> list[str]:
        """Return the tracebacks in the logs of the processes, each with its process and the line before it."""
        return [f"{name}: {found}" for name in NAMES for found in _TRACEBACK.findall(self.stack.output(name))]

    def last_lines(self) -> list[str]:
        """Return the end of the log of each supervisor and its children."""
        return [f"{name}: {line}" for name in NAMES for line in self.stack.output(name).splitlines()[-10:]]

    def descriptors(self) -> dict[int, int]:
        """Return the number of open descriptors by process."""
        found = {}
        for pid in self.processes():
            with suppress(OSError):
                found[pid] = len(os.listdir(f"/proc/{pid}/fd"))
        return found

    def signal_one(self, role: str, number: signal.Signals) -> int | None:
        """Signal a random process of a role; return its id, None if there is none."""
        running = self.processes(role)
        if not running:
            return None
        pid = self._chance.choice(running)
        return pid if send(pid, number) else None

    def kill_supervisor(self, name: str) -> None:
        self.stack.stop(name, signal.SIGKILL)
        self._start(name)


def send(pid: int, number: signal.Signals) -> bool:
    """Signal a process; return whether it exists."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True
