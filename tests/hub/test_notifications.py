"""The next entry of a log is taken from its notification, without a read; anything else leads to a read."""

import subprocess
import sys

import gevent
import pytest
import redis

from pushsvc.broker.keys import Log
from pushsvc.event import Event
from pushsvc.hub.hub import Hub
from pushsvc.hub.limits import FeedLimits
from pushsvc.hub.query import Query
from pushsvc.settings import TopicSettings
from support.hubs import captured, count_as_listed
from support.waiting import DEADLINE, turn_until

ONE, BESIDE, NEW = "near.0", "near.54", "near.172"  # of one partition
SETTINGS = TopicSettings()


class Notified:
    """A hub that gets the notifications which a test passes on, as Redis sent them."""

    def __init__(self, broker, redis_url, limits=None):
        assert len({Log(topic).partition for topic in (ONE, BESIDE, NEW)}) == 1
        broker.check_layout()
        broker.open_partitions()
        self.broker = broker
        self.hub = Hub(broker, feed_limits=limits)
        self.hub.feed.subscriptions.is_confirmed = lambda of: True
        self.reads = 0
        self.sent = []
        self._listener = redis.Redis.from_url(redis_url).pubsub()
        read = broker.read

        def counted(*arguments, **named):
            self.reads += 1
            return read(*arguments, **named)

        broker.read = counted

    def follow(self, *topics):
        group = self.hub.group(Query(events=topics))
        self.sent = captured(group)
        for topic in topics:
            self._listener.subscribe(self.broker.keys.log_channel(Log(topic)))
            assert self._listener.get_message(timeout=DEADLINE)["type"] == "subscribe"
        assert group.settled.wait(DEADLINE)
        self.follower = self.hub.feed.follower(Log(topics[0]).partition)
        turn_until(lambda: self.follower.is_live)
        self.reads = 0
        return group

    def publish(self, topic, *numbers, broker=None):
        events = [Event(data={"n": number}) for number in numbers]
        (broker or self.broker).publish(topic, events, SETTINGS)

    def next_notification(self):
        message = self._listener.get_message(timeout=DEADLINE)
        channels = {self.broker.keys.log_channel(Log(topic)): Log(topic) for topic in (ONE, BESIDE, NEW)}
        return channels[message["channel"].decode()], message["data"]

    def notify(self, count=1):
        for _ in range(count):
            self.follower.on_notification(*self.next_notification())

    def numbers(self):
        return [int(message.partition(b'"n":')[2].partition(b"}")[0]) for message in self.sent]

    def close(self):
        self._listener.close()
        self.hub.close()


@pytest.fixture
def notified(broker, redis_url, request):
    made = Notified(broker, redis_url, getattr(request, "param", None))
    yield made
    made.close()


def test_next_entries_are_sent_at_once_and_in_order(notified):
    for topic in (ONE, BESIDE):
        notified.publish(topic, 0)
    group = notified.follow(ONE, BESIDE)
    for number in range(1, 11):
        notified.publish(ONE if number % 3 else BESIDE, number)
        notified.notify()
    turn_until(lambda: len(notified.sent) == 10)
    assert notified.numbers() == [*range(1, 11)]
    assert notified.reads == 0
    assert notified.sent[-1].startswith(b"id: " + group.cursor().encode())
    notified.follower.wake()
    turn_until(lambda: notified.follower.is_live and notified.reads)
    assert len(notified.sent) == 10, "entries of notifications are not read again"


@pytest.mark.parametrize("notified", [FeedLimits(handed_out=6)], indirect=True)
def test_entries_that_bring_much_are_handed_out_over_several_turns(notified):
    notified.publish(ONE, 0)
    group = notified.follow(ONE)
    handed_out = []

    def take(messages):
        handed_out.append(len(messages))
        notified.sent.extend(messages)

    group.channel.broadcast = take
    for number in range(1, 31, 3):
        notified.publish(ONE, *range(number, number + 3))
    notified.notify(10)
    turn_until(lambda: len(notified.sent) == 30)
    assert max(handed_out) <= 6
    assert notified.numbers() == [*range(1, 31)]
    assert notified.reads == 0


@pytest.mark.parametrize("notified", [FeedLimits(handed_out=2)], indirect=True)
def test_an_entry_beyond_the_bound_of_a_turn_is_handed_out_alone(notified):
    notified.publish(ONE, 0)
    notified.follow(ONE, BESIDE)
    for topic, numbers in ((ONE, range(1, 9)), (BESIDE, [9]), (ONE, range(10, 20))):
        notified.publish(topic, *numbers)
    notified.notify(3)
    turn_until(lambda: len(notified.sent) == 19)
    assert notified.numbers() == [*range(1, 20)]


def test_lost_notification_leads_to_a_read(notified):
    notified.follow(ONE, BESIDE)
    notified.publish(ONE, 1)
    notified.next_notification()
    for topic, number in ((BESIDE, 2), (ONE, 3)):
        notified.publish(topic, number)
    notified.notify(2)
    turn_until(lambda: len(notified.sent) == 3)
    assert sorted(notified.numbers()) == [1, 2, 3]
    assert notified.reads


def test_late_notification_of_an_entry_that_was_read_is_ignored(notified):
    notified.follow(ONE)
    for number in range(3):
        notified.publish(ONE, number)
    notified.follower.wake()
    turn_until(lambda: len(notified.sent) == 3 and notified.follower.is_live)
    reads = notified.reads
    notified.notify(3)
    notified.publish(ONE, 3)
    notified.notify()
    turn_until(lambda: len(notified.sent) == 4)
    assert notified.numbers() == [0, 1, 2, 3]
    assert notified.reads == reads


