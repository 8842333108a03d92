"""A replica takes over at the primary's address without Sentinels, possibly without the primary's last events."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pushsvc.broker.broker import Broker
from pushsvc.broker.embedded import EmbeddedServer
from pushsvc.broker.keys import Log
from pushsvc.errors import BrokerUnavailable
from pushsvc.event import Event
from pushsvc.settings import TopicSettings
from support.fleet import Fleet, client, kill
from support.proxy import Proxy
from support.stack import Stack
from support.waiting import until


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[EmbeddedServer, EmbeddedServer, Proxy]]:
    """A primary, its synchronized replica, and an address that leads to the primary."""
    fleet = Fleet(tmp_path)
    try:
        primary, replica = fleet.start(), fleet.start()
        fleet.replicate(replica, primary)
        proxy = Proxy(socket_of(primary))
        yield primary, replica, proxy
        proxy.close()
    finally:
        fleet.close()


def socket_of(server: EmbeddedServer) -> str:
    return str(server.data_dir / "valkey.sock")


def test_connection_to_a_demoted_primary_is_replaced(pair: tuple[EmbeddedServer, EmbeddedServer, Proxy]) -> None:
    primary, replica, address = pair
    broker = Broker(address.url)

    def publish(name: str) -> int:
        return broker.publish("t", [Event(id=name, data={"n": 1})], TopicSettings()).last_offset

    assert publish("a") == 1
    epoch = epoch_of(broker)
    Fleet.wait_for_all(replica, primary)
    take_over(replica, primary)
    address.move(socket_of(replica))
    with pytest.raises(BrokerUnavailable, match="read only replica"):
        publish("b")  # the connection still leads to the old primary
    assert publish("b") == 2
    until(lambda: epoch_of(broker) not in (0, epoch))  # the reading connections follow
    broker.close()


def epoch_of(broker: Broker) -> int:
    try:
        return broker.read(Log("t").partition, {}).epoch
    except BrokerUnavailable:
        return 0


def test_primary_that_returns_has_another_epoch(
    pair: tuple[EmbeddedServer, EmbeddedServer, Proxy], tmp_path: Path
) -> None:
    """It has its former run id, but has lost events that its replica did not have. Only a process that opened the
    partitions in between shows that."""
    primary, replica, _ = pair
    broker = Broker(primary.url)
    broker.publish("t", [Event(data={"n": 1})], TopicSettings())
    epoch = epoch_of(broker)
    Fleet.wait_for_all(replica, primary)
    take_over(replica, primary)
    with Stack(replica.url, broker.keys.prefix, tmp_path) as stack:
        stack.start_web()
    Fleet.wait_for_all(primary, replica)
    take_over(primary, replica)
    assert epoch_of(broker) != epoch
    broker.close()


def take_over(new: EmbeddedServer, old: EmbeddedServer) -> None:
    client(new.port).execute_command("REPLICAOF", "NO", "ONE")
    client(old.port).execute_command("REPLICAOF", "127.0.0.1", new.port)
    Fleet.wait_synchronized(old)


def test_promotion_of_a_lagging_replica_resets_subscribers(
    pair: tuple[EmbeddedServer, EmbeddedServer, Proxy], prefix: str, tmp_path: Path
) -> None:
    """Events that only the old primary had are lost. Subscribers that received them get a reset."""
    primary, replica, moving = pair
    with Stack(moving.url, prefix, tmp_path) as stack:
        stack.start_aggregator()
        stack.start_web()
        assert stack.post("t", [{"n": n} for n in range(1, 4)]).status == 202
        Fleet.wait_for_all(replica, primary)
        with (
            stack.stream("/v1/topics/t/events?last_event_id=earliest") as events,
            stack.stream("/v1/topics/t/stats") as stats,
        ):
            assert [events.frame()[1]["n"] for _ in range(3)] == [1, 2, 3]
            client(replica.port).execute_command("REPLICAOF", "127.0.0.1", 1)  # the replica is cut off
            assert stack.post("t", [{"n": 4}, {"n": 5}]).json()["last_offset"] == 5
            assert [events.frame()[1]["n"] for _ in range(2)] == [4, 5]
            cursor = events.decoder.last_id
            stats.until(lambda _, data: data.get("offset") == 5)

            moving.move(socket_of(replica))
            kill(primary)
            client(replica.port).execute_command("REPLICAOF", "NO", "ONE")
            posted = until(lambda: (a := stack.post("t", {"n": 6})).status == 202 and a)
            assert posted.json()["first_offset"] == 4  # offsets 4 and 5 name other events now: hence the epoch
            assert events.until(lambda event, _: event == "reset")["reason"] == "broker-restarted"
            assert [events.frame()[1]["n"] for _ in range(4)] == [1, 2, 3, 6]
            assert stats.until(lambda event, _: event == "reset")["reason"] == "broker-restarted"
            rows = stats.until(lambda _, data: data.get("offset") == 4)["data"]
            assert {tuple(row[:2]): row[2] for row in rows}[None, "n"] == 4
        with stack.stream("/v1/topics/t/events", Last_Event_ID=cursor) as events:
            assert events.frame() == ("reset", {"topic": "t", "reason": "broker-restarted"})
            assert [events.frame()[1]["n"] for _ in range(4)] == [1, 2, 3, 6]
