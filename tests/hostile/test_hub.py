"""What streams may cost a hub: topics that do not exist, and rankings that are not read."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest

from hostile.attacks import rankings, unknown_topics
from pushsvc.broker.broker import Broker, StatisticsWrite
from pushsvc.broker.keys import Log
from pushsvc.broker.log import FrameKind
from pushsvc.cursor import Position
from pushsvc.errors import BrokerUnavailable
from pushsvc.event import Event
from pushsvc.hub.feed.tail import Tail
from pushsvc.hub.groups import group as groups
from pushsvc.hub.groups.group import Group, ResumeReason
from pushsvc.hub.hub import Hub
from pushsvc.hub.limits import FeedLimits
from pushsvc.hub.query import Query
from pushsvc.hub.window_state import Selection, WindowState
from pushsvc.settings import TopicSettings
from pushsvc.web.memory.budget import MemoryBudget
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
            hub.end(group, "the test ends it")
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


KEYS, FIELDS = 300, 10
WINDOW = Log("ranked", "1m")
COLUMNS = ["key", "field", "count"]
Write = Callable[[FrameKind, list[list[Any]]], None]


@pytest.fixture
def write(hub: Hub, broker: Broker) -> Write:
    """Write a frame of a window, as an aggregator does."""
    broker.publish(WINDOW.topic, [Event(data={})], TopicSettings())
    fence = broker.lease([WINDOW.partition], "me", 60_000)[WINDOW.partition]

    def append(kind: FrameKind, rows: list[list[Any]]) -> None:
        frame = {"topic": WINDOW.topic, "window": WINDOW.window, "offset": 1, "columns": COLUMNS, "data": rows}
        broker.append_statistics([StatisticsWrite(WINDOW, kind, 1, orjson.dumps(frame))], fence)

    return append


@pytest.fixture
def window(write: Write) -> Write:
    rows = [[f"k{key}", f"f{field}", key + 1] for key in range(KEYS) for field in range(FIELDS)]
    write(FrameKind.SNAPSHOT, rows)
    return write


def ranked(hub: Hub, top: int) -> Group:
    """Return a group with a ranking that is known."""
    group = opened(hub, Query(statistics=(WINDOW.topic,), windows=("1m",), selection=Selection(top=top)))
    group.prepare()
    return group


def state_of(group: Group) -> WindowState:
    state = group.tail(WINDOW).window_state
    assert state is not None
    return state


def change(group: Group, write: Write, row: list[Any]) -> None:
    """Write an update; return once the window has it and the groups had their turns."""
    before = state_of(group).sequence
    write(FrameKind.UPDATE, [row])
    group.followers[WINDOW.partition].wake()
    turn_until(lambda: state_of(group).sequence > before and not group.conflation.has_pending)


def test_one_ranking_serves_all_its_prefixes(hub: Hub, window: Write) -> None:
    """Each of 30 groups ranked and encoded all rows of the window for each update."""
    groups = [ranked(hub, KEYS - number) for number in range(30)]
    peers = [reading(hub, group) for group in groups]
    ranking = hub.rankings.of(state_of(groups[0]), Selection(top=1))
    assert ranking.ranked == KEYS
    assert ranking.encoded <= KEYS * FIELDS
    change(groups[0], window, ["k7", "f0", 1_000])
    turn_until(lambda: not any(group.conflation.has_pending for group in groups))
    assert ranking.ranked == KEYS + 1
    assert ranking.encoded <= 2 * KEYS * FIELDS
    for peer in peers:
        turn_until(lambda: b'["k7","f0",1000]' in peer.read())  # noqa: B023


def reading(hub: Hub, group: Group, buffer: int | None = None) -> Peer:
    """Return a peer that began a stream of a group, and reads nothing by itself."""
    peer = Peer(group.channel, buffer, hub)
    group.channel.start(peer.connection, group.channel.seal(), group.conflation.initial_state())
    return peer


def test_nothing_is_made_for_streams_that_are_not_read(hub: Hub, window: Write) -> None:
    groups = [ranked(hub, KEYS - number) for number in range(5)]
    peers = [reading(hub, group, 4_096) for group in groups]
    assert all(peer.connection.rest is not None for peer in peers)
    ranking = hub.rankings.of(state_of(groups[0]), Selection(top=1))
    held, encoded = [group.channel.recount() for group in groups], ranking.encoded
    for number in range(20):
        change(groups[0], window, [f"k{number}", "f0", 1_000 + number])
    turn_until(lambda: not any(group.conflation.has_pending for group in groups))
    assert ranking.encoded == encoded
    assert [group.channel.recount() for group in groups] == held
    for peer in peers:  # a stream that is read again gets the newest state
        turn_until(lambda: b'["k19","f0",1019]' in peer.read())  # noqa: B023


def test_what_slow_streams_keep_is_bounded(hub: Hub, window: Write) -> None:
    memory = MemoryBudget(200_000, 200_000)
    hub.count_in(memory)
    peers = [reading(hub, ranked(hub, KEYS - number), 4_096) for number in range(10)]
    turn_until(lambda: memory.held <= 200_000 and sum(peer.closed for peer in peers) >= 5)
    assert any(not peer.closed for peer in peers)


def test_streams_of_unknown_topics(shared_server: Stack) -> None:
    assert unknown_topics.attack(shared_server.url, streams=10, pause=1.0) == {"200": 10}


def test_unread_rankings(shared_server: Stack) -> None:
    assert rankings.attack(shared_server.url, keys=300, fields=10, streams=5, events=3) == {"200": 5}
