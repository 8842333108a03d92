"""What the URL of Redis names, made ready to use: everything else works on either kind alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pushsvc.broker.cluster.address import Address
from pushsvc.broker.cluster.cluster import Cluster, ClusterCommitter
from pushsvc.broker.cluster.cluster_live import ClusterLiveConnection
from pushsvc.broker.cluster.sentinel import Sentinels
from pushsvc.broker.committer import Committer
from pushsvc.broker.connection import Connections
from pushsvc.broker.live import LiveConnection, OnMessage
from pushsvc.settings import Ack
from pushsvc.topic import PARTITIONS


def connect(url: str, *, size: int) -> Connections | Cluster:
    """Return connections, not opened yet, to what a URL names; ``size`` bounds those to one primary.

    Raise ValueError for a URL that is none.
    """
    address = Address.parse(url)
    if address.kind == "cluster":
        return Cluster(address, size=size)
    if address.kind == "sentinel":
        # Any host will do in the URL: before each connect the Sentinels are asked.
        return Connections(address.server(address.hosts[0]), size=size, primary=Sentinels(address).primary)
    return Connections(url, size=size)


def committer(connections: Connections | Cluster, ack: Ack) -> Committer | ClusterCommitter:
    return ClusterCommitter(connections, ack) if isinstance(connections, Cluster) else Committer(connections, ack)


def live(
    connections: Connections | Cluster,
    on_message: OnMessage,
    on_up: Callable[[Sequence[int]], None],
    on_unhandled: Callable[[str, bytes], None],
) -> LiveConnection | ClusterLiveConnection:
    if isinstance(connections, Cluster):
        return ClusterLiveConnection(connections, on_message, on_up, on_unhandled=on_unhandled)
    return LiveConnection(connections, on_message, lambda: on_up(range(PARTITIONS)), on_unhandled=on_unhandled)
