"""Who shares the reader of a log hears of it what it asked for, whoever came first."""

import gevent
import pytest

from pushsvc.event import Event
from pushsvc.hub.hub import Hub
from pushsvc.hub.query import Query
from pushsvc.settings import TopicSettings


@pytest.fixture
def hub(broker):
    hub = Hub(broker)
    yield hub
    hub.close()


@pytest.mark.parametrize("first", ["the one that was listed", "the one that was born"])
def test_a_log_may_begin_at_its_end_for_one_and_at_its_start_for_another(hub, broker, first):
    broker.check_layout()
    broker.open_partitions()
    broker.publish("near.1", [Event(data={"n": 1})], TopicSettings())
    listed, born = (hub.group(Query(events=("near.*",), named=named)) for named in (True, False))
    said = {listed: [], born: []}
    for group, messages in said.items():
        group.say = messages.extend
    joins = [lambda: listed.extend(["near.1"]), lambda: born.extend(["near.1"], born=True)]
    for join in joins if first == "the one that was listed" else reversed(joins):
        join()
    for group in said:
        assert group.settled.wait(10)
    broker.publish("near.1", [Event(data={"n": 2})], TopicSettings())
    hub.follower(next(iter(born.followers))).wake()
    with gevent.Timeout(10):
        while len(said[born]) < 2 or not said[listed]:
            gevent.sleep(0.01)
    assert [[b'"n":1' in message for message in messages] for messages in said.values()] == [[False], [True, False]]


def test_what_was_skipped_in_one_life_of_redis_is_told_in_the_next(hub, broker):
    """After a reset all that is left is told, also to who had asked for nothing of before."""
    broker.check_layout()
    broker.open_partitions()
    broker.publish("near.1", [Event(data={"n": 1})], TopicSettings())
    listed, born = (hub.group(Query(events=("near.*",), named=named)) for named in (True, False))
    said = []
    listed.say = said.extend
    listed.extend(["near.1"])
    born.extend(["near.1"], born=True)
    assert listed.settled.wait(10)
    assert said == []
    follower = hub.follower(next(iter(listed.followers)))
    broker._connections.commands([("HSET", broker.keys.partition(follower.partition), "run", "0" * 40)])
    with gevent.Timeout(10):
        while not any(b'"n":1' in message for message in said):
            follower.wake()
            gevent.sleep(0.01)
    assert said[0].startswith(b"event: reset\n")
