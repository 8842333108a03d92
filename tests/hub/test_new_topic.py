"""Statistics of a topic that is created while others of its partition are read."""

from pushsvc.broker.broker import StatisticsWrite
from pushsvc.broker.keys import Log
from pushsvc.broker.log import FrameKind
from pushsvc.event import Event
from pushsvc.hub.query import Query
from pushsvc.settings import TopicSettings
from support.hubs import count_as_listed
from support.owner import lease
from support.waiting import DEADLINE, turn_until

OLD, NEW = Log("near.0", "1m"), Log("near.54", "1m")


def write(broker, fence, of, kind, key):
    frame = f'{{"columns":["key","field","count"],"data":[["{key}",null,1]],"gone":[]}}'.encode()
    [answer] = broker.append_statistics([StatisticsWrite(of, FrameKind(kind), 1, frame)], fence)
    assert answer


def test_update_of_another_topic_waits_until_the_new_topic_is_read(hub, broker):
    """A topic is created before an update of another topic. A client was cut after that update and came back with its
    cursor. It got the changes since, but had never got the rows of the new topic."""
    assert OLD.partition == NEW.partition
    fence = lease(broker, OLD.partition)
    broker.publish(OLD.topic, [Event(data={"n": 1})], TopicSettings())
    write(broker, fence, OLD, "s", "a")
    group, sent = hub.group(Query(statistics=("near.*",))), []
    count_as_listed(hub)
    group.extend([OLD.topic])
    assert group.settled.wait(DEADLINE)
    group.channel.broadcast = lambda messages: sent.extend(
        (message, NEW in group.logs and not group.tail(NEW).catching_up) for message in messages
    )
    broker.publish(NEW.topic, [Event(data={"n": 1})], TopicSettings())
    write(broker, fence, NEW, "s", "b")
    write(broker, fence, OLD, "u", "c")

    def are_sent():
        hub.feed.follower(OLD.partition).wake()
        return len(sent) >= 2

    turn_until(are_sent)
    assert [read for message, read in sent if b'"c"' in message] == [True]
