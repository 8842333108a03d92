"""A cluster without any reachable node."""

from contextlib import closing

from pushsvc.broker.cluster.address import Address
from pushsvc.broker.cluster.cluster import Cluster
from pushsvc.broker.cluster.cluster_live import ClusterLiveConnection
from support.ports import free_port
from support.proxy import Proxy
from support.waiting import turn_until


def test_an_unreachable_cluster_is_logged_once_and_checked_again(caplog):
    node = Proxy(("127.0.0.1", free_port()))  # it closes every connection
    cluster = Cluster(Address.parse(f"redis+cluster://127.0.0.1:{node.port}"), size=1)
    with closing(node), closing(ClusterLiveConnection(cluster, lambda *_: None, lambda _: None)) as live:
        live.start()
        turn_until(lambda: node.accepted > 3)
        assert not live.dead
    assert caplog.text.count("no node of the cluster answers") == 1
