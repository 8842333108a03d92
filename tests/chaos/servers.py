"""The Redis that is tormented, alone or with a replica that takes over, behind an address that stays."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import redis

from pushsvc.broker.embedded import EmbeddedServer
from support.ports import free_port
from support.proxy import Proxy
from support.waiting import until


class Servers:
    """A primary, and its replica where it is ``replicated``; ``proxy`` leads to the primary.

    To be used by one thread that lives as long as it: the kernel ends a server with the thread that started it.
    """

    def __init__(self, folder: Path, chance: random.Random, *, replicated: bool) -> None:
        self._chance = chance
        options = {"repl-diskless-sync-delay": "0", "repl-ping-replica-period": "1"}
        self.primary, *others = (
            EmbeddedServer(folder / name, port=free_port() if replicated else None, options=options)
            for name in (("redis", "replica") if replicated else ("redis",))
        )
        self.replica = others[0] if others else None
        self._down = False
        self._start(self.primary)
        if self.replica is not None:
            self._start(self.replica)
            self._follow()
            until(self.in_step)
        self.proxy = Proxy(_socket_of(self.primary))

    @property
    def ack(self) -> str:
        """What makes an event outlive the death of the primary."""
        return "fsync" if self.replica is None else "replicas:1"

    def stop(self) -> None:
        self.proxy.close()
        for server in self._all():
            server.stop()

    def tend(self) -> None:
        """Start what ended though nobody meant it to."""
        if not self.primary.alive() and not self._down:
            self.come_back()

    def kill(self) -> bool:
        """Kill the primary, unless its replica could not take over now; return whether it was."""
        if self.primary.pid is None or not self.in_step():
            return False
        self._down = True
        with suppress(ProcessLookupError):
            os.kill(self.primary.pid, signal.SIGKILL)
        until(lambda: not self.primary.alive())
        return True

    def come_back(self) -> None:
        """Start the primary with its append-only file; or let its replica take over, and it comes back as a replica.

        That one begins empty: it takes everything from the other, and its file may end in what a full disk left of it.
        """
        if self.replica is None:
            self._start(self.primary)
        else:
            self.primary, self.replica = self.replica, self.primary
            with _client(self.primary) as client:
                client.execute_command("REPLICAOF", "NO", "ONE")
            self.proxy.move(_socket_of(self.primary))
            shutil.rmtree(self.replica.data_dir / "appendonlydir")
            self._start(self.replica)
            self._follow()
        self._down = False

    def in_step(self) -> bool:
        """Tell whether the replica, if there is one, has what the primary has."""
        if self.replica is None:
            return True
        with suppress(redis.RedisError), _client(self.replica) as client:
            return bool(client.info("replication").get("master_link_status") == "up")
        return False

    def fill_disk(self) -> None:
        """Let no file of the primary grow by more than a few bytes, so that a write may fail in its middle."""
        files = [file.stat().st_size for file in (self.primary.data_dir / "appendonlydir").glob("*.incr.aof")]
        self._limit_files(max(files, default=0) + self._chance.randrange(4_000))

    def empty_disk(self) -> None:
        self._limit_files(resource.RLIM_INFINITY)

    def _limit_files(self, size: int) -> None:
        if self.primary.pid is not None and self.primary.alive():
            resource.prlimit(self.primary.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def _start(self, server: EmbeddedServer) -> None:
        """Start a server whose append-only file is written at once or once a second.

        One with a replica writes it once a second: it would end where it cannot write at once, in step or not.
        """
        server.start(deadline=60)
        with _client(server) as client:
            client.config_set(
                "appendfsync", "everysec" if self.replica else self._chance.choice(["always", "everysec"])
            )

    def _follow(self) -> None:
        assert self.replica is not None
        with _client(self.replica) as client:
            client.execute_command("REPLICAOF", "127.0.0.1", self.primary.port)

    def _all(self) -> list[EmbeddedServer]:
        return [self.primary, *([self.replica] if self.replica is not None else [])]


def _client(server: EmbeddedServer) -> Any:
    return redis.Redis.from_url(server.url, decode_responses=True, socket_timeout=10)


def _socket_of(server: EmbeddedServer) -> str:
    with _client(server) as client:
        return str(client.config_get("unixsocket")["unixsocket"])
