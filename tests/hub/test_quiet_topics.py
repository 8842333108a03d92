"""Thousands of topics of one partition: only what is in doubt is read, and nothing is lost, repeated or reordered."""

import subprocess
import sys
from pathlib import Path

import pytest

SCENARIO = """
from gevent import monkey; monkey.patch_all()
import sys
from support.quiet import main
main(*sys.argv[1:])
"""


@pytest.mark.parametrize(("seed", "topics", "steps"), [(1, 3_000, 250), (2, 100, 250), (3, 10, 250)])
def test_random_work_on_many_topics_is_received_once_and_in_order(redis_url, prefix, seed, topics, steps):
    done = subprocess.run(
        [sys.executable, "-c", SCENARIO, redis_url, prefix, str(seed), str(topics), str(steps)],
        cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.stdout.startswith("good"), done.stderr[-3_000:]


CUT = """
from gevent import monkey; monkey.patch_all()
import socket, sys, gevent
from pushsvc.broker.broker import Broker
from pushsvc.broker.keys import Log
from pushsvc.event import Event
from pushsvc.hub.hub import Hub
from pushsvc.settings import TopicSettings
from support.quiet import PARTITION, topics_of_one_partition
from support.waiting import turn_until

class Consumer:
    def __init__(self):
        self.sequences, self.entries = [], []
    def take(self, partition, batch, rendering):
        self.sequences += [entry.sequence for _, entry in batch]
        self.entries += [(of.topic, entry.last) for of, entry in batch]
    def on_read(self, logs): pass
    def skip(self, of, offset): pass
    def reset(self, of, reason): raise AssertionError(reason)
    def fail(self): raise AssertionError

url, prefix = sys.argv[1:]
broker, writer = Broker(url, prefix), Broker(url, prefix)
broker.check_layout()
broker.open_partitions()
hub, pieces, read = Hub(broker), [], broker.read
def counted(partition, logs, **options):
    if logs:
        pieces.append(len(logs))
    return read(partition, logs, **options)
broker.read = counted
hub.start()
hub.wait_up(60)
topics = topics_of_one_partition(10_000)
logs = [Log(topic) for topic in topics]
def publish(topic):
    writer.publish(topic, [Event(data={"n": 1})], TopicSettings())
    published[topic] = published.get(topic, 0) + 1
published, consumer = {}, Consumer()
follower = hub.feed.follower(PARTITION)
follower.add(consumer, logs)
for of in logs:
    hub.feed.subscriptions.subscribe(of)
turn_until(lambda: follower.is_live)
def cut():
    hub.feed.live._connection._sock.shutdown(socket.SHUT_RDWR)
    turn_until(lambda: not hub.feed.live.up.is_set())
for topic in topics[::50]:
    publish(topic)
del pieces[:]
cut()
for topic in topics[::500]:
    publish(topic)
turn_until(lambda: len(pieces) > 3)
assert not follower.is_live  # the other logs are in doubt
del pieces[:]
cut()
for topic in topics[::7]:
    publish(topic)
turn_until(lambda: len(pieces) > 10)
for topic in topics[::5]:
    publish(topic)
turn_until(lambda: len(consumer.entries) >= sum(published.values()) and follower.is_live)
assert consumer.sequences == sorted(set(consumer.sequences)), "order or repetition"
assert sorted(consumer.entries) == sorted((t, n + 1) for t, number in published.items() for n in range(number))
assert max(pieces) <= hub.feed.limits.read_logs, max(pieces)
del pieces[:]
publish(topics[0])
turn_until(lambda: consumer.entries[-1][0] == topics[0])
assert not pieces, pieces
sys.stdout.write("good")
"""


def test_connection_may_break_while_ten_thousand_logs_are_in_doubt(redis_url, prefix):
    done = subprocess.run(
        [sys.executable, "-c", CUT, redis_url, prefix],
        cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.stdout == "good", done.stderr[-3_000:]
