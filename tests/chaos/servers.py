"""The Redis of a run, alone or with a replica that takes over, behind one address."""

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
    """A primary, and its replica if ``replicated``; ``proxy`` leads to the primary.

    Only one thread may use it, and must outlive it: the kernel ends a server with the thread that started it.
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
            until(self.synchronized)
        self.proxy = Proxy(_socket_of(self.primary))

    @property
    def ack(self) -> str:
        """Return the ack level by which an event survives the death of the primary."""
        return "fsync" if self.replica is None else "replicas:1"

    def stop(self) -> None:
        self.proxy.close()
        for server in self._all():
            server.stop()

    def tend(self) -> None:
        """Restart a primary that ended without a fault."""
        if not self.primary.alive() and not self._down:
            self.recover()

    def kill(self) -> bool:
        """Kill the primary unless its replica is not synchronized; return whether it was killed."""
        if self.primary.pid is None or not self.synchronized():
            return False
        self._down = True
        with suppress(ProcessLookupError):
            os.kill(self.primary.pid, signal.SIGKILL)
        until(lambda: not self.primary.alive())
        return True

    def recover(self) -> None:
        """Restart the primary with its append-only file. If there is a replica, promote it and restart the former
        primary as its replica.

        The new replica starts empty: it copies everything, and a full disk may have truncated its file.
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

    def synchronized(self) -> bool:
        """Return whether the replica, if there is one, is connected to the primary and synchronized."""
        if self.replica is None:
            return True
        with suppress(redis.RedisError), _client(self.replica) as client:
            return bool(client.info("replication").get("master_link_status") == "up")
        return False

    def fill_disk(self) -> None:
        """Limit the primary's files to a few more bytes, so that a write may fail in its middle."""
        files = [file.stat().st_size for file in (self.primary.data_dir / "appendonlydir").glob("*.incr.aof")]
        self._limit_files(max(files, default=0) + self._chance.randrange(4_000))

    def empty_disk(self) -> None:
        self._limit_files(resource.RLIM_INFINITY)

    def _limit_files(self, size: int) -> None:
        if self.primary.pid is not None and self.primary.alive():
            resource.prlimit(self.primary.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def _start(self, server: EmbeddedServer) -> None:
        """Start a server that syncs its append-only file at each write or once a second.

        A server with a replica syncs once a second: otherwise it ends when it cannot write, synchronized or not.
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
