"""Opens what the URL of Redis names: one server, Sentinels or a cluster. Callers treat all of them alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pushsvc.broker.cluster.address import Address
from pushsvc.broker.cluster.cluster import Cluster, ClusterCommitter
from pushsvc.broker.cluster.cluster_live import ClusterLiveConnection
from pushsvc.broker.cluster.sentinel import Sentinels
from pushsvc.broker.committer import Committer
from pushsvc.broker.connection_pool import ConnectionPool
from pushsvc.broker.limits import BrokerLimits
from pushsvc.broker.live import LiveConnection, OnMessage
from pushsvc.settings import Ack
from pushsvc.topic import PARTITIONS


def connect(url: str, *, size: int, timeout: float) -> ConnectionPool | Cluster:
    """Return connections, not opened yet; ``size`` bounds those to one primary. Raise ValueError for an invalid URL."""
    address = Address.parse(url)
    if address.kind == "cluster":
        return Cluster(address, size=size, timeout=timeout)
    if address.kind == "sentinel":
        # The host in the URL does not matter: the Sentinels are asked before each connect.
        server = address.server(address.hosts[0])
        return ConnectionPool(server, size=size, timeout=timeout, primary=Sentinels(address).primary)
    return ConnectionPool(url, size=size, timeout=timeout)


def committer(connections: ConnectionPool | Cluster, ack: Ack, limits: BrokerLimits) -> Committer | ClusterCommitter:
    if isinstance(connections, Cluster):
        return ClusterCommitter(connections, ack, limits)
    return Committer(connections, ack, limits)


def live(
    connections: ConnectionPool | Cluster,
    on_message: OnMessage,
    on_up: Callable[[Sequence[int]], None],
    on_unhandled: Callable[[str, bytes], None],
) -> LiveConnection | ClusterLiveConnection:
    if isinstance(connections, Cluster):
        return ClusterLiveConnection(connections, on_message, on_up, on_unhandled=on_unhandled)
    return LiveConnection(connections, on_message, lambda: on_up(range(PARTITIONS)), on_unhandled=on_unhandled)
