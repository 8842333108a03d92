"""Events are sent while the statistics beside them are still being read. Cut there, a client gets no event twice."""

import json
from functools import partial
from itertools import count

import gevent
import pytest

from pushsvc.broker.broker import StatisticsWrite
from pushsvc.broker.keys import Log
from pushsvc.broker.log import FrameKind
from pushsvc.cursor import decode
from pushsvc.event import Event
from pushsvc.hub.query import Query
from pushsvc.settings import TopicSettings
from pushsvc.sse import Decoder
from pushsvc.topic import partition_of
from support.hubs import captured, count_as_listed
from support.owner import lease
from support.waiting import turn_until

FIRST = "near.1"
BESIDE, ELSEWHERE = (
    next(name for n in count(2) if (partition_of(name := f"near.{n}") == partition_of(FIRST)) is same)
    for same in (True, False)
)
EVENTS = 5
BOTH = Query(events=("near.*",), statistics=("near.*",))


def publish(broker, topic, number):
    broker.publish(topic, [Event(data={"n": n}) for n in range(number)], TopicSettings())


def fill(broker, topic):
    """Store events, and then more statistics than one read returns."""
    publish(broker, topic, EVENTS)
    fence = lease(broker, partition_of(topic))
    for number in range(8):
        columns, row = ["key", "field", "count"], ["k" * 800_000, None, number]
        frame = json.dumps({"topic": topic, "columns": columns, "data": [row], "gone": []}).encode()
        kind = FrameKind.UPDATE if number else FrameKind.SNAPSHOT
        [answer] = broker.append_statistics([StatisticsWrite(Log(topic, "1m"), kind, EVENTS, frame)], fence)
        assert answer


def offsets(messages, topic):
    return [data["$offset"] for message in messages if (data := json.loads(message.data)).get("$topic") == topic]


def is_complete(client, topic, events, *, has_rows):
    """Return whether a client has received so many events, and all rows, unless it ``has_rows`` before."""
    client.receive()
    tables = [json.loads(one.data) for one in client.messages if one.event == "snapshot"]
    has_rows |= any(table["topic"] == topic and table["data"][0][2] == 7 for table in tables)
    return has_rows and len(offsets(client.messages, topic)) >= events


@pytest.mark.parametrize("topic", [BESIDE, ELSEWHERE], ids=["beside a topic", "in a partition of its own"])
def test_a_client_that_is_cut_between_events_and_statistics_gets_no_event_twice(hub, broker, subscribe, topic):
    publish(broker, FIRST, 1)
    fill(broker, topic)
    ahead = hub.group(Query(events=(topic,)))  # its follower is at the end when the statistics join
    turn_until(ahead.settled.is_set)
    group = hub.group(BOTH)
    count_as_listed(hub)
    group.extend([FIRST])
    turn_until(group.settled.is_set)
    messages = captured(group)
    group.extend([topic], from_start=True)
    while not group.settled.is_set():
        publish(broker, topic, 1)
        group.followers[partition_of(topic)].wake()
        gevent.sleep(0)
    publish(broker, topic, 1)
    last = int(broker.metadata([Log(topic)])[0]["last"])
    turn_until(lambda: last in offsets(Decoder().feed(b"".join(messages)), topic))
    has_rows = False
    for message in Decoder().feed(b"".join(messages)):
        data = json.loads(message.data)
        has_rows |= message.event == "snapshot" and data["topic"] == topic
        if data.get("$topic") == topic:
            client = subscribe(group, decode(message.id))
            lacks = range(data["$offset"] + 1, last + 1)
            turn_until(partial(is_complete, client, topic, len(lacks), has_rows=has_rows))
            assert offsets(client.messages, topic) == [*lacks]
    assert has_rows
