"""Demand for the frames of windows in a real Redis."""

import pytest

from pushsvc.broker.broker import Broker, StatisticsWrite
from pushsvc.broker.keys import Log
from pushsvc.broker.limits import BrokerLimits
from pushsvc.broker.log import FrameKind
from pushsvc.errors import Fenced
from pushsvc.event import Event
from pushsvc.settings import TopicSettings
from support.owner import lease
from support.stack import client_of
from support.waiting import until

WINDOW = Log("sales", "1m")


@pytest.fixture
def fence(broker):
    broker.check_layout()
    return lease(broker, WINDOW.partition)


@pytest.fixture
def asked(broker, redis_url):
    """Return a function that returns the logs for which the aggregator was asked since the last call."""
    subscription = client_of(redis_url).pubsub()
    channel = broker.keys.partition_channel(WINDOW.partition)
    if broker.publish_command == "SPUBLISH":
        subscription.ssubscribe(channel)
    else:
        subscription.subscribe(channel)
    until(lambda: subscription.get_message(timeout=0.1))

    def found():
        broker.connections.command(broker.publish_command, channel, "end")
        names = []
        while (message := subscription.get_message(timeout=5)) is not None and message["data"] != b"end":
            names.append(message["data"].decode())
        return [name for name in names if "$" in name]

    yield found
    subscription.close()


def publish(broker):
    broker.publish(WINDOW.topic, [Event(data={"n": 1})], TopicSettings())


def write(broker, fence):
    (answer,) = broker.append_statistics([StatisticsWrite(WINDOW, FrameKind.SNAPSHOT, 1, b"{}")], fence)
    return answer


def ask(broker, **options):
    (answer,) = broker.demand.ask([WINDOW], **options)
    return answer.current, answer.pending


def test_frames_are_current_from_the_first_one_that_follows_the_demand(broker, fence, asked):
    publish(broker)
    write(broker, fence)
    assert ask(broker) == (False, True)
    assert ask(broker) == (False, True)
    assert asked() == [WINDOW.name]
    assert ask(broker, remind=True) == (False, True)
    assert asked() == [WINDOW.name]
    write(broker, fence)
    assert ask(broker) == (True, False)
    assert ask(broker, remind=True) == (True, False)
    assert asked() == []
    assert broker.demand.read(WINDOW.partition) == [WINDOW.name]


def test_a_demand_ends_unless_somebody_asks_again(broker, fence, redis_url, prefix, asked):
    publish(broker)
    brief = Broker(redis_url, prefix, limits=BrokerLimits(wanted_for=1))
    ask(brief)
    write(broker, fence)
    until(lambda: broker.demand.end(WINDOW.partition, fence, [WINDOW.name]) == {WINDOW.name: 0})
    assert broker.demand.read(WINDOW.partition) == []
    assert ask(broker) == (False, True)
    assert asked() == [WINDOW.name, WINDOW.name]
    left = broker.demand.end(WINDOW.partition, fence, [WINDOW.name, "other.$stats.1m"])
    assert 0 < left.pop(WINDOW.name) <= broker.demand.lifetime
    assert left == {"other.$stats.1m": 0}
    brief.close()


def test_a_demand_that_is_over_begins_anew(broker, fence, redis_url, prefix):
    publish(broker)
    brief = Broker(redis_url, prefix, limits=BrokerLimits(wanted_for=1))
    ask(brief)
    write(broker, fence)
    key = broker.keys.wanted(WINDOW.partition)
    until(lambda: broker.time(WINDOW.partition) > int(broker.connections.command("HGET", key, WINDOW.name).split()[0]))
    assert ask(broker) == (False, True)
    brief.close()


def test_only_the_owner_ends_a_demand(broker, fence):
    publish(broker)
    ask(broker)
    lease(broker, WINDOW.partition)
    with pytest.raises(Fenced):
        broker.demand.end(WINDOW.partition, fence, [WINDOW.name])
    assert broker.demand.read(WINDOW.partition) == [WINDOW.name]


def test_a_topic_without_events_is_wanted_only_by_those_that_wait_for_it(broker, fence, asked):
    assert ask(broker) == (True, False)
    assert broker.demand.read(WINDOW.partition) == []
    assert ask(broker, unborn=True) == (True, False)
    assert broker.demand.read(WINDOW.partition) == asked() == [WINDOW.name]
    publish(broker)
    assert ask(broker) == (False, True)


def test_demand_for_a_deleted_topic_waits_for_the_first_frame_of_the_next_one(broker, fence):
    publish(broker)
    ask(broker)
    write(broker, fence)
    broker.delete(WINDOW.topic)
    assert ask(broker) == (True, False)
    publish(broker)
    assert ask(broker) == (False, True)
    write(broker, fence)
    assert ask(broker) == (True, False)


def test_many_windows_are_asked_for_in_one_round_trip(broker):
    broker.check_layout()
    logs = [Log(f"user.{number}", "1m") for number in range(2_000)]
    answers = broker.demand.ask(logs, unborn=True)
    assert {answer.log for answer in answers} == set(logs)
    assert {(answer.current, answer.pending) for answer in answers} == {(True, False)}


def test_a_frame_is_expected_of_an_owner_or_if_there_is_none(broker, fence):
    publish(broker)
    broker.connections.command("DEL", broker.keys.lease(WINDOW.partition))
    assert ask(broker) == (False, True)
    write(broker, fence)
    assert ask(broker) == (True, False)
    broker.connections.command("HDEL", broker.keys.wanted(WINDOW.partition), WINDOW.name)
    assert ask(broker) == (False, False)


def test_demand_that_no_aggregator_ends_takes_bounded_room(broker, redis_url, prefix):
    """Without an aggregator nobody ends a demand. Streams of ever new topics go on."""
    broker.check_layout()
    brief = Broker(redis_url, prefix, limits=BrokerLimits(wanted_for=1))
    names = [name for n in range(40_000) if Log(name := f"user.{n}").partition == WINDOW.partition]
    for name in names:
        brief.demand.ask([Log(name, "1m")], unborn=True)
    # Each new demand looks at three others, so about a third of the demand may be over.
    assert len(names) > 500
    assert len(broker.demand.read(WINDOW.partition)) < 100
    brief.close()
