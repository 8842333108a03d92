"""Who waits for a group that does not know its logs keeps nobody else from his, and goes on when it does."""

import gevent
import pytest

from pushsvc.hub.hub import Hub
from pushsvc.hub.query import Query
from pushsvc.hub.resume import replay
from pushsvc.hub.resume.replay import READERS
from support.peer import Peer
from support.waiting import turn_until


@pytest.fixture
def hub(broker):
    hub = Hub(broker)
    yield hub
    hub.close()
    while Peer.opened:
        Peer.opened.pop().close()


@pytest.fixture
def away(hub):
    """A group that follows nothing and does not know it yet."""
    return hub.group(Query(visible_heartbeat=True))


def resume(hub, group):
    peer = Peer(group)
    hub.replays.begin(group, peer.connection, {})
    return peer


def test_others_are_served_while_a_group_is_not_settled(hub, away, monkeypatch):
    monkeypatch.setattr(replay, "WAIT", 3_600)
    waiting = [resume(hub, away) for _ in range(3 * READERS)]
    group = hub.group(Query())
    group.look()
    served = resume(hub, group)
    turn_until(served.read)
    assert served.got.startswith(b"id: ")
    gone = waiting.pop()
    gone.theirs.close()
    turn_until(lambda: gone.closed)
    assert not any(peer.read() for peer in waiting)
    away.look()
    turn_until(lambda: all(peer.read().startswith(b"id: ") for peer in waiting))
    assert hub.replays._parked == {}


def test_who_waits_is_told_why_and_forgotten_when_gone(hub, away, monkeypatch):
    monkeypatch.setattr(replay, "WAIT", 0.01)
    peers = [resume(hub, away) for _ in range(3)]
    turn_until(lambda: all(peer.read().count(b": Redis is not reachable\n") > 1 for peer in peers))
    hub.end(peers[0].connection, "enough")
    turn_until(lambda: peers[0].closed)
    for peer in peers[1:]:
        peer.theirs.close()
    turn_until(lambda: hub.replays._parked == {})
    gevent.sleep(0)
    assert hub.replays._readers == 0
