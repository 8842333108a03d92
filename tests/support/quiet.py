"""Thousands of topics of one partition, followed by two workers, against an account kept beside them.

Publishes, creates and deletes topics, opens and cuts streams, resumes them at either worker, and cuts the connections
on which the workers receive, in random order. It needs gevent's sockets, so it runs in a
process of its own.
"""

import json
import os
import random
import resource
import socket
import sys
from collections import defaultdict
from contextlib import suppress
from itertools import count, islice

import gevent

from pushsvc.broker.broker import Broker
from pushsvc.broker.cluster.cluster_live import ClusterLiveConnection
from pushsvc.errors import BrokerUnavailable
from pushsvc.event import Event
from pushsvc.hub.hub import Hub
from pushsvc.hub.limits import FeedLimits
from pushsvc.hub.query import Query
from pushsvc.hub.streams import QueryStream
from pushsvc.settings import TopicSettings
from pushsvc.sse import Decoder
from pushsvc.topic import partition_of
from support.chunked import ChunkDecoder
from support.waiting import turn_until

PARTITION = 7
CLIENTS = 200
LARGE = 40_000  # bytes of an event that a notification does not carry


def topics_of_one_partition(number):
    names = (f"user.{n}" for n in count())
    return list(islice((name for name in names if partition_of(name) == PARTITION), number))


class Worker:
    """What a web process has: a broker of its own, and a hub."""

    def __init__(self, url, prefix, number):
        self.broker = Broker(url, prefix)
        # The bounds are small enough to be reached.
        self.hub = Hub(self.broker, feed_limits=FeedLimits(read_anyway=1.0, notified_bytes=60_000, read_logs=number))
        self.hub.start()

    def cut(self):
        """Shut down the sockets on which notifications come; both ends notice."""
        live = self.hub.feed.live
        for connection in live._connections.values() if isinstance(live, ClusterLiveConnection) else [live]:
            with suppress(AttributeError, OSError):  # it is connecting
                connection._connection._sock.shutdown(socket.SHUT_RDWR)


class Client:
    """A subscriber that checks what it receives: numbers of events grow, and none is missing."""

    def __init__(self, query, account):
        self.query = query
        self.account = account
        self.since = 0
        self.received = []
        self.resets = set()
        self.cursor = None
        self.socket = None

    def open(self, worker):
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        if self.cursor is None:
            self.since = len(self.account)
        stream = QueryStream(worker.hub, self.query, self.cursor)
        turn_until(lambda: self._is_open(stream))
        ours.setblocking(False)
        stream.take_over(ours, lambda: None, chunked=True)
        self.socket, self._decoder, self._chunks = theirs, Decoder(), ChunkDecoder()

    @staticmethod
    def _is_open(stream):
        with suppress(BrokerUnavailable):  # the worker was just cut off: a client would try again
            stream.open()
            return True
        return False

    def receive(self):
        with suppress(BlockingIOError):
            while data := self.socket.recv(1_000_000):
                for message in self._decoder.feed(self._chunks.feed(data)):
                    self._take(message)
        return self

    def _take(self, message):
        content = json.loads(message.data)
        if message.id:
            self.cursor = message.id
        if message.event == "reset":
            self.resets.add((content["topic"], content["reason"]))
        elif "n" in content:
            self.received.append(content["n"])

    def close(self):
        self.receive()
        self.socket.close()
        self.socket = None
        if self.cursor is None:  # it knows no position, so it begins anew
            assert not self.received
            self.received = []

    @property
    def missing(self):
        """Return the events that were not received though their topic was not deleted afterwards."""
        got = set(self.received)
        first = min([*self.received[:1], self.since])  # what was published just before may be sent too
        return [n for n in self.account.published(self.query, first) if n not in got and self.account.is_left(n)]

    def check(self):
        assert self.received == sorted(set(self.received)), f"{self.query.events}: order or repetition"
        assert not self.missing, f"{self.query.events}: {self.missing} of {self.since}: {self.received}"
        reasons = {reason for _, reason in self.resets}
        assert reasons <= {"deleted"}, self.resets
        assert {topic for topic, _ in self.resets} <= self.account.deleted.keys()


