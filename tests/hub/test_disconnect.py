"""A stream may be cut between any two messages: with its last id the client gets all that it lacks."""

from pushsvc.broker.broker import StatisticsWrite
from pushsvc.broker.keys import Log
from pushsvc.broker.log import FrameKind
from pushsvc.event import Event
from pushsvc.hub.query import Query
from pushsvc.settings import TopicSettings
from pushsvc.sse import Decoder
from support.hubs import captured, count_as_listed
from support.owner import lease
from support.waiting import DEADLINE, turn_until

OLD, NEW = "near.0", "near.54"  # of one partition


class Statistics:
    """Writes frames of topics of one partition, as their aggregator does."""

    def __init__(self, broker):
        self._broker = broker
        self._fence = lease(broker, Log(OLD).partition)

    def write(self, topic, kind, key):
        frame = f'{{"columns":["key","field","count"],"data":[["{key}",null,1]],"gone":[]}}'.encode()
        [answer] = self._broker.append_statistics(
            [StatisticsWrite(Log(topic, "1m"), FrameKind(kind), 1, frame)], self._fence
        )
        assert answer


def test_client_cut_beside_a_new_topic_gets_its_rows(hub, broker):
    assert Log(OLD).partition == Log(NEW).partition
    statistics = Statistics(broker)
    broker.publish(OLD, [Event(data={"n": 1})], TopicSettings())
    statistics.write(OLD, "s", "a")
    group = hub.group(Query(statistics=("near.*",)))
    count_as_listed(hub)
    group.extend([OLD])
    assert group.settled.wait(DEADLINE)
    messages = captured(group)
    broker.publish(NEW, [Event(data={"n": 1})], TopicSettings())
    statistics.write(NEW, "s", "b")
    statistics.write(OLD, "u", "c")
    follower = hub.feed.follower(Log(OLD).partition)

    def is_sent():
        follower.wake()
        return any(b'"b"' in message for message in messages)

    turn_until(is_sent)
    assert group.settled.wait(DEADLINE)
    decoder = Decoder()
    for message in messages:
        list(decoder.feed(message))
        if b'"b"' in message:
            break
        assert decoder.last_id
        assert b'"b"' in group.changes_for(decoder.last_id), "a client that is cut here gets the new topic"
