"""Consumers that share the reader of a log get the entries that they asked for, whichever came first."""

import pytest

from pushsvc.broker.broker import Broker
from pushsvc.event import Event
from pushsvc.hub.hub import Hub
from pushsvc.hub.limits import FeedLimits
from pushsvc.hub.query import Query
from pushsvc.settings import TopicSettings
from support.hubs import captured
from support.waiting import DEADLINE, turn_until


def two_groups(hub):
    return (hub.group(Query(events=("near.*",), named=named)) for named in (True, False))


@pytest.mark.parametrize("first", ["listed", "created"])
def test_log_may_start_at_its_end_for_one_consumer_and_at_its_start_for_another(hub, broker, first):
    broker.publish("near.1", [Event(data={"n": 1})], TopicSettings())
    listed, created = two_groups(hub)
    messages = {group: captured(group) for group in (listed, created)}
    joins = [lambda: listed.extend(["near.1"]), lambda: created.extend(["near.1"], from_start=True)]
    for join in joins if first == "listed" else reversed(joins):
        join()
    for group in messages:
        assert group.settled.wait(DEADLINE)
    broker.publish("near.1", [Event(data={"n": 2})], TopicSettings())
    hub.feed.follower(next(iter(created.followers))).wake()
    turn_until(lambda: len(messages[created]) == 2 and messages[listed])
    assert [[b'"n":1' in message for message in sent] for sent in messages.values()] == [[False], [True, False]]


def test_events_skipped_in_one_epoch_are_sent_in_the_next(hub, broker):
    """After a reset all events that are left are sent, also to a consumer that had asked for none of before."""
    broker.publish("near.1", [Event(data={"n": 1})], TopicSettings())
    listed, created = two_groups(hub)
    messages = captured(listed)
    listed.extend(["near.1"])
    created.extend(["near.1"], from_start=True)
    assert listed.settled.wait(DEADLINE)
    assert messages == []
    follower = hub.feed.follower(next(iter(listed.followers)))
    broker.connections.commands([("HSET", broker.keys.partition(follower.partition), "run", "0" * 40)])

    def is_sent():
        follower.wake()
        return any(b'"n":1' in message for message in messages)

    turn_until(is_sent)
    assert messages[0].startswith(b"event: reset\n")


def test_unreachable_redis_is_logged_once(prefix, tmp_path, caplog):
    hub = Hub(Broker(f"unix://{tmp_path}/nothing.sock", prefix), feed_limits=FeedLimits(pause=0.0))
    follower = hub.feed.follower(7)
    for _ in range(3):
        follower.step()
    assert caplog.text.count("partition 7") == 1
    hub.close()


def test_logs_of_a_follower_that_died_leave_the_count_when_it_is_replaced(hub):
    group = hub.group(Query(events=("near.1", "near.2")))
    follower = next(iter(group.followers.values()))
    counted = hub.feed.followed
    assert counted == 2
    follower.greenlet.kill()
    assert not hub.feed.healthy
    assert hub.feed.followed == counted
    hub.feed.follower(follower.partition)
    assert hub.feed.healthy
    assert hub.feed.followed == counted - len(follower.tails)
