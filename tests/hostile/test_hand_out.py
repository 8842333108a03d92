"""What many groups of one topic cost a hub: an entry is handed to them in slices, and each of them misses nothing."""

from __future__ import annotations

from collections.abc import Iterator

import orjson
import pytest

from pushsvc.broker.broker import Broker
from pushsvc.broker.keys import Log
from pushsvc.cursor import decode
from pushsvc.event import Event
from pushsvc.event.conditions import EventFilter
from pushsvc.hub.feed.follower import Follower
from pushsvc.hub.groups.group import Group
from pushsvc.hub.hub import Hub
from pushsvc.hub.limits import FeedLimits
from pushsvc.hub.query import Query
from pushsvc.settings import TopicSettings
from pushsvc.sse import Decoder
from pushsvc.topic import partition_of
from support.hubs import captured
from support.turns import counted_turns
from support.waiting import turn_until

TOPIC, EVENTS, GROUPS = "wide", 20, 30
PARTITION = partition_of(TOPIC)


def make_hub(broker: Broker, slice_: float, notified_bytes: int = 1_000_000) -> Hub:
    broker.check_layout()
    broker.open_partitions()
    limits = FeedLimits(slice=slice_, handed_out=10, wait=0.1, read_anyway=0.1, notified_bytes=notified_bytes)
    return Hub(broker, feed_limits=limits)


@pytest.fixture
def hub(broker: Broker) -> Iterator[Hub]:
    """A hub without notifications, whose slices end after each group."""
    made = make_hub(broker, 0.0)
    yield made
    made.close()


def groups_of(hub: Hub) -> list[Group]:
    """Return groups with different queries that begin with the same topic."""
    groups = [hub.group(Query(events=(TOPIC, f"beside.{number}"))) for number in range(GROUPS)]
    hub.feed.live.up.set()
    for group in groups:
        turn_until(group.settled.is_set)
    return groups


def publish(broker: Broker) -> int:
    """Publish one entry; return its sequence."""
    broker.publish(TOPIC, [Event(data={"n": n}) for n in range(EVENTS)], TopicSettings())
    return broker.read(PARTITION, {}).sequence


def follower_of(groups: list[Group]) -> Follower:
    follower = groups[0].followers[PARTITION]
    assert isinstance(follower, Follower)
    return follower


def sequence_of(group: Group) -> int:
    return decode(group.cursor())[PARTITION].sequence


def numbers(messages: list[bytes]) -> list[int]:
    return [orjson.loads(message.data)["n"] for message in Decoder().feed(b"".join(messages))]


def test_an_entry_is_handed_to_many_groups_in_slices(hub: Hub, broker: Broker) -> None:
    """600 groups got it in one turn of the loop."""
    groups = groups_of(hub)
    sent = [captured(group) for group in groups]
    follower = follower_of(groups)
    before = follower.hand_out.slices
    publish(broker)
    publish(broker)
    follower.wake()
    with counted_turns() as turns:
        turn_until(lambda: all(len(messages) == 2 * EVENTS for messages in sent))
    assert follower.hand_out.slices - before >= GROUPS - 1
    assert turns[0] >= GROUPS - 1
    assert all(numbers(messages) == [*range(EVENTS)] * 2 for messages in sent)


def test_a_cursor_tells_what_its_group_has_while_others_wait(hub: Hub, broker: Broker) -> None:
    """Nothing is lost and nothing comes twice for a client that is cut off between two slices."""
    groups = groups_of(hub)
    sent = [captured(group) for group in groups]
    follower, first = follower_of(groups), sequence_of(groups[0])
    last = publish(broker)
    follower.wake()
    seen = set()

    def is_done() -> bool:
        for group, messages in zip(groups, sent, strict=True):
            assert len(messages) in {0, EVENTS}
            assert sequence_of(group) == (last if messages else first)
        served = sum(map(bool, sent))
        seen.add(served)
        if 0 < served < GROUPS:
            assert follower.position.sequence == first
            assert follower.offset(Log(TOPIC)) == 0
        return served == GROUPS and follower.position.sequence == last

    turn_until(is_done)
    assert any(0 < served < GROUPS for served in seen)
    assert follower.position.sequence == last


