"""A publish returns when its confirmation is there: from the disk of a real server, or from a real replica."""

from __future__ import annotations

import itertools
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis

from pushsvc.broker.broker import Broker
from pushsvc.broker.embedded import EmbeddedServer
from pushsvc.broker.keys import Log
from pushsvc.broker.limits import BrokerLimits
from pushsvc.broker.publisher import IdempotencyKey, NewEvents, Receipt
from pushsvc.errors import OutcomeUnknown, StartupError, Unconfirmed
from pushsvc.event import Batch, Event
from pushsvc.settings import Ack, TopicSettings
from pushsvc.supervisor.preflight import check_redis
from pushsvc.web.app import create_app
from support.ports import free_port
from support.proxy import Last, Proxy
from support.waiting import DEADLINE, until

SETTINGS = TopicSettings()
FSYNC, REPLICA = Ack.parse("fsync"), Ack.parse("replicas:1")
Starter = Callable[..., EmbeddedServer]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Starter]:
    """Start servers for one test."""
    running: list[EmbeddedServer] = []

    def start(name: str = "server", **options: str) -> EmbeddedServer:
        server = EmbeddedServer(
            tmp_path / name, port=free_port(), options={key.replace("_", "-"): text for key, text in options.items()}
        )
        server.start()
        running.append(server)
        return server

    yield start
    for server in running:
        if server.alive():
            os.kill(server.pid or 0, signal.SIGCONT)
        server.stop()


def client(server: EmbeddedServer) -> Any:
    return redis.Redis.from_url(server.url, decode_responses=True)


@pytest.fixture
def pair(start: Starter) -> tuple[EmbeddedServer, EmbeddedServer]:
    """A primary and its synchronized replica."""
    primary, replica = start(repl_diskless_sync_delay="0"), start("replica")
    client(replica).execute_command("REPLICAOF", "127.0.0.1", primary.port)
    until(lambda: client(primary).execute_command("WAIT", 1, 10) == 1)
    return primary, replica


@pytest.fixture
def start_with_waitaof(start: Starter) -> Starter:
    """Start servers that support ``--ack fsync``; skip the test if the installed one does not."""
    if not has_waitaof(start("probe")):
        pytest.skip("--ack fsync needs WAITAOF: Redis 7.2 or Valkey")
    return start


def has_waitaof(server: EmbeddedServer) -> bool:
    try:
        client(server).execute_command("WAITAOF", 0, 0, 0)
    except redis.ResponseError as error:
        return "unknown command" not in str(error)
    return True


def event(number: int, id_: str | None = None) -> list[Event]:
    return [Event(id=id_, data={"n": number})]


def stored(broker: Broker) -> list[int]:
    log = Log("t")
    found = broker.read(log.partition, {log: 0}).logs[log]
    return [event.data["n"] for entry in found.entries for event in entry.events]


def calls_of(server: EmbeddedServer, command: str) -> int:
    stats: dict[str, Any] = client(server).info("commandstats")
    return int(stats.get(f"cmdstat_{command}", {"calls": 0})["calls"])


def test_valid_acks() -> None:
    acks = {"memory": Ack(), "fsync": Ack(fsync=True), "replicas:3": Ack(replicas=3)}
    assert {text: Ack.parse(text) for text in acks} == acks
    assert [str(ack) for ack in acks.values()] == list(acks)


@pytest.mark.parametrize("text", ["", "disk", "replicas", "replicas:0", "replicas:-1", "replicas:100", "fsync "])
def test_invalid_acks(text: str) -> None:
    with pytest.raises(ValueError, match="memory, fsync or replicas:N"):
        Ack.parse(text)


def test_with_fsync_a_publish_returns_after_the_disk_write(start_with_waitaof: Starter) -> None:
    server = start_with_waitaof(appendfsync="everysec")
    broker = Broker(server.url, ack=FSYNC)
    assert broker.publish("t", event(1), SETTINGS).last_offset == 1
    assert calls_of(server, "waitaof") == 1
    assert client(server).execute_command("WAITAOF", 0, 0, 1)[0] == 1
    broker.close()


