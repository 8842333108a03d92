"""The newest events of a topic within a hub: its groups share one state, which ends with the last of them."""

import pytest

from pushsvc.broker.limits import BrokerLimits
from pushsvc.errors import TooManyLogsFollowed
from pushsvc.event import Event
from pushsvc.hub.hub import Hub
from pushsvc.hub.query import LatestQuery
from pushsvc.settings import JOB_SETTINGS
from support.hubs import captured
from support.waiting import turn_until

TOPIC = "job.1"


@pytest.fixture
def started(broker):
    broker.check_layout()
    broker.open_partitions()
    hub = Hub(broker)
    hub.feed.live.start()
    assert hub.feed.live.up.wait(BrokerLimits().timeout)
    yield hub
    hub.close()


def open_group(hub, keys=None):
    group = hub.latest(LatestQuery(TOPIC, None if keys is None else frozenset(keys)))
    group.topic.wait_settled(10)
    return group


def test_groups_share_a_topic_which_ends_with_the_last_of_them(started):
    everything, one, nothing = (open_group(started, keys) for keys in (None, ["a"], []))
    topic = everything.topic
    assert one.topic is nothing.topic is topic
    started.end(everything, "done")
    started.end(one, "done")
    assert not topic.closed
    assert nothing.beginning(None).count(b"event: snapshot") == 1
    started.end(nothing, "done")
    assert topic.closed
    assert started.feed.followed == 0
    assert open_group(started).topic is not topic


def test_each_group_gets_the_keys_that_it_wants(started, broker):
    groups = [open_group(started, keys) for keys in (None, ["a", "c"], [])]
    found = [captured(group) for group in groups]
    broker.publish(TOPIC, [Event(key=key) for key in "ab"], JOB_SETTINGS)
    turn_until(lambda: found[0])
    broker.publish(TOPIC, [Event(key="b", type="delete"), Event()], JOB_SETTINGS)
    turn_until(lambda: len(found[0]) == 2)
    broker.publish(TOPIC, [Event(key="c"), Event(key="a", type="delete")], JOB_SETTINGS)
    turn_until(lambda: len(found[0]) == 3)
    assert [len(messages) for messages in found] == [3, 2, 0]
    assert b'"gone":["a"]' in found[1][1]


def test_a_topic_without_room_to_be_followed_says_so(broker):
    hub = Hub(broker, followed=0)
    group = hub.latest(LatestQuery(TOPIC))
    with pytest.raises(TooManyLogsFollowed):
        group.topic.wait_settled(1)
    hub.end(group, "done")
    assert hub.feed.followed == 0
    hub.close()


def test_entries_that_arrive_while_the_state_is_read_are_not_lost(started, broker, monkeypatch):
    read = broker.latest.read
    published = []

    def read_and_publish(*args, **options):
        found = read(*args, **options)
        while len(published) < 3:  # between the read and what is made of it
            published.append(broker.publish(TOPIC, [Event(key=f"k{len(published)}")], JOB_SETTINGS))
        return found

    monkeypatch.setattr(broker.latest, "read", read_and_publish)
    group = open_group(started)
    turn_until(lambda: group.beginning(None).count(b"$offset") == 3)
