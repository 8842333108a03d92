import socket

import pytest

from pushsvc.hub.hub import Hub
from support.channels import Site
from support.peer import Peer
from support.resuming import Subscriber


@pytest.fixture
def hub(broker):
    """A hub over a broker with open partitions. It is not started, so it receives no notifications."""
    broker.check_layout()
    broker.open_partitions()
    made = Hub(broker)
    yield made
    made.close()
    close_peers()


@pytest.fixture
def subscribe(hub):
    """Make subscribers of a group that resume from positions."""
    sockets = []

    def subscribe(group, positions):
        ours, theirs = socket.socketpair()
        sockets.extend((ours, theirs))
        return Subscriber(hub, group, ours, theirs, positions)

    yield subscribe
    for end in sockets:
        end.close()


@pytest.fixture(params=[True, False], ids=["io_uring", "syscalls"])
def make_site(request):
    """Makes channels without a hub; over each kind of sender."""
    made = []

    def make(limits=None):
        made.append(Site(limits, io_uring=request.param))
        return made[-1]

    yield make
    for site in made:
        site.close()
    close_peers()


@pytest.fixture
def site(make_site):
    return make_site()


@pytest.fixture
def channel(site):
    return site.channel


def close_peers():
    while Peer.opened:
        Peer.opened.pop().close()
