"""Raw messages of Redis PUBLISH: those without room are dropped and counted."""

from __future__ import annotations

from collections.abc import Callable

import gevent
import pytest

from pushsvc.broker.broker import Broker
from pushsvc.broker.embedded import EmbeddedServer
from pushsvc.settings import TopicRules
from pushsvc.topic import partition_of
from pushsvc.worker.ingest import Ingest
from support.metrics import metric
from support.stack import Stack, client_of
from support.waiting import turn_until, until


def test_a_message_for_a_topic_too_many_is_dropped_and_counted(redis_url: str, prefix: str) -> None:
    broker = Broker(redis_url, prefix, topics=1)
    number = partition_of("first")
    second = next(name for n in range(10_000) if partition_of(name := f"second-{n}") == number)
    fence = broker.lease([number], "me", 60_000)[number]
    names = ("pushsvc_ingest_topics_refused_total", "pushsvc_ingest_events_total", "pushsvc_ingest_dropped_total")
    before = [metric(name) for name in names]
    ingest = Ingest(broker, TopicRules(), lambda partition: fence)
    for topic in ("first", second, "first"):
        ingest.offer(topic, b'{"n":1}')
    greenlet = gevent.spawn(ingest.run)
    with gevent.Timeout(10):
        while ingest.waiting:
            gevent.sleep(0)
    greenlet.kill()
    after = [metric(name) for name in names]
    assert [now - then for now, then in zip(after, before, strict=True)] == [1, 2, 0]
    assert list(broker.topics()) == ["first"]
    broker.close()


def test_an_event_too_large_for_a_topic_with_newest_events_is_refused(broker: Broker) -> None:
    number = partition_of("job.1")
    fence = broker.lease([number], "me", 60_000)[number]
    rules, before = TopicRules(), metric("pushsvc_ingest_refused_total")
    ingest = Ingest(broker, rules, lambda partition: fence)
    for size in (1, 70_000, 2):
        ingest.offer("job.1", b'{"key":"a","text":"%b"}' % (b"x" * size))
    greenlet = gevent.spawn(ingest.run)
    with gevent.Timeout(10):
        while ingest.waiting:
            gevent.sleep(0)
    greenlet.kill()
    assert metric("pushsvc_ingest_refused_total") == before + 1
    found = broker.latest.read("job.1", rules.settings_of("job.1"))
    assert [(event.offset, len(event.line)) for event in found.events.values()] == [(2, 23)]


def test_a_message_is_refused_and_not_dropped_while_redis_is_away(
    start_redis: Callable[..., EmbeddedServer],
) -> None:
    redis = start_redis()
    broker = Broker(redis.url)
    redis.stop()
    names = ("pushsvc_ingest_refused_total", "pushsvc_ingest_dropped_total")
    before = [metric(name) for name in names]
    ingest = Ingest(broker, TopicRules(), lambda partition: 1)
    for _ in range(2):
        ingest.offer("t", b"no event")
    greenlet = gevent.spawn(ingest.run)
    turn_until(lambda: metric(names[0]) == before[0] + 2)  # the first one is done with
    greenlet.kill()
    assert metric(names[1]) == before[1]
    broker.close()


def test_messages_without_data_fill_the_backlog_too(broker: Broker) -> None:
    ingest = Ingest(broker, TopicRules(), lambda partition: 1, backlog_bytes=100_000)  # not started
    before = metric("pushsvc_ingest_dropped_total")
    for _ in range(1_000):
        ingest.offer("t", b"")
    assert ingest.waiting <= 500
    dropped = metric("pushsvc_ingest_dropped_total") - before
    assert dropped == 1_000 - ingest.waiting


def test_messages_have_the_limits_of_requests(own_server_limits: Stack) -> None:
    stack = own_server_limits
    assert stack.post("t", [{"n": 1}, {"n": 2}]).status == 413
    with client_of(stack.redis_url) as producer:

        def is_stored() -> bool:
            """Publish until an aggregator owns the partition; the id stores the event once."""
            producer.publish(f"{stack.prefix}ingest:t", '{"id": "a", "n": 1}')
            return bool(stack.get("/v1/topics/t").json()["last_offset"])

        until(is_stored)
        producer.publish(f"{stack.prefix}ingest:t", '[{"n": 2}, {"n": 3}]')
        until(lambda: "more than 1 events" in (stack.get("/v1/topics/t").json()["last_refusal"] or ""))
        producer.publish(f"{stack.prefix}ingest:t", '{"n": 4}')
        until(lambda: (figures := stack.get("/v1/topics/t").json())["last_offset"] and figures["last_offset"] >= 2)
    events = stack.get("/v1/topics/t/events?format=json").json()["events"]
    assert [event["n"] for event in events] == [1, 4]


@pytest.fixture
def own_server_limits(stack: Stack) -> Stack:
    stack.configure("[limits]\nbatch = 1\n")
    stack.start_aggregator()
    stack.start_web()
    return stack