def test_by_default_a_publish_needs_no_confirmation(start: Starter) -> None:
    server = start()
    broker = Broker(server.url)
    broker.publish("t", event(1), SETTINGS)
    assert (calls_of(server, "waitaof"), calls_of(server, "wait"), calls_of(server, "hset|confirmed")) == (0, 0, 0)
    broker.close()


def test_concurrent_requests_share_a_confirmation(start_with_waitaof: Starter) -> None:
    server = start_with_waitaof(appendfsync="everysec")
    broker = Broker(server.url, ack=FSYNC)
    broker.publish("t", event(0), SETTINGS)  # the connection is open, and the scripts are loaded
    before = calls_of(server, "waitaof")
    started = itertools.count(1)
    ready = threading.Event()

    def publish(number: int) -> Receipt:
        if next(started) == 100:
            ready.set()
        return broker.publish("t", event(number), SETTINGS)

    with ThreadPoolExecutor(100) as pool:
        # The first request waits for its answer, and the others gather behind it.
        os.kill(server.pid or 0, signal.SIGSTOP)
        try:
            receipts = pool.map(publish, range(1, 101))
            ready.wait(DEADLINE)
        finally:
            os.kill(server.pid or 0, signal.SIGCONT)
        assert sorted(receipt.last_offset for receipt in receipts) == list(range(2, 102))
    # The first request goes alone. A few threads may have been interrupted just before they published.
    assert calls_of(server, "waitaof") - before <= 25
    broker.close()


def test_publishing_fails_while_the_replica_does_not_confirm(pair: tuple[EmbeddedServer, EmbeddedServer]) -> None:
    """The events of such a publish are stored, but neither a duplicate nor a repeated request is acknowledged."""
    primary, replica = pair
    hasty = BrokerLimits(confirm_ms=300)
    broker, other, third = (Broker(primary.url, ack=REPLICA, limits=hasty) for _ in range(3))
    patient = Broker(primary.url, ack=REPLICA)
    assert patient.publish("t", event(1), SETTINGS).last_offset == 1
    os.kill(replica.pid or 0, signal.SIGSTOP)
    post = create_app(broker).test_client().post
    answer = post("/v1/topics/t/events", json={"id": "a", "n": 2})
    assert (answer.status_code, answer.json["type"]) == (503, "urn:pushsvc:problem:outcome-unknown")
    assert "the events are in Redis, but on 0 of 1 replicas after 300 ms" in answer.json["detail"]
    assert int(answer.headers["Retry-After"]) > 0
    assert stored(broker) == [1, 2]
    # Known is not confirmed: not to the same process, and not to another one that wrote nothing itself.
    idempotency = IdempotencyKey("k", "digest")
    for one in (broker, other):
        with pytest.raises(Unconfirmed):
            one.publish("t", event(2, "a"), SETTINGS)
        with pytest.raises(Unconfirmed):
            one.publish("t", event(3), SETTINGS, idempotency=idempotency)
    with pytest.raises(Unconfirmed):
        third.recall("t", idempotency)  # and not to one that only reads
    os.kill(replica.pid or 0, signal.SIGCONT)
    for one in (other, patient):
        assert until(lambda: confirmed(one, idempotency)) == 3  # noqa: B023
    assert patient.publish("t", event(2, "a"), SETTINGS).duplicates == 1
    assert stored(broker) == [1, 2, 3]
    receipt = patient.recall("t", idempotency)
    assert receipt is not None
    assert receipt.last_offset == 3
    assert patient.recall("t", IdempotencyKey("never", "digest")) is None
    for one in (broker, other, third, patient):
        one.close()


def confirmed(broker: Broker, idempotency: IdempotencyKey) -> int | None:
    try:
        return broker.publish("t", event(3), SETTINGS, idempotency=idempotency).last_offset
    except Unconfirmed:
        return None


