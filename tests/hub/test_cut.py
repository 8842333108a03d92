"""A stream is cut between any two messages: from the last id that it got it is told all that it lacks."""

import gevent
import pytest

from pushsvc.broker.broker import StatisticsWrite
from pushsvc.broker.keys import Log
from pushsvc.broker.log import FrameKind
from pushsvc.event import Event
from pushsvc.hub.hub import Hub
from pushsvc.hub.query import Query
from pushsvc.settings import TopicSettings
from pushsvc.sse import Decoder
from support.owner import lease

OLD, NEW = "near.0", "near.54"  # of one partition


@pytest.fixture
def hub(broker):
    hub = Hub(broker)
    yield hub
    hub.close()


class Statistics:
    """Frames of topics of one partition, written by their owner."""

    def __init__(self, broker):
        self._broker = broker
        self._fence = lease(broker, Log(OLD).partition)

    def write(self, topic, kind, key):
        frame = f'{{"columns":["key","field","count"],"data":[["{key}",null,1]],"gone":[]}}'.encode()
        [answer] = self._broker.append_statistics(
            [StatisticsWrite(Log(topic, "1m"), FrameKind(kind), 1, frame)], self._fence
        )
        assert answer


def test_a_topic_is_born_while_those_beside_it_are_read(hub, broker):
    broker.check_layout()
    broker.open_partitions()
    assert Log(OLD).partition == Log(NEW).partition
    statistics = Statistics(broker)
    broker.publish(OLD, [Event(data={"n": 1})], TopicSettings())
    statistics.write(OLD, "s", "a")
    group, said = hub.group(Query(statistics=("near.*",))), []
    hub._directory._unlisted.clear()
    group.extend([OLD])
    assert group.settled.wait(10)
    group.say = said.extend
    broker.publish(NEW, [Event(data={"n": 1})], TopicSettings())
    statistics.write(NEW, "s", "b")
    statistics.write(OLD, "u", "c")
    follower = hub.follower(Log(OLD).partition)
    with gevent.Timeout(10):
        while not any(b'"b"' in message for message in said):
            follower.wake()
            gevent.sleep(0.01)
    assert group.settled.wait(10)
    decoder = Decoder()
    for message in said:
        list(decoder.feed(message))
        if b'"b"' in message:
            break
        assert decoder.last_id
        assert b'"b"' in group.resumed(decoder.last_id), "who was cut here is told of the new topic"
