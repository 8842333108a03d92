"""What streams may cost a hub: topics that do not exist, and rankings that are not read."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator

import pytest

from hostile.attacks import unknown_topics
from pushsvc.broker.broker import Broker
from pushsvc.cursor import Position
from pushsvc.errors import BrokerUnavailable
from pushsvc.hub.feed.tail import Tail
from pushsvc.hub.groups import group as groups
from pushsvc.hub.groups.group import Group, ResumeReason
from pushsvc.hub.hub import Hub
from pushsvc.hub.limits import FeedLimits
from pushsvc.hub.query import Query
from support.peer import Peer
from support.stack import Stack
from support.waiting import DEADLINE, turn_until

TOPICS = tuple(f"unknown.{number}" for number in range(600))


@pytest.fixture
def hub(broker: Broker) -> Iterator[Hub]:
    """A hub that is not started, so it receives no notifications."""
    broker.check_layout()
    broker.open_partitions()
    made = Hub(broker, feed_limits=FeedLimits(wait=0.1, read_anyway=0.1, current_wait=0.1))
    yield made
    made.close()
    while Peer.opened:
        Peer.opened.pop().close()


def opened(hub: Hub, query: Query) -> Group:
    """Return a group that follows all its topics and knows them."""
    group = hub.group(query)
    hub.feed.live.up.set()
    with pytest.raises(BrokerUnavailable):  # nothing confirms the subscriptions
        group.wait_settled()
    assert group.settled.wait(DEADLINE)
    return group


@pytest.fixture
def visits(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often a group looked at one of its logs."""
    seen: Counter[str] = Counter()
    look = Group.tail

    def tail(group: Group, of: groups.Log) -> Tail:
        seen["tail"] += 1
        return look(group, of)

    monkeypatch.setattr(Group, "tail", tail)
    return seen


@pytest.mark.parametrize("kind", ["events", "statistics"])
def test_a_read_looks_only_at_the_logs_that_were_read(hub: Hub, visits: Counter[str], kind: str) -> None:
    """Each of 64 partitions is read more than once, and each read looked at all logs of the group."""
    group = opened(hub, Query(**{kind: TOPICS}))
    assert len(group.logs) == len(TOPICS)
    assert visits["tail"] <= 4 * len(TOPICS)


def test_topics_are_followed_in_pieces(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = []
    follow = Group.extend

    def extend(group: Group, topics: list[str], *, from_start: bool = False) -> None:
        pieces.append(len(topics))
        follow(group, topics, from_start=from_start)

    monkeypatch.setattr(Group, "extend", extend)
    opened(hub, Query(events=TOPICS))
    assert sum(pieces) == len(TOPICS)
    assert max(pieces) <= 50


def test_a_group_may_end_while_a_stream_of_it_is_looked_up(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The clients leave while their positions are looked up, and each left a traceback in the log."""
    group = opened(hub, Query(events=TOPICS[:100]))
    ended = []
    read = Broker.reads

    def reads(broker: Broker, requests: object) -> object:
        if not ended:
            ended.append(True)
            hub._end(group, "the test ends it")
        return read(broker, requests)  # type: ignore[arg-type]

    monkeypatch.setattr(Broker, "reads", reads)
    peer = Peer(group.channel, hub=hub)
    ahead = {p: Position(follower.position.epoch, 1_000_000) for p, follower in group.followers.items()}
    with caplog.at_level(logging.ERROR):
        hub.replays.begin(group, peer.connection, ahead, ResumeReason.CURSOR)
        turn_until(lambda: bool(ended) and hub.replays.idle)
    assert not caplog.records


def test_a_group_that_has_ended_ignores_what_is_still_handed_out(hub: Hub) -> None:
    group = opened(hub, Query(events=TOPICS[:10]))
    logs = list(group.logs)
    group.close()
    group.settled.clear()
    group.on_read(logs)
    group.reset(logs[0], "deleted")
    assert not group.settled.is_set()
    with pytest.raises(BrokerUnavailable):
        group.tail(logs[0])


def test_streams_of_unknown_topics(shared_server: Stack) -> None:
    assert unknown_topics.attack(shared_server.url, streams=10, pause=1.0) == {"200": 10}