def test_a_refusal_that_stored_nothing_needs_no_confirmation(start: Starter) -> None:
    broker = Broker(start().url, ack=REPLICA, topics=0, limits=BrokerLimits(confirm_ms=1))
    answer = create_app(broker).test_client().post("/v1/topics/t/events", json={"n": 2})
    assert answer.status_code == 507
    broker.close()


def test_a_publish_is_not_acknowledged_if_the_confirmation_is_lost(start_with_waitaof: Starter) -> None:
    """The connection breaks after the script's reply."""
    server = start_with_waitaof()
    proxy = Proxy(str(server.data_dir / "valkey.sock"))
    broker = Broker(proxy.url, ack=FSYNC)
    broker.publish("t", event(1), SETTINGS)
    passed: list[bytes] = []

    def cut(data: bytes) -> bytes:
        # Both replies may arrive in one piece. That of WAITAOF ("*2", two numbers) is cut off by its form.
        passed.append(re.sub(rb"\*2\r\n:\d+\r\n:\d+\r\n\Z", b"", data))
        return Last(passed[-1])

    proxy.downward = cut
    with pytest.raises(OutcomeUnknown):
        broker.publish("t", event(2), SETTINGS)
    assert re.match(rb"\$\d+\r\n2 2 1 ", passed[0]), "the script's own reply arrived"
    proxy.downward = lambda data: data
    assert stored(Broker(server.url)) == [1, 2]
    broker.close()
    proxy.close()


def test_a_refused_confirmation_is_none(start_with_waitaof: Starter) -> None:
    server = start_with_waitaof()
    broker = Broker(server.url, ack=FSYNC)
    client(server).config_set("appendonly", "no")
    with pytest.raises(Unconfirmed):
        broker.publish("t", event(1), SETTINGS)
    assert stored(broker) == [1]
    broker.close()


def check(server: EmbeddedServer, ack: Ack) -> list[str]:
    warnings: list[str] = []
    check_redis(server.url, "p:", wait=False, warn=warnings.append, ack=ack)
    return warnings


def test_a_server_without_an_append_only_file_is_refused_for_fsync(start_with_waitaof: Starter) -> None:
    server = start_with_waitaof(appendonly="no")
    with pytest.raises(StartupError, match=r"support --ack fsync: it has no append-only file\. Set its appendonly"):
        check(server, FSYNC)
    assert check(server, Ack())


def test_a_server_that_does_not_know_waitaof_is_refused_for_fsync(start: Starter, tmp_path: Path) -> None:
    (tmp_path / "old.conf").write_text('rename-command WAITAOF ""\n')
    server = start(include=str(tmp_path / "old.conf")) if has_waitaof(start("probe")) else start()
    with pytest.raises(StartupError, match=r"it has no command WAITAOF\. Redis 7.2 and Valkey have it"):
        check(server, FSYNC)


def test_a_server_with_too_few_replicas_is_warned_about(pair: tuple[EmbeddedServer, EmbeddedServer]) -> None:
    primary, _ = pair
    assert check(primary, Ack()) == []  # the first check writes the layout: later ones leave nothing to confirm
    assert not has_waitaof(primary) or check(primary, FSYNC) == []
    assert check(primary, REPLICA) == []
    [warning] = check(primary, Ack(replicas=2))
    assert "has 1 replicas: with --ack replicas:2 publishing is answered with 503 until it has 2" in warning


def test_batches_that_must_be_published_alone_need_no_confirmation(start_with_waitaof: Starter) -> None:
    """Two posts with one id came together, alone in their round trip: both were answered 500."""
    server = start_with_waitaof("alone")
    broker = Broker(server.url, ack=FSYNC)
    twice = Batch.from_events([*event(1, "same"), *event(2, "same")])
    assert broker.publish_together([NewEvents("t", twice, SETTINGS)]) == [None]
    broker.close()
