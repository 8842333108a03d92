"""Sentinels name the primary. When it dies, publishing pauses, streams stay open and no confirmed event is lost."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from pushsvc.broker.broker import Broker
from pushsvc.broker.keys import Log
from pushsvc.errors import StartupError, Unavailable
from pushsvc.event import Event
from pushsvc.settings import TopicSettings
from pushsvc.supervisor.preflight import check_redis
from support.fleet import Fleet, client, kill
from support.producers import Producers, stored
from support.stack import Stack, Table
from support.waiting import DEADLINE, until

TOPICS = ["north", "south"]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A primary, two replicas and three Sentinels."""
    fleet = Fleet(tmp_path_factory.mktemp("sentinels"))
    try:
        primary, *replicas = (fleet.start() for _ in range(3))
        for replica in replicas:
            fleet.replicate(replica, primary)
        fleet.start_sentinels(primary, replicas=2)
        yield fleet
    finally:
        fleet.close()


def primary_port(fleet: Fleet) -> int:
    return int(client(fleet.sentinels[0]).sentinel_get_master_addr_by_name("mymaster")[1])


def test_death_of_the_primary_loses_no_confirmed_event(watched: Fleet, prefix: str, tmp_path: Path) -> None:
    assert check(watched.sentinel_url) == []
    with Stack(watched.sentinel_url, prefix, tmp_path) as stack:
        stack.start_aggregator()
        stack.start_web("--ack", "replicas:1")
        producers = Producers(stack, TOPICS)
        until(lambda: all(producers.count(topic) > 20 for topic in TOPICS))
        path = "/v1/topics/north/"
        with stack.stream(path + "stats") as stats, stack.stream(path + "events") as events:
            table = Table()
            table.apply(*stats.frame())
            events.frame()
            before = primary_port(watched)
            kill(next(server for server in watched.servers if server.port == before))
            killed_at = {topic: producers.count(topic) for topic in TOPICS}
            until(lambda: all(producers.refusals[topic] for topic in TOPICS))
            until(lambda: all(producers.count(topic) > killed_at[topic] + 20 for topic in TOPICS))
            producers.stop()
            assert primary_port(watched) != before
            assert {status for topic in TOPICS for status, _ in producers.refusals[topic]} == {503}
            last = stack.get("/v1/topics/north").json()["last_offset"]
            assert events.until(lambda event, _: event == "reset")["reason"] == "broker-restarted"
            assert events.until(lambda event, data: event == "message" and data["$offset"] == last)
            stats.until(lambda event, _: event == "reset")
            table = Table()
            while table.offset < last:
                table.apply(*stats.frame())
        assert {(row[0], row[1]): row for row in stack.stats("north")["data"]} == table.live()
        broker = Broker(watched.sentinel_url, prefix)
        for topic in TOPICS:
            found = stored(broker, topic)
            assert len(found) == len(set(found)), "an event is there twice"
            assert set(producers.acknowledged[topic]) <= set(found), "an acknowledged event is lost"
        broker.close()


def ordered_failover(fleet: Fleet) -> bool:
    """Order a failover; return False while Sentinel sees no replica that could be promoted."""
    try:
        return bool(client(fleet.sentinels[0]).execute_command("SENTINEL FAILOVER mymaster"))
    except redis.ResponseError:
        return False


def epoch_of(broker: Broker) -> int:
    try:
        return broker.read(0, {}).epoch
    except Unavailable:
        return 0


def test_broker_follows_an_ordered_failover(watched: Fleet, prefix: str) -> None:
    """The old primary lives on. For some seconds it still calls itself a primary, and the broker must not use it."""
    broker = Broker(watched.sentinel_url, prefix)
    broker.check_layout()

    def switches() -> tuple[int, int] | None:
        """Order a failover; return the ports before and after it, None if the old primary was demoted too early."""
        before, epoch = primary_port(watched), epoch_of(broker)
        until(lambda: ordered_failover(watched))
        after = until(lambda: (port := primary_port(watched)) != before and port)
        until(lambda: epoch_of(broker) not in (0, epoch))
        return (before, after) if client(before).role()[0] == "master" else None

    before, after = until(switches)
    receipt = broker.publish("t", [Event(id="a", data={"n": 1})], TopicSettings())
    assert receipt.last_offset == 1
    assert client(after).exists(broker.keys.log(Log("t"))) == 1
    assert client(before).exists(broker.keys.log(Log("t"))) == 0
    broker.close()


def check(url: str) -> list[str]:
    warnings: list[str] = []
    check_redis(url, "p:", wait=False, warn=warnings.append)
    return warnings


def test_url_of_the_wrong_kind_is_named(watched: Fleet) -> None:
    server, sentinel = primary_port(watched), watched.sentinels[0]
    for url, sentence in (
        (
            f"redis://127.0.0.1:{sentinel}",
            f"127.0.0.1:{sentinel} is a Sentinel: use redis+sentinel://host:port,host:port/master",
        ),
        (f"redis+cluster://127.0.0.1:{server}", "is not a node of a cluster: use redis://"),
        (
            f"redis+sentinel://127.0.0.1:{server}/mymaster",
            "is not a Sentinel: use redis://host:port for a single server",
        ),
        (f"redis+sentinel://127.0.0.1:{sentinel}/other", "knows no master 'other'"),
        (f"redis+sentinel://127.0.0.1:{sentinel}", "ends with the name of the master"),
    ):
        with pytest.raises(StartupError) as error:
            check(url)
        assert sentence in error.value.detail, url


def test_password_of_the_url_is_not_shown() -> None:
    command = [sys.executable, "-m", "pushsvc", "web", "--redis", "redis+sentinel://me:secret@127.0.0.1:1,[::1]:1/m"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert done.returncode == 1
    assert "Redis at redis+sentinel://…@127.0.0.1:1,[::1]:1/m does not answer: no Sentinel" in done.stderr
    assert "secret" not in done.stderr