class Account:
    """What was published and deleted, in order. An event's number is its place."""

    def __init__(self):
        self._topics = []
        self._numbers = defaultdict(list)
        self.deleted = {}

    def __len__(self):
        return len(self._topics)

    def published(self, query, first):
        """Return the events from a number on that a query covers."""
        if query.has_patterns:
            return range(first, len(self))
        return sorted(n for topic in query.events for n in self._numbers[topic] if n >= first)

    def add(self, topic):
        self._numbers[topic].append(len(self))
        self._topics.append(topic)
        return len(self) - 1

    def delete(self, topic):
        self.deleted[topic] = len(self._topics)

    def is_left(self, n):
        return n >= self.deleted.get(self._topics[n], 0)


class Scenario:
    def __init__(self, url, prefix, seed, topics, steps):
        self.random = random.Random(seed)
        self.account = Account()
        self.topics = topics_of_one_partition(topics)
        self.steps = steps
        self.publisher = Broker(url, prefix)
        self.publisher.check_layout()
        self.publisher.open_partitions()
        self.workers = [Worker(url, prefix, number) for number in (200, 7)]
        for worker in self.workers:
            assert worker.hub.wait_up(60)
        self.clients = []

    def publish(self, topic=None):
        topic = topic or self.random.choice(self.topics)
        pad = "x" * (LARGE if self.random.random() < 0.02 else 0)
        events = [
            Event(data={"n": self.account.add(topic), "pad": pad}) for _ in range(self.random.choice((1, 1, 1, 1, 3)))
        ]
        self.publisher.publish(topic, events, TopicSettings())

    def burst(self):
        for topic in self.random.choices(self.topics, k=30):
            self.publish(topic)

    def delete(self):
        topic = self.random.choice(self.topics)
        self.publisher.delete(topic)
        self.account.delete(topic)

    def open(self):
        """Open streams at the same time."""
        number = self.random.choice((1, 3, 40)) if len(self.clients) < CLIENTS else 0
        opened = [Client(self._query(), self.account) for _ in range(number)]
        self._open(opened)
        self.clients += opened

    def _query(self):
        kind = self.random.random()
        if kind < 0.03:
            return Query(events=("user.*",), topics=100_000)
        return Query(
            events=tuple(
                self.random.sample(self.topics, 1 if kind < 0.7 else self.random.randint(2, min(20, len(self.topics))))
            )
        )

    def _open(self, clients):
        greenlets = [gevent.spawn(client.open, self.random.choice(self.workers)) for client in clients]
        gevent.joinall(greenlets, raise_error=True)

    def resume(self):
        """Cut streams, and let them come back at either worker after something else happened."""
        cut = self.random.sample(self.clients, min(len(self.clients), self.random.choice((1, 5, 30))))
        for client in cut:
            client.close()
        for _ in range(self.random.randrange(4)):
            self.random.choice((self.publish, self.publish, self.delete))()
        self._open(cut)

    def cut(self):
        """Cut a worker off, and go on publishing until it is connected again."""
        worker = self.random.choice(self.workers)
        worker.cut()
        for _ in range(self.random.randrange(10)):
            self.publish()
        turn_until(lambda: worker.hub.wait_up(0.01))

    def idle(self):
        gevent.sleep(self.random.choice((0, 0, 0.001, 0.01)))

    def run(self):
        self.open()
        kinds = [self.publish, self.burst, self.delete, self.open, self.resume, self.cut, self.idle]
        for step in range(self.steps):
            self.random.choices(kinds, (60, 4, 3, 8, 8, 1, 20))[0]()
            if step % 20 == 0:
                for client in self.clients:
                    client.receive()
        try:
            turn_until(lambda: not sum(len(client.receive().missing) for client in self.clients))
        finally:
            for client in self.clients:
                client.check()


def main(url, prefix, seed, topics, steps):
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    scenario = Scenario(url, prefix, int(seed), int(topics), int(steps))
    scenario.run()
    sys.stdout.write(f"good: {sum(len(client.received) for client in scenario.clients)} events\n")
    sys.stdout.flush()
    os._exit(0)
