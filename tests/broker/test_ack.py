"""A publish is answered when what was asked for is confirmed: by the disk of a real server, by a real replica."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis

from pushsvc.broker import committer
from pushsvc.broker.broker import Broker
from pushsvc.broker.embedded import EmbeddedServer
from pushsvc.broker.keys import Log
from pushsvc.broker.publisher import IdempotencyKey
from pushsvc.errors import OutcomeUnknown, StartupError, Unconfirmed
from pushsvc.event import Event
from pushsvc.settings import Ack, TopicSettings
from pushsvc.supervisor.preflight import check_redis
from pushsvc.web.app import create_app
from support.ports import free_port
from support.proxy import Last, Proxy
from support.waiting import until

SETTINGS = TopicSettings()
FSYNC, REPLICA = Ack.parse("fsync"), Ack.parse("replicas:1")
Starter = Callable[..., EmbeddedServer]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Starter]:
    """Starts servers of this test alone."""
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
    """A primary and its replica, in step."""
    primary, replica = start(repl_diskless_sync_delay="0"), start("replica")
    client(replica).execute_command("REPLICAOF", "127.0.0.1", primary.port)
    until(lambda: client(primary).execute_command("WAIT", 1, 10) == 1)
    return primary, replica


def event(number: int, id_: str | None = None) -> list[Event]:
    return [Event(id=id_, data={"n": number})]


def stored(broker: Broker) -> list[int]:
    log = Log("t")
    found = broker.read(log.partition, {log: 0}).logs[log]
    return [event.data["n"] for entry in found.entries for event in entry.events]


def calls_of(server: EmbeddedServer, command: str) -> int:
    stats: dict[str, Any] = client(server).info("commandstats")
    return int(stats.get(f"cmdstat_{command}", {"calls": 0})["calls"])


def test_what_may_be_asked_for() -> None:
    acks = {"memory": Ack(), "fsync": Ack(fsync=True), "replicas:3": Ack(replicas=3)}
    assert {text: Ack.parse(text) for text in acks} == acks
    assert [str(ack) for ack in acks.values()] == list(acks)


@pytest.mark.parametrize("text", ["", "disk", "replicas", "replicas:0", "replicas:-1", "replicas:100", "fsync "])
def test_what_may_not(text: str) -> None:
    with pytest.raises(ValueError, match="memory, fsync and replicas:N"):
        Ack.parse(text)


def test_with_fsync_a_publish_returns_when_the_disk_has_it(start: Starter) -> None:
    server = start(appendfsync="everysec")
    broker = Broker(server.url, ack=FSYNC)
    assert broker.publish("t", event(1), SETTINGS).last_offset == 1
    assert calls_of(server, "waitaof") == 1
    assert client(server).execute_command("WAITAOF", 0, 0, 1)[0] == 1
    broker.close()


def test_by_default_nothing_is_waited_for(start: Starter) -> None:
    server = start()
    broker = Broker(server.url)
    broker.publish("t", event(1), SETTINGS)
    assert (calls_of(server, "waitaof"), calls_of(server, "wait"), calls_of(server, "hset|confirmed")) == (0, 0, 0)
    broker.close()


def test_requests_that_come_together_are_confirmed_together(start: Starter) -> None:
    server = start(appendfsync="everysec")
    broker = Broker(server.url, ack=FSYNC)
    with ThreadPoolExecutor(100) as pool:
        receipts = list(pool.map(lambda number: broker.publish("t", event(number), SETTINGS), range(100)))
    assert sorted(receipt.last_offset for receipt in receipts) == list(range(1, 101))
    # Whoever is first goes alone; some groups may form while the threads start, more where the disk is idle and quick.
    assert calls_of(server, "waitaof") <= 25
    broker.close()


def test_a_replica_confirms_and_when_it_stops_the_answer_says_so(
    pair: tuple[EmbeddedServer, EmbeddedServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    primary, replica = pair
    broker, other, third = (Broker(primary.url, ack=REPLICA) for _ in range(3))
    assert broker.publish("t", event(1), SETTINGS).last_offset == 1
    monkeypatch.setattr(committer, "CONFIRM_MS", 300)
    os.kill(replica.pid or 0, signal.SIGSTOP)
    post = create_app(broker).test_client().post
    answer = post("/v1/topics/t/events", json={"id": "a", "n": 2})
    assert (answer.status_code, answer.json["type"]) == (503, "urn:pushsvc:problem:outcome-unknown")
    assert "the events are in Redis, but on 0 of 1 replicas after 300 ms" in answer.json["detail"]
    assert int(answer.headers["Retry-After"]) > 0
    assert stored(broker) == [1, 2]
    # Known is not confirmed: not to the same process, nor to another one, which wrote nothing itself.
    idempotency = IdempotencyKey("k", "digest")
    for one in (broker, other):
        with pytest.raises(Unconfirmed):
            one.publish("t", event(2, "a"), SETTINGS)
        with pytest.raises(Unconfirmed):
            one.publish("t", event(3), SETTINGS, idempotency=idempotency)
    with pytest.raises(Unconfirmed):
        third.recall("t", idempotency)  # nor to one that only reads
    os.kill(replica.pid or 0, signal.SIGCONT)
    monkeypatch.setattr(committer, "CONFIRM_MS", 3_000)
    assert until(lambda: confirmed(other, idempotency)) == 3
    assert other.publish("t", event(2, "a"), SETTINGS).duplicates == 1
    assert stored(broker) == [1, 2, 3]
    receipt = third.recall("t", idempotency)
    assert receipt is not None
    assert receipt.last_offset == 3
    assert third.recall("t", IdempotencyKey("never", "digest")) is None
    for one in (broker, other, third):
        one.close()


def confirmed(broker: Broker, idempotency: IdempotencyKey) -> int | None:
    try:
        return broker.publish("t", event(3), SETTINGS, idempotency=idempotency).last_offset
    except Unconfirmed:
        return None


def test_what_stored_nothing_is_refused_as_it_is_without_a_replica(
    start: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(committer, "CONFIRM_MS", 1)
    broker = Broker(start().url, ack=REPLICA, topics=0)
    answer = create_app(broker).test_client().post("/v1/topics/t/events", json={"n": 2})
    assert answer.status_code == 507
    broker.close()


def test_when_the_confirmation_is_lost_nothing_is_acknowledged(start: Starter) -> None:
    """The script's answer comes, and then the connection breaks."""
    server = start()
    proxy = Proxy(str(server.data_dir / "valkey.sock"))
    broker = Broker(proxy.url, ack=FSYNC)
    broker.publish("t", event(1), SETTINGS)
    passed: list[bytes] = []

    def cut(data: bytes) -> bytes:
        # Both answers may come in one piece: what WAITAOF said ("*2", two numbers) is cut off by what it is.
        passed.append(re.sub(rb"\*2\r\n:\d+\r\n:\d+\r\n\Z", b"", data))
        return Last(passed[-1])

    proxy.downward = cut
    with pytest.raises(OutcomeUnknown):
        broker.publish("t", event(2), SETTINGS)
    assert passed[0].startswith(b"*5\r\n$2\r\nok"), "the script's own answer had come"
    proxy.downward = lambda data: data
    assert stored(Broker(server.url)) == [1, 2]
    broker.close()
    proxy.close()


def test_a_refusal_to_confirm_is_no_confirmation(start: Starter) -> None:
    server = start()
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


def test_a_server_without_an_append_only_file_is_refused_for_fsync(start: Starter) -> None:
    server = start(appendonly="no")
    with pytest.raises(StartupError, match=r"--ack fsync asks for: it has no append-only file\. Set its appendonly"):
        check(server, FSYNC)
    assert check(server, Ack())


def test_a_server_that_does_not_know_waitaof_is_refused_for_fsync(start: Starter, tmp_path: Path) -> None:
    (tmp_path / "old.conf").write_text('rename-command WAITAOF ""\n')
    server = start(include=str(tmp_path / "old.conf"))
    with pytest.raises(StartupError, match=r"it does not know WAITAOF\. Redis 7.2 and Valkey do"):
        check(server, FSYNC)


def test_a_server_with_too_few_replicas_is_warned_about(pair: tuple[EmbeddedServer, EmbeddedServer]) -> None:
    primary, _ = pair
    assert check(primary, FSYNC) == check(primary, REPLICA) == []
    [warning] = check(primary, Ack(replicas=2))
    assert "has 1 replicas: with --ack replicas:2 publishing answers 503 until there are 2" in warning
