"""A replay whose group does not know its logs keeps no other replay waiting, and continues once the group does."""

import pytest

from pushsvc.hub.groups.group import ResumeReason
from pushsvc.hub.hub import Hub
from pushsvc.hub.limits import ResumeLimits
from pushsvc.hub.messages import farewell
from pushsvc.hub.query import Query
from support.peer import Peer
from support.waiting import turn_until


@pytest.fixture
def make_hub(broker):
    made = []

    def make(wait):
        made.append(Hub(broker, resume_limits=ResumeLimits(wait=wait)))
        return made[-1]

    yield make
    for hub in made:
        hub.close()
    while Peer.opened:
        Peer.opened.pop().close()


def unsettled(hub):
    """Return a group that follows nothing and does not know it yet."""
    return hub.group(Query(visible_heartbeat=True))


def resume(hub, group):
    peer = Peer(group.channel, hub=hub)
    hub.replays.begin(group, peer.connection, {}, ResumeReason.CURSOR)
    return peer


def is_live(peer):
    return peer.connection.source is peer.connection.channel


def test_replays_of_other_groups_continue_while_a_group_is_not_settled(make_hub):
    hub = make_hub(wait=3_600)
    away = unsettled(hub)
    waiting = [resume(hub, away) for _ in range(3 * ResumeLimits().readers)]
    group = hub.group(Query())
    group.on_read(())
    served = resume(hub, group)
    turn_until(lambda: is_live(served))
    gone = waiting.pop()
    gone.theirs.close()
    turn_until(lambda: gone.closed)
    assert not any(is_live(peer) for peer in waiting)
    away.on_read(())
    turn_until(lambda: all(is_live(peer) for peer in waiting))
    turn_until(lambda: hub.replays.idle)


def test_waiting_client_gets_the_reason_and_is_forgotten_when_gone(make_hub):
    hub = make_hub(wait=0.01)
    away = unsettled(hub)
    peers = [resume(hub, away) for _ in range(3)]
    turn_until(lambda: all(peer.read().count(b": Redis is not reachable\n") > 1 for peer in peers))
    peers[0].connection.end(farewell("enough"))
    turn_until(lambda: peers[0].closed)
    for peer in peers[1:]:
        peer.theirs.close()
    turn_until(lambda: hub.replays.idle)
