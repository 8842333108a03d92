"""Opens what the URL of Redis names: one server, Sentinels or a cluster. Callers treat all of them alike."""

from collections.abc import Callable

from pushsvc.broker.cluster.address import Address, ask_in_turn
from pushsvc.broker.cluster.cluster import Cluster, ClusterCommitter
from pushsvc.broker.cluster.cluster_live import ClusterLiveConnection, OnUp
from pushsvc.broker.committer import Committer
from pushsvc.broker.connection_pool import ConnectionPool
from pushsvc.broker.limits import BrokerLimits
from pushsvc.broker.live import LiveConnection, OnMessage, OnUnhandled
from pushsvc.broker.replies import Host
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
    connections: ConnectionPool | Cluster, on_message: OnMessage, on_up: OnUp, on_unhandled: OnUnhandled,
    reading_pause: Callable[[], float],
) -> LiveConnection | ClusterLiveConnection:  # fmt: skip
    if isinstance(connections, Cluster):
        return ClusterLiveConnection(
            connections, on_message, on_up, on_unhandled=on_unhandled, reading_pause=reading_pause
        )
    return LiveConnection(
        connections,
        on_message,
        lambda: on_up(range(PARTITIONS)),
        on_unhandled=on_unhandled,
        reading_pause=reading_pause,
    )


class Sentinels:
    """The Sentinels of one master, asked before each connect. The Sentinel that answered last is asked first."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._hosts = list(address.hosts)

    def primary(self) -> Host:
        """Return the primary's address. Raise BrokerUnavailable, or StartupError if the URL names no Sentinel."""
        host, found = ask_in_turn(
            {host: self._address.sentinel(host) for host in self._hosts},
            ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._address.master),
            failure="no Sentinel names the primary",
            wrong_kind="is not a Sentinel: use redis://host:port for a single server",
            no_answer=f"knows no master {self._address.master!r}",
        )
        # One assignment: threads may ask at the same time.
        self._hosts = [host, *(other for other in self._hosts if other != host)]
        return found[0].decode(), int(found[1])
