"""The sweeper of an aggregator over a cluster with a primary down."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pushsvc.broker.broker import Broker
from pushsvc.broker.keys import TAGS, Log, slot_of
from pushsvc.errors import Unavailable
from pushsvc.event import Event
from pushsvc.settings import TopicRules, TopicSettings
from pushsvc.topic import partition_of
from pushsvc.worker.retention import Sweeper
from support.fleet import Fleet, client, kill
from support.metrics import metric
from support.reference.logs import Windowless
from support.waiting import until


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path)
    try:
        fleet.form_cluster(replicas=0)
        for server in fleet.servers:
            client(server.port).config_set("cluster-require-full-coverage", "no")
        yield fleet
    finally:
        fleet.close()


def test_retention_continues_on_other_primaries_while_one_is_away(fleet: Fleet) -> None:
    broker = Broker(fleet.cluster_url)
    by_primary = {fleet.primary_of(slot_of(TAGS[partition_of(topic)])).port: topic for topic in map(str, range(40))}
    topics = sorted(by_primary.values(), key=partition_of)
    assert len(topics) == 3
    fences = broker.lease([partition_of(topic) for topic in topics], "me", 3_600_000)
    for topic in topics:
        for _ in range(3):
            broker.publish(topic, [Event(data={"n": 1})], TopicSettings())

    def swept(settings: TopicSettings) -> None:
        Sweeper(broker, TopicRules([("*", settings)]), lambda: fences).round()

    swept(TopicSettings())
    before = metric("pushsvc_log_bytes")
    kill(next(server for server in fleet.servers if by_primary[server.port] == topics[0]))
    with pytest.raises(Unavailable):
        swept(Windowless(retention=1))
    assert [metadata["first"] for metadata in broker.metadata([Log(topic) for topic in topics[1:]])] == ["3", "3"]
    assert metric("pushsvc_log_bytes") == before, "the size of the unread logs is unknown"
    broker.close()


def test_topics_without_streams_end_on_every_primary(fleet: Fleet) -> None:
    """A cluster counts the subscribers of a sharded channel where its slot is."""
    broker = Broker(fleet.cluster_url)
    by_primary = {fleet.primary_of(slot_of(TAGS[partition_of(topic)])).port: topic for topic in map(str, range(40))}
    followed = {
        topic: next(name for n in range(10_000) if partition_of(name := f"f{n}") == partition_of(topic))
        for topic in by_primary.values()
    }
    fences = broker.lease([partition_of(topic) for topic in followed], "me", 3_600_000)
    for topic in [*followed, *followed.values()]:
        broker.publish(topic, [Event(data={"n": 1})], TopicSettings())
    live = broker.live_connection(lambda *_: True, lambda _: None)
    live.start()
    assert all(live.subscribe(broker.keys.log_channel(Log(name))).wait(30) for name in followed.values())
    sweeper = Sweeper(broker, TopicRules([], TopicSettings(expire_after=1)), lambda: fences)
    until(lambda: sweeper.round() or set(broker.topics()) == set(followed.values()))
    live.close()
    for topic in followed:
        assert broker.publish(topic, [Event(data={"n": 1})], TopicSettings()).first_offset == 2
        assert broker.delete(topic)
        assert topic in broker.changed(partition_of(topic), 0).sequences
    broker.close()
