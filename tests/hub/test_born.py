"""Statistics of a topic that is born while others of its partition are read."""

import gevent
import pytest

from pushsvc.broker.broker import StatisticsWrite
from pushsvc.broker.keys import Log
from pushsvc.broker.log import FrameKind
from pushsvc.event import Event
from pushsvc.hub.hub import Hub
from pushsvc.hub.query import Query
from pushsvc.settings import TopicSettings
from support.owner import lease

OLD, NEW = Log("near.0", "1m"), Log("near.54", "1m")


@pytest.fixture
def hub(broker):
    broker.check_layout()
    broker.open_partitions()
    hub = Hub(broker)
    yield hub
    hub.close()


def write(broker, fence, of, kind, key):
    frame = f'{{"columns":["key","field","count"],"data":[["{key}",null,1]],"gone":[]}}'.encode()
    [answer] = broker.append_statistics([StatisticsWrite(of, FrameKind(kind), 1, frame)], fence)
    assert answer


def test_nothing_later_of_the_others_is_said_before_it_is_read(hub, broker):
    """Who was cut behind such an update came back with its place, and was told what changed since: of the topic that
    was born before it, and of which nothing had been said yet, that was nothing."""
    assert OLD.partition == NEW.partition
    fence = lease(broker, OLD.partition)
    broker.publish(OLD.topic, [Event(data={"n": 1})], TopicSettings())
    write(broker, fence, OLD, "s", "a")
    group, said = hub.group(Query(statistics=("near.*",))), []
    hub._directory._unlisted.clear()
    group.extend([OLD.topic])
    assert group.settled.wait(10)
    group.say = lambda messages: said.extend(
        (message, NEW in group.logs and not group.tail(NEW).fresh) for message in messages
    )
    broker.publish(NEW.topic, [Event(data={"n": 1})], TopicSettings())
    write(broker, fence, NEW, "s", "b")
    write(broker, fence, OLD, "u", "c")
    with gevent.Timeout(10):
        while len(said) < 2:
            hub.follower(OLD.partition).wake()
            gevent.sleep(0.01)
    assert [read for message, read in said if b'"c"' in message] == [True]
