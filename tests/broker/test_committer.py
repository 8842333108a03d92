"""Group commit against a real server: many callers, few round trips, and connections that break at every place."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import redis

from pushsvc.broker.broker import Broker
from pushsvc.broker.committer import Committer
from pushsvc.broker.embedded import EmbeddedServer
from pushsvc.broker.keys import Log
from pushsvc.broker.limits import BrokerLimits
from pushsvc.broker.log import LogNotification
from pushsvc.broker.publisher import IdempotencyKey, NewEvents, Receipt
from pushsvc.errors import BrokerUnavailable, OutcomeUnknown, Overloaded, PushError
from pushsvc.event import Batch, Event
from pushsvc.settings import TopicSettings
from support.proxy import Proxy
from support.waiting import DEADLINE, until

StartRedis = Callable[..., EmbeddedServer]
SETTINGS = TopicSettings()
CALLERS = 30


@contextmanager
def connected(proxy: Proxy, prefix: str, limits: BrokerLimits) -> Iterator[Broker]:
    """Yield a broker that is connected through the proxy."""
    broker = Broker(proxy.url, prefix, limits=limits)
    broker.publish("t", [Event(data={"n": -1})], SETTINGS)
    yield broker
    broker.close()


@pytest.fixture
def through(proxy: Proxy, prefix: str) -> Iterator[Broker]:
    with connected(proxy, prefix, BrokerLimits()) as broker:
        yield broker


def stored(broker: Broker, topic: str = "t") -> list[int]:
    log = Log(topic)
    found = broker.read(log.partition, {log: 0}).logs[log]
    return [event.data["n"] for entry in found.entries for event in entry.events]


def sizes(broker: Broker) -> list[int]:
    log = Log("t")
    return [entry.last - entry.first + 1 for entry in broker.read(log.partition, {log: 0}).logs[log].entries]


def publish(broker: Broker, number: int, topic: str = "t", idempotency: IdempotencyKey | None = None) -> str:
    """Publish an event; return its offset, or the name of the error."""
    try:
        return str(broker.publish(topic, [Event(data={"n": number})], SETTINGS, idempotency=idempotency).first_offset)
    except PushError as error:
        return type(error).__name__


def publish_alone(broker: Broker, number: int, topic: str = "t") -> str:
    """Publish an event with a key, so that its call is not merged."""
    return publish(broker, number, topic, IdempotencyKey(str(number), "digest"))


Publish = Callable[[Broker, int], str]


def publish_together(proxy: Proxy, broker: Broker, count: int, publish: Publish = publish_alone) -> list[str]:
    """Publish 0 to ``count``-1 concurrently: one leads, the others wait and form the next group."""
    with ThreadPoolExecutor(count) as pool:
        proxy.go.clear()
        futures = [pool.submit(publish, broker, number) for number in range(count)]
        until(lambda: broker.committer.waiting == count - 1)
        proxy.go.set()
        return [future.result() for future in futures]


def test_requests_that_arrive_during_a_commit_share_the_next_round_trip(
    proxy: Proxy, through: Broker, broker: Broker
) -> None:
    sent: list[bytes] = []
    proxy.upward = lambda data: sent.append(data) or data  # type: ignore[func-returns-value]
    offsets = publish_together(proxy, through, CALLERS)
    assert sorted(map(int, offsets)) == list(range(2, CALLERS + 2))
    assert stored(broker)[1:] == [number for _, number in sorted((int(o), n) for n, o in enumerate(offsets))]
    assert b"".join(sent).count(b"EVALSHA") == CALLERS
    assert sent[0].count(b"EVALSHA") == 1
    assert len(sent) < 6, "one call, then all others (in several pieces if TCP splits them)"


def test_a_groups_requests_to_one_topic_are_one_call_and_one_entry(
    proxy: Proxy, through: Broker, broker: Broker
) -> None:
    sent: list[bytes] = []
    proxy.upward = lambda data: sent.append(data) or data  # type: ignore[func-returns-value]
    offsets = publish_together(proxy, through, CALLERS, publish)
    assert sorted(map(int, offsets)) == list(range(2, CALLERS + 2))
    assert stored(broker)[1:] == [number for _, number in sorted((int(o), n) for n, o in enumerate(offsets))]
    assert b"".join(sent).count(b"EVALSHA") == 2
    assert sizes(broker) == [1, 1, CALLERS - 1]


def new_events(number: int, topic: str) -> NewEvents:
    return NewEvents(topic, Batch.from_events([Event(data={"n": number})]), SETTINGS)


def test_batches_for_many_topics_share_one_round_trip(proxy: Proxy, through: Broker, broker: Broker) -> None:
    sent: list[bytes] = []
    proxy.upward = lambda data: sent.append(data) or data  # type: ignore[func-returns-value]
    found = through.publish_together([new_events(number, f"t{number}") for number in range(100)])
    assert [receipt.first_offset for receipt in found if isinstance(receipt, Receipt)] == [1] * 100
    assert [stored(broker, f"t{number}") for number in range(100)] == [[number] for number in range(100)]
    assert b"".join(sent).count(b"EVALSHA") == 100


def test_batches_whose_replies_are_lost_are_unknown_and_those_that_wait_are_stored(
    proxy: Proxy, through: Broker, broker: Broker
) -> None:
    led = threading.Event()

    def cut(data: bytes) -> bytes | None:
        if led.is_set():
            return data
        led.set()
        return None

    proxy.downward = cut
    with ThreadPoolExecutor(2) as pool:
        proxy.go.clear()
        lost = pool.submit(through.publish_together, [new_events(n, f"t{n}") for n in range(3)])
        until(lambda: proxy.held)
        later = pool.submit(through.publish_together, [new_events(n, f"t{n}") for n in range(3, 6)])
        until(lambda: through.committer.waiting == 3)
        proxy.go.set()
        assert [type(error) for error in lost.result()] == [OutcomeUnknown] * 3
        assert [type(receipt) for receipt in later.result()] == [Receipt] * 3
    assert [stored(broker, f"t{n}") for n in range(6)] == [[n] for n in range(6)]


def test_a_refused_batch_refuses_no_other(through: Broker, broker: Broker) -> None:
    with_id = Batch.from_events([Event(id="a", data={"n": 7})])
    assert isinstance(through.publish_together([NewEvents("u", with_id, SETTINGS)])[0], Receipt)
    found = through.publish_together([new_events(1, "s"), NewEvents("u", with_id, SETTINGS), new_events(2, "s2")])
    assert [type(one) for one in found] == [Receipt, type(None), Receipt]
    assert [stored(broker, topic) for topic in ("s", "u", "s2")] == [[1], [7], [2]]


def test_batches_fail_at_once_without_redis(tmp_path: Path) -> None:
    unreachable = Broker(f"unix://{tmp_path}/none.sock", "x:")
    found = unreachable.publish_together([new_events(1, "s"), new_events(2, "t")])
    assert [type(one) for one in found] == [BrokerUnavailable] * 2


def test_merged_requests_are_unknown_and_stored_once_if_the_reply_is_lost(
    proxy: Proxy, through: Broker, broker: Broker
) -> None:
    led = threading.Event()

    def cut(data: bytes) -> bytes | None:
        if led.is_set():
            return None
        led.set()
        return data

    proxy.downward = cut
    results = publish_together(proxy, through, CALLERS, publish)
    assert results.count("OutcomeUnknown") == CALLERS - 1
    assert sorted(stored(broker)) == list(range(-1, CALLERS))


@pytest.mark.parametrize("replies", [0, 1, 7])
def test_requests_are_unknown_and_stored_once_if_their_replies_are_lost(
    proxy: Proxy, through: Broker, broker: Broker, replies: int
) -> None:
    """Redis runs every call, then the connection breaks in the middle of a reply."""
    led = threading.Event()

    def cut(data: bytes) -> bytes | None:
        if not led.is_set():  # the leader's own round trip
            led.set()
            return data
        until(lambda: len(stored(broker)) == CALLERS + 1)
        proxy.downward = lambda _: None
        return b"$".join(data.split(b"$")[: replies + 1]) + b"$47\r\n9"

    proxy.downward = cut
    results = publish_together(proxy, through, CALLERS)
    assert results.count("OutcomeUnknown") == CALLERS - 1 - replies
    assert sorted(stored(broker)) == list(range(-1, CALLERS)), "each once, with or without a reply"
    numbers = stored(broker)
    for number, result in enumerate(results):
        assert result == "OutcomeUnknown" or numbers[int(result) - 1] == number
    proxy.downward = lambda data: data
    assert publish(through, 99) == str(CALLERS + 2), "the next request reconnects"


def test_a_connection_that_broke_while_idle_is_replaced_before_the_next_request(proxy: Proxy, through: Broker) -> None:
    with redis.Redis.from_url(proxy.url) as admin:
        for expected in ("2", "3"):
            admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            until(lambda: len(proxy.ended) == proxy.accepted - 1)  # all but that of admin
            assert publish(through, 1) == expected


def test_waiting_requests_survive_a_group_whose_connection_breaks(
    proxy: Proxy, through: Broker, broker: Broker
) -> None:
    """Only submitted requests are unknown; waiting requests get a new connection."""
    cuts: list[int] = []

    def cut(data: bytes) -> bytes | None:
        cuts.append(1)
        return None if len(cuts) == 1 else data

    proxy.downward = cut
    results = publish_together(proxy, through, CALLERS)
    assert results.count("OutcomeUnknown") == 1
    assert len({result for result in results if result != "OutcomeUnknown"}) == CALLERS - 1
    assert sorted(stored(broker)) == list(range(-1, CALLERS))


def test_missing_scripts_are_loaded_and_only_refused_calls_are_sent_again(start_redis: StartRedis, prefix: str) -> None:
    """The server has no other client, which could load the scripts before this one."""
    server, sent = start_redis(), list[bytes]()
    proxy = Proxy(unquote(urlsplit(server.url).path))
    with (
        closing(proxy),
        connected(proxy, prefix, BrokerLimits()) as through,
        redis.Redis.from_url(server.url) as admin,
    ):
        proxy.upward = lambda data: sent.append(data) or data  # type: ignore[func-returns-value]
        admin.script_flush()
        results = publish_together(proxy, through, CALLERS)
        assert b"".join(sent).count(b"EVALSHA") == CALLERS + 1, "the leader's call twice, the others once"
        assert sorted(map(int, results)) == list(range(2, CALLERS + 2))
        assert sorted(stored(through)) == list(range(-1, CALLERS))


def test_only_calls_of_a_group_that_did_not_run_are_sent_again(proxy: Proxy, through: Broker, broker: Broker) -> None:
    """Redis loses its scripts between two calls of a group."""
    flushed: list[int] = []

    def flush(data: bytes) -> bytes:
        calls = [found.start() for found in re.finditer(rb"\*\d+\r\n\$7\r\nEVALSHA", data)]
        if flushed or len(calls) < 5:
            return data
        flushed.append(len(calls))
        return data[: calls[3]] + b"*2\r\n$6\r\nSCRIPT\r\n$5\r\nFLUSH\r\n" + data[calls[3] :]

    proxy.upward = flush
    proxy.downward = lambda data: data.replace(b"+OK\r\n", b"")
    results = publish_together(proxy, through, CALLERS)
    assert flushed
    assert sorted(map(int, results)) == list(range(2, CALLERS + 2))
    assert sorted(stored(broker)) == list(range(-1, CALLERS))


def test_requests_fail_quickly_without_redis(tmp_path: Path) -> None:
    broker = Broker(f"unix://{tmp_path}/nothing.sock")
    with ThreadPoolExecutor(CALLERS) as pool:
        results = [future.result() for future in [pool.submit(publish, broker, n) for n in range(CALLERS)]]
    assert set(results) == {"BrokerUnavailable"}


def test_the_queue_is_bounded(proxy: Proxy, prefix: str, broker: Broker) -> None:
    limits = BrokerLimits(waiting_calls=5, waiting_bytes=10_000)
    with connected(proxy, prefix, limits) as through, ThreadPoolExecutor(10) as pool:
        proxy.go.clear()
        first = [pool.submit(publish, through, number) for number in range(6)]
        until(lambda: through.committer.waiting == 5)
        with pytest.raises(Overloaded):
            through.publish("t", [Event(data={"n": 6})], SETTINGS)
        proxy.go.set()
        assert len({future.result() for future in first}) == 6
        proxy.go.clear()
        first = [pool.submit(publish, through, 7), pool.submit(publish, through, 8)]
        until(lambda: through.committer.waiting == 1)
        with pytest.raises(Overloaded):
            through.publish("t", [Event(data={"n": 9, "x": "x" * 10_000})], SETTINGS)
        proxy.go.set()
        assert len({future.result() for future in first}) == 2
        assert len(stored(broker)) == 9
        through.publish("t", [Event(data={"n": 10, "x": "x" * 20_000})], SETTINGS)  # not too large for an empty queue


@pytest.mark.parametrize(
    ("limits", "callers", "groups"),
    [(BrokerLimits(group_calls=7), 22, [1, 7, 7, 7]), (BrokerLimits(group_calls=7, group_bytes=1), 3, [1, 1, 1])],
)
def test_groups_are_bounded(
    proxy: Proxy, prefix: str, monkeypatch: pytest.MonkeyPatch, limits: BrokerLimits, callers: int, groups: list[int]
) -> None:
    sizes: list[int] = []
    commit = Committer.commit
    with connected(proxy, prefix, limits) as through:
        monkeypatch.setattr(
            Committer, "commit", lambda self, group, **how: sizes.append(len(group)) or commit(self, group, **how)
        )
        assert len(set(publish_together(proxy, through, callers))) == callers
    assert sizes == groups


def test_each_request_gets_its_own_known_ids_and_errors(proxy: Proxy, through: Broker) -> None:
    fence = through.lease([Log("t").partition], "me", 10_000)[Log("t").partition]

    def one(number: int) -> str:
        try:
            event = Event(id=f"i{number // 2}", data={"n": number})
            receipt = through.publish("t", [event], SETTINGS, fence=fence - number % 2)
            return f"{receipt.accepted} {receipt.duplicates}"
        except PushError as error:
            return type(error).__name__

    with ThreadPoolExecutor(CALLERS) as pool:
        assert list(pool.map(one, range(CALLERS))) == ["1 0", "Fenced"] * (CALLERS // 2)
        assert list(pool.map(one, range(0, CALLERS, 2))) == ["0 1"] * (CALLERS // 2)


def test_requests_to_a_hanging_server_time_out(start_redis: StartRedis) -> None:
    with closing(Broker(start_redis().url, limits=BrokerLimits(timeout=0.3))) as broker:
        broker.publish("t", [Event(data={"n": -1})], SETTINGS)
        process = process_of(broker)
        os.kill(process, signal.SIGSTOP)
        with ThreadPoolExecutor(CALLERS) as pool:
            results = [future.result() for future in [pool.submit(publish, broker, n) for n in range(CALLERS)]]
        assert set(results) <= {"OutcomeUnknown", "BrokerUnavailable"}
        assert "OutcomeUnknown" in results
        os.kill(process, signal.SIGCONT)
        until(lambda: publish(broker, 1).isdigit())


def process_of(broker: Broker) -> int:
    info: str = broker.connections.command("INFO", "server").decode()
    return int(info.split("process_id:")[1].split()[0])


GREENLETS = """
from gevent import monkey; monkey.patch_all()
import sys, gevent
from pushsvc.broker.broker import Broker
from pushsvc.broker.keys import Log
from pushsvc.errors import OutcomeUnknown
from pushsvc.event import Event
from pushsvc.settings import TopicSettings
broker, settings = Broker(sys.argv[1], sys.argv[2]), TopicSettings()
def publish(number):
    try:
        return broker.publish("t", [Event(data={"n": number})], settings).first_offset
    except OutcomeUnknown:  # the leader was killed while Redis had the calls of others, too
        return None