def test_large_entry_is_read(notified):
    """A notification holds small entries alone; of a large one it holds a number."""
    notified.follow(ONE)
    notified.broker.publish(ONE, [Event(data={"n": 1, "pad": "x" * 40_000})], SETTINGS)
    notification = notified.next_notification()
    assert notification[1].isdigit()
    notified.follower.on_notification(*notification)
    turn_until(lambda: len(notified.sent) == 1)
    assert notified.reads


def test_topic_created_in_between_is_looked_for_first_by_those_who_want_all(notified):
    group = notified.follow(ONE)
    everything = notified.hub.group(Query(events=("near.*",)))
    count_as_listed(notified.hub)
    everything.extend([ONE])
    turn_until(lambda: everything.settled.is_set() and notified.follower.is_live)
    sent, notified.reads = captured(everything), 0
    notified.publish(NEW, 1)
    notified.publish(ONE, 2)
    notified.notify()
    turn_until(lambda: len(sent) == 2 and notified.sent)
    assert notified.reads, "a cursor after the entry would be ahead of the new topic"
    assert [b'"n":1' in message for message in sent] == [True, False]
    assert set(group.logs) == {Log(ONE)}


def test_topic_created_in_between_costs_nothing_where_it_is_not_wanted(notified):
    notified.follow(ONE)
    notified.publish(NEW, 1)
    notified.publish(ONE, 2)
    notified.notify()
    turn_until(lambda: notified.sent)
    assert not notified.reads


def test_new_epoch_is_sent_as_a_reset(notified):
    notified.publish(ONE, 0)
    notified.follow(ONE)
    keys = notified.broker.keys
    notified.broker.connections.commands([("HSET", keys.partition(Log(ONE).partition), "run", "0" * 40)])
    notified.publish(ONE, 1)
    notified.notify()
    turn_until(lambda: len(notified.sent) >= 2)
    assert notified.sent[0].startswith(b"event: reset\n")
    assert notified.reads


def test_deletion_is_sent_though_the_next_topic_continues_the_offsets(notified):
    notified.publish(ONE, 0)
    notified.follow(ONE)
    notified.broker.delete(ONE)
    notified.publish(ONE, 1)
    notified.notify(2)
    turn_until(lambda: len(notified.sent) == 2)
    assert notified.sent[0].startswith(b"event: reset\n")
    assert b'"n":1' in notified.sent[1]


def test_notifications_are_read_later_while_the_writer_has_no_room(notified):
    notified.follow(ONE)
    notified.hub.writer.room.clear()
    for number in range(3):
        notified.publish(ONE, number)
    notified.notify(3)
    gevent.sleep(0.05)
    assert not notified.sent
    assert not notified.follower.notified_bytes
    notified.hub.writer.room.set()
    turn_until(lambda: len(notified.sent) == 3)
    assert notified.numbers() == [0, 1, 2]


@pytest.mark.parametrize("notified", [FeedLimits(notified_bytes=1_000)], indirect=True, ids=["1000 bytes"])
def test_notifications_beyond_the_bound_of_a_turn_are_read(notified):
    notified.follow(ONE)
    for number in range(20):
        notified.publish(ONE, number)
    notified.notify(20)
    turn_until(lambda: len(notified.sent) == 20)
    assert notified.numbers() == [*range(20)]
    assert notified.reads
    turn_until(lambda: notified.follower.is_live)
    reads = notified.reads
    notified.publish(ONE, 20)
    notified.notify()
    turn_until(lambda: len(notified.sent) == 21)
    assert notified.reads == reads, "the next notification is taken again"


WHOLE = """
from gevent import monkey; monkey.patch_all()
import sys, gevent
from pushsvc.broker import Broker
from pushsvc.event import Event
from pushsvc.hub.hub import Hub
from pushsvc.hub.query import Query
from pushsvc.settings import TopicSettings
broker = Broker(sys.argv[1], sys.argv[2])
broker.check_layout()
broker.open_partitions()
hub, sent, reads, read = Hub(broker), [], [], broker.read
broker.read = lambda *of, **options: reads.append(of) or read(*of, **options)
hub.start()
group = hub.group(Query(events=("a",)))
group.wait_settled()
group.channel.broadcast = sent.extend
def publish(number):
    broker.publish("a", [Event(data={"n": number})], TopicSettings())
publish(-1)  # creates the topic
with gevent.Timeout(60):
    while not group.followers[next(iter(group.logs)).partition].is_live or not sent:
        gevent.sleep(0.001)
del reads[:]
for number in range(200):
    publish(number)
    if number == 100:
        hub.feed.live._connection.disconnect()
with gevent.Timeout(60):
    while len(sent) < 201:
        gevent.sleep(0.001)
numbers = [int(message.partition(b'"n":')[2].partition(b"}")[0]) for message in sent]
assert numbers == [*range(-1, 200)], numbers
assert 0 < len(reads) < 100, len(reads)
print("good")
"""


def test_most_entries_come_from_notifications_and_a_disconnect_loses_none(redis_url, prefix):
    done = subprocess.run(
        [sys.executable, "-c", WHOLE, redis_url, prefix], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "good\n", done.stderr