def test_a_group_that_ends_meanwhile_is_left_out(hub: Hub, broker: Broker) -> None:
    groups = groups_of(hub)
    sent = [captured(group) for group in groups]
    publish(broker)
    follower_of(groups).wake()
    turn_until(lambda: any(sent))
    waiting = [number for number, messages in enumerate(sent) if not messages]
    hub.end(groups[waiting[-1]], "the test ends it")
    turn_until(lambda: all(sent[number] for number in waiting[:-1]))
    publish(broker)
    follower_of(groups).wake()
    turn_until(lambda: all(len(sent[number]) == 2 * EVENTS for number in waiting[:-1]))
    assert not sent[waiting[-1]]


def test_a_group_that_joins_meanwhile_starts_after_the_entry(hub: Hub, broker: Broker) -> None:
    groups = groups_of(hub)
    sent = [captured(group) for group in groups]
    last = publish(broker)
    follower_of(groups).wake()
    turn_until(lambda: any(sent))
    assert not all(sent)
    new = hub.group(Query(events=(TOPIC, "beside.new")))
    messages = captured(new)
    turn_until(lambda: new.settled.is_set() and all(sent))
    assert sequence_of(new) == last
    assert messages == []
    publish(broker)
    follower_of(groups).wake()
    turn_until(lambda: len(messages) == EVENTS)


def test_a_group_that_reads_the_topic_from_its_start_meanwhile_takes_nothing_from_others(
    hub: Hub, broker: Broker
) -> None:
    """A topic came back after it had ended, and a group with a pattern, which did not know it, read all of its log.
    Groups that had not got an entry that was being handed out skipped it."""
    groups = groups_of(hub)
    sent = [captured(group) for group in groups]
    publish(broker)
    follower_of(groups).wake()
    turn_until(lambda: any(sent))
    assert not all(sent)
    created = hub.group(Query(events=("*",)))
    messages = captured(created)
    created.extend([TOPIC], from_start=True)
    turn_until(lambda: len(messages) == EVENTS)
    last, follower = publish(broker), follower_of(groups)
    follower.wake()
    turn_until(lambda: follower.position.sequence == last)
    assert [numbers(each) for each in (*sent, messages)] == [[*range(EVENTS)] * 2] * (GROUPS + 1)


def test_a_partition_that_is_ahead_stays_so_beside_another(hub: Hub, broker: Broker) -> None:
    """While two followers hand out in slices, a group is ahead in both partitions."""
    groups = groups_of(hub)
    group = next(one for one in groups if len(one.followers) > 1)
    first, second = list(group.followers)[:2]
    for partition in (first, second, first):
        at = group.followers[partition].position.sequence
        group.note_taken(partition, at + 3)
    found = decode(group.cursor())
    for partition in (first, second):
        assert found[partition].sequence == group.followers[partition].position.sequence + 3


def test_filters_that_are_behind_miss_no_entry_that_is_handed_out_in_slices(broker: Broker) -> None:
    """A router drops entries that it has no room for and reads them from the log, up to where the follower is. In a
    pause of the follower the router was given an entry more. It dropped that entry, and did not read it either."""
    hub = make_hub(broker, 0.0, notified_bytes=3_000)
    filtered = hub.group(Query(events=(TOPIC,), filter=EventFilter.of(None, None, ("n>=0",))))
    groups = [filtered, *groups_of(hub)]  # the router gets each entry first
    sent = [captured(group) for group in groups]
    follower, router = follower_of(groups[1:]), filtered.followers[PARTITION]
    turn_until(filtered.settled.is_set)
    entries = 0
    for _ in range(40):
        for _ in range(3):
            last, entries = publish(broker), entries + 1
        follower.wake()
        turn_until(lambda: len(sent[1]) == entries * EVENTS)  # noqa: B023 - the others still wait
    follower.wake()
    turn_until(lambda: router.position.sequence == follower.position.sequence == last)
    for messages in sent:
        assert numbers(messages) == [*range(EVENTS)] * entries
    hub.close()
