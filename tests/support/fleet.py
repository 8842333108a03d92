"""Many real servers for tests: a primary with its replica and Sentinels, and a cluster, from the embedded binary."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import redis

from pushsvc.broker import launch
from pushsvc.broker.embedded import EmbeddedServer, find_binary
from support.ports import free_port
from support.waiting import until

QUICK = {"appendfsync": "no", "repl-diskless-sync-delay": "0", "repl-ping-replica-period": "1"}
DOWN_AFTER = 800
"""Milliseconds without a reply after which a primary counts as dead."""


def client(port: int | None, timeout: float = 10, **options: Any) -> Any:
    return redis.Redis("127.0.0.1", port or 0, decode_responses=True, socket_timeout=timeout, **options)


def kill(server: EmbeddedServer) -> None:
    """End a server at once."""
    os.kill(server.pid or 0, signal.SIGKILL)
    until(lambda: not server.alive())


class Fleet:
    """Servers, each with its own folder. ``close`` ends them all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.servers: list[EmbeddedServer] = []
        self.sentinels: list[int] = []
        self._sentinel_processes: list[subprocess.Popen[bytes]] = []

    def close(self) -> None:
        for process in self._sentinel_processes:
            process.kill()
            process.wait()
        for server in self.servers:
            if server.alive():
                os.kill(server.pid or 0, signal.SIGCONT)
                server.stop(2.0)

    def start(self, **options: str) -> EmbeddedServer:
        named = {name.replace("_", "-"): value for name, value in options.items()}
        server = EmbeddedServer(self.folder / f"server-{len(self.servers)}", port=free_port(), options=QUICK | named)
        server.start()
        self.servers.append(server)
        return server

    def replicate(self, replica: EmbeddedServer, primary: EmbeddedServer) -> None:
        client(replica.port).execute_command("REPLICAOF", "127.0.0.1", primary.port)
        self.wait_synchronized(replica)

    @staticmethod
    def wait_synchronized(replica: EmbeddedServer) -> None:
        until(lambda: client(replica.port).info("replication").get("master_link_status") == "up")

    @staticmethod
    def wait_for_all(replica: EmbeddedServer, primary: EmbeddedServer) -> None:
        """Return when a replica has all that its primary has now. WAIT covers only writes of its own connection."""
        wanted = int(client(primary.port).info("replication")["master_repl_offset"])
        until(lambda: client(replica.port).info("replication").get("slave_repl_offset", -1) >= wanted)

    # Sentinel

    def start_sentinels(self, primary: EmbeddedServer, *, replicas: int, count: int = 3) -> None:
        ports = [free_port() for _ in range(count)]
        for port in ports:
            path = self.folder / f"sentinel-{port}.conf"
            path.write_text(
                f"port {port}\nbind 127.0.0.1\ndir {self.folder}\n"
                f"sentinel monitor mymaster 127.0.0.1 {primary.port} {count // 2 + 1}\n"
                f"sentinel down-after-milliseconds mymaster {DOWN_AFTER}\n"
                f"sentinel failover-timeout mymaster 3000\n"
            )
            command = [sys.executable, "-I", "-S", launch.__file__, str(os.getpid()), "-1", "-1"]
            with (self.folder / f"sentinel-{port}.log").open("wb") as log:
                self._sentinel_processes.append(
                    subprocess.Popen(
                        [*command, str(find_binary()), str(path), "--sentinel"],
                        stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                    )
                )  # fmt: skip
        self.sentinels = ports
        for port in ports:
            until(lambda: self._knows_all(port, count - 1, replicas))  # noqa: B023

    @staticmethod
    def _knows_all(port: int, others: int, replicas: int) -> bool:
        try:
            master = client(port).sentinel_master("mymaster")
        except redis.RedisError:
            return False
        return bool(master["num-other-sentinels"] == others and master["num-slaves"] == replicas)

    @property
    def sentinel_url(self) -> str:
        return f"redis+sentinel://{','.join(f'127.0.0.1:{port}' for port in self.sentinels)}/mymaster"

    # Cluster

    def form_cluster(self, masters: int = 3, replicas: int = 1) -> None:
        """Start masters with ``replicas`` replicas each; slots are shared evenly."""
        options = {
            "cluster_enabled": "yes", "cluster_node_timeout": str(DOWN_AFTER), "cluster_replica_validity_factor": "0",
        }  # fmt: skip
        buses = [free_port() for _ in range(masters * (1 + replicas))]
        for bus in buses:
            self.start(cluster_port=str(bus), **options)
        first = client(self.servers[0].port)
        for number, server in enumerate(self.servers[:masters]):
            begin, end = (16_384 * n // masters for n in (number, number + 1))
            client(server.port).execute_command("CLUSTER", "ADDSLOTSRANGE", begin, end - 1)
        for number, server in enumerate(self.servers):
            client(server.port).execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            if number:
                first.execute_command("CLUSTER", "MEET", "127.0.0.1", server.port, buses[number])
        for server in self.servers:
            until(lambda: self._nodes(server) == len(self.servers))  # noqa: B023
        for number, replica in enumerate(self.servers[masters:]):
            of = client(self.servers[number % masters].port).execute_command("CLUSTER", "MYID")
            client(replica.port).execute_command("CLUSTER", "REPLICATE", of)
        for replica in self.servers[masters:]:
            self.wait_synchronized(replica)
        for server in self.servers:
            until(lambda: self._fine(server))  # noqa: B023

    @staticmethod
    def _nodes(server: EmbeddedServer) -> int:
        return int(client(server.port).execute_command("CLUSTER INFO")["cluster_known_nodes"])

    def _fine(self, server: EmbeddedServer) -> bool:
        info = client(server.port).execute_command("CLUSTER INFO")
        slots = client(server.port).execute_command("CLUSTER SLOTS")
        return bool(info["cluster_state"] == "ok" and sum(len(range_) for range_ in slots) == len(self.servers) + 2 * 3)

    @property
    def cluster_url(self) -> str:
        return f"redis+cluster://{','.join(f'127.0.0.1:{server.port}' for server in self.servers[:2])}"

    def primary_of(self, slot: int) -> EmbeddedServer:
        """Return the primary of a slot, with a replica or without."""
        return self._servers_of(slot)[0]

    def of_slot(self, slot: int) -> tuple[EmbeddedServer, EmbeddedServer]:
        """Return the primary of a slot and its replica, as soon as there is one: a former primary joins again later."""
        primary, replica = until(lambda: (servers := self._servers_of(slot))[1:] and servers)[:2]
        return primary, replica

    def _servers_of(self, slot: int) -> list[EmbeddedServer]:
        alive = next(server for server in self.servers if server.alive())
        for first, last, *places in client(alive.port).execute_command("CLUSTER SLOTS"):
            if first <= slot <= last:
                return [next(server for server in self.servers if server.port == place[1]) for place in places]
        raise AssertionError(f"no primary has slot {slot}")
