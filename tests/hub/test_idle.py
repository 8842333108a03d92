"""The work of every second: it looks at what needs it, however many groups there are."""

import gc
import socket
import weakref

import pytest

from pushsvc.hub.delivery.connection import Connection
from pushsvc.hub.hub import LINGER
from pushsvc.hub.query import Query


@pytest.fixture
def enter(hub):
    """Make connections of groups."""
    peers = []

    def enter(group):
        ours, theirs = socket.socketpair()
        peers.append(theirs)
        ours.setblocking(False)
        connection = Connection(ours.detach(), group.channel, lambda: None)
        hub.enter(group.channel, connection)
        return connection

    yield enter
    for peer in peers:
        peer.close()


def test_group_ends_some_time_after_its_last_stream(hub, enter):
    kept, left, never = (hub.group(Query(events=(f"near.{number}",))) for number in range(3))
    enter(kept)
    connections = [enter(left) for _ in range(2)]
    for tick in range(3 * LINGER):
        if tick == 5:
            for connection in connections:
                connection.close()
        hub.tick()
        assert not kept.closed
        assert never.closed is (hub.clock.tick > LINGER)
        assert left.closed is (hub.clock.tick > 5 + LINGER)
    assert hub.feed.followed == len(kept.logs)


def test_group_that_is_asked_for_again_is_kept(hub):
    queries = [Query(events=(f"near.{number}",)) for number in range(2)]
    asked, other = map(hub.group, queries)
    for _ in range(LINGER + 1):
        hub.tick()
        assert hub.group(queries[0]) is asked
    assert other.closed
    assert not asked.closed


def test_group_that_ended_is_freed_without_the_garbage_collector(hub, enter):
    """It may have lived long, so that the collector leaves it out for an hour."""
    group = hub.group(Query(events=("near.0",), statistics=("near.1",)))
    enter(group).close()
    freed = weakref.ref(group.channel), weakref.ref(group.conflation)
    gc.collect()
    gc.disable()
    try:
        del group
        for _ in range(2 * LINGER):  # closed connections leave the wheel of heartbeats by its next turn
            hub.tick()
        assert [one() for one in freed] == [None, None]
    finally:
        gc.enable()


def test_slow_streams_are_looked_at_alone(hub, enter):
    groups = [hub.group(Query(events=(f"near.{number}",))) for number in range(3)]
    connections = [enter(group) for group in groups]
    groups[1].channel.add_slow(connections[1])
    assert list(hub.watched.slow) == [groups[1].channel]
    hub.tick()
    groups[1].channel.discard_slow(connections[1])
    assert not hub.watched.slow
