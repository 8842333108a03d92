"""Reads of partitions that share round trips."""

import gevent
import pytest

from pushsvc.broker.broker import READ_BYTES, Broker
from pushsvc.broker.keys import Log
from pushsvc.errors import BrokerUnavailable
from pushsvc.event import Event
from pushsvc.hub.feed.reads import SharedReads
from pushsvc.settings import TopicSettings


@pytest.fixture
def sent(broker, monkeypatch):
    """The calls of each round trip."""
    broker.open_partitions()
    groups, calls = [], broker.connections.calls

    def noted(group):
        groups.append(list(group))
        return calls(group)

    monkeypatch.setattr(broker.connections, "calls", noted)
    return groups


def together(reads, requests):
    """Ask for reads in one turn of the loop; return the greenlets with their results."""
    asked = [gevent.spawn(reads.read, partition, logs) for partition, logs in requests]
    gevent.joinall(asked)
    return asked


def test_reads_of_one_turn_share_a_round_trip(broker, sent):
    logs = [Log(f"user.{number}") for number in range(20)]
    for log in logs[::2]:
        broker.publish(log.topic, [Event(data={"n": 1})], TopicSettings())
    sent.clear()
    found = together(SharedReads(broker, 200), [(log.partition, {log: 0}) for log in logs])
    assert [len(group) for group in sent] == [20]
    assert [len(one.value.logs[log].entries) for one, log in zip(found, logs, strict=True)] == [1, 0] * 10
    assert sum(call.args[1] for call in sent[0]) <= READ_BYTES


def test_round_trip_has_a_bounded_number_of_logs(broker, sent):
    piece = {Log(f"user.{number}"): 0 for number in range(60)}
    together(SharedReads(broker, 200), [(partition, piece) for partition in range(7)])
    assert sorted(len(group) for group in sent) == [1, 3, 3]
    sent.clear()
    together(SharedReads(broker, 10), [(0, piece), (1, {}), (2, {})])
    assert sorted(len(group) for group in sent) == [1, 2]


def test_epoch_begins_where_one_of_several_partitions_needs_it(broker, sent):
    before = broker.read(7, {}).epoch
    broker.connections.commands([("HSET", broker.keys.partition(7), "run", "0" * 40)])
    found = [one.value.epoch for one in together(SharedReads(broker, 200), [(6, {}), (7, {}), (8, {})])]
    assert found[0] == broker.read(6, {}).epoch
    assert found[1] == broker.read(7, {}).epoch != before


def test_each_read_of_a_failed_round_trip_gets_an_error_of_its_own(prefix, tmp_path):
    reads = SharedReads(Broker(f"unix://{tmp_path}/nothing.sock", prefix), 200)
    errors = [one.exception for one in together(reads, [(partition, {}) for partition in range(3)])]
    assert {type(error) for error in errors} == {BrokerUnavailable}
    assert len(set(map(id, errors))) == 3