greenlets = [gevent.spawn(publish, number) for number in range(64)]
gevent.sleep(0)
killed = greenlets[::3]  # the leader, waiting requests, and the next leader
gevent.killall(killed)
gevent.joinall(greenlets, timeout=60, raise_error=True)
offsets = [one.value for one in greenlets if one not in killed and one.value is not None]
again = publish(64)
log = Log("t")
events = [e.data["n"] for entry in broker.read(log.partition, {log: 0}).logs[log].entries for e in entry.events]
assert len(set(offsets)) == len(offsets), offsets
for number, one in enumerate(greenlets):
    if one not in killed and one.value is not None:
        assert events[one.value - 1] == number
assert len(events) == len(set(events)), events
assert events[again - 1] == 64
print("good")
"""


def test_greenlets_share_round_trips_and_may_be_killed(redis_url: str, prefix: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", GREENLETS, redis_url, prefix],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.stdout == "good\n", done.stderr


def test_every_append_of_a_round_trip_is_notified_in_order_of_sequences(
    proxy: Proxy, through: Broker, broker: Broker
) -> None:
    through.publish("u", [Event(data={"n": -1})], SETTINGS)
    with ThreadPoolExecutor(CALLERS) as pool, redis.Redis.from_url(proxy.url).pubsub() as listener:
        channels = {broker.keys.log_channel(Log(topic)): topic for topic in ("t", "u")}
        listener.subscribe(*channels)
        until(lambda: [listener.get_message(timeout=0.1) for _ in channels][-1])
        proxy.go.clear()
        first = pool.submit(publish, through, 0)
        until(lambda: proxy.held)
        others = [pool.submit(publish_alone, through, n, "tu"[n % 2]) for n in range(1, CALLERS)]
        until(lambda: through.committer.waiting == CALLERS - 1)
        proxy.go.set()
        assert all(one.result().isdigit() for one in [first, *others])
        received = [until(lambda: listener.get_message(timeout=0.1)) for _ in range(CALLERS)]
        assert listener.get_message(timeout=0.1) is None
    for topic in ("t", "u"):
        log = Log(topic)
        messages = [m["data"] for m in received if channels[m["channel"].decode()] == topic]
        notified = [found.entry for message in messages if (found := LogNotification.parse(log, message)) is not None]
        entries = broker.read(log.partition, {log: 0}).logs[log].entries
        assert notified == entries[1:]  # the first came before the subscription
