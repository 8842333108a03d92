"""The state of a live connection's subscriptions. A real server replies; the test reads its replies one by one."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from redis.exceptions import ResponseError

from pushsvc.broker.connection_pool import ConnectionPool
from pushsvc.broker.keys import slot_of
from pushsvc.broker.live import LiveConnection


class Subscriber(LiveConnection):
    """A live connection without a greenlet."""

    def __init__(self, connections: ConnectionPool) -> None:
        self.messages: list[tuple[str, bytes]] = []
        super().__init__(connections, lambda channel, data: not self.messages.append((channel, data)), lambda: None)
        self.connect()

    def read(self) -> bytes:
        """End this turn of the loop, process one reply, and return its kind."""
        self.send_changes()
        reply = self._connection.read_response()
        self.dispatch(reply)
        return reply[0] if isinstance(reply, list) else reply

    def close(self) -> None:
        self._disconnect()


@pytest.fixture
def connections(redis_url: str) -> Iterator[ConnectionPool]:
    connections = ConnectionPool(redis_url, size=1)
    yield connections
    connections.close()


@pytest.fixture
def subscriber(connections: ConnectionPool) -> Iterator[Subscriber]:
    subscriber = Subscriber(connections)
    assert subscriber.read() == b"PONG"
    yield subscriber
    subscriber.close()


def test_one_channel_is_confirmed_once(subscriber: Subscriber, prefix: str) -> None:
    subscriber.subscribe(prefix)
    assert not subscriber.is_confirmed(prefix)
    assert subscriber.read() == b"subscribe"
    assert subscriber.is_confirmed(prefix)
    assert subscriber.messages == [(prefix, b"")]


def test_subscriptions_of_one_turn_are_one_command(
    subscriber: Subscriber, connections: ConnectionPool, prefix: str
) -> None:
    def calls() -> int:
        statistics = connections.command("INFO", "commandstats")
        return sum(int(number) for number in re.findall(rb"cmdstat_subscribe:calls=(\d+)", statistics))

    before = calls()
    names = [f"{prefix}{number}" for number in range(100)]
    confirmed = [subscriber.subscribe(name) for name in names]
    gone = subscriber.subscribe(f"{prefix}gone")
    subscriber.unsubscribe(f"{prefix}gone")
    kinds = [subscriber.read() for _ in range(101)]
    assert kinds == [b"unsubscribe"] + [b"subscribe"] * 100
    assert calls() == before + 1
    assert all(one.wait(0) for one in confirmed)
    assert [channel for channel, _ in subscriber.messages] == names
    assert not gone.wait(0)


def test_after_an_unsubscribe_only_the_last_answer_confirms(
    subscriber: Subscriber, connections: ConnectionPool, prefix: str
) -> None:
    """The first answer belongs to the subscription before the unsubscribe: messages after it may be lost."""
    subscriber.subscribe(prefix)
    subscriber.send_changes()
    subscriber.unsubscribe(prefix)
    subscriber.send_changes()
    confirmed = subscriber.subscribe(prefix)
    for kind in (b"subscribe", b"unsubscribe"):
        assert subscriber.read() == kind
        assert not subscriber.is_confirmed(prefix)
        assert not confirmed.is_set()
        assert subscriber.messages == []
    assert subscriber.read() == b"subscribe"
    assert subscriber.is_confirmed(prefix)
    assert confirmed.is_set()
    assert subscriber.messages == [(prefix, b"")]
    connections.command("PUBLISH", prefix, "data")
    subscriber.read()
    assert subscriber.messages[1:] == [(prefix, b"data")]


def test_subscriptions_under_way_are_forgotten_with_their_connection(subscriber: Subscriber, prefix: str) -> None:
    subscriber.subscribe(prefix)
    subscriber.read()
    subscriber.unsubscribe(prefix)
    subscriber.subscribe(prefix)
    subscriber.close()
    assert not subscriber.is_confirmed(prefix)
    subscriber.connect()
    assert subscriber.read() == b"subscribe"
    assert subscriber.is_confirmed(prefix)


def test_a_refused_subscription_counts_as_answered(subscriber: Subscriber, prefix: str) -> None:
    """In a cluster the slot may return to the primary that refused, over the same connection."""
    subscriber.subscribe(f"{prefix}beside")
    subscriber.subscribe(prefix)
    subscriber.send_changes()
    subscriber.dispatch(ResponseError(f"MOVED {slot_of(prefix)} 127.0.0.1:7000"))
    assert not subscriber.is_confirmed(prefix)
    for _ in range(2):  # the replies of this server, which is no cluster
        subscriber.read()
    assert subscriber.is_confirmed(f"{prefix}beside")
    subscriber.unsubscribe(prefix)
    subscriber.read()
    subscriber.subscribe(prefix)
    subscriber.send_changes()
    subscriber.dispatch(ResponseError(f"MOVED {slot_of(prefix)} 127.0.0.1:7000"))
    subscriber.subscribe_again(prefix)
    subscriber.read()
    assert subscriber.is_confirmed(prefix)
    subscriber.dispatch(ResponseError(f"MOVED {slot_of(prefix)} 127.0.0.1:7000"))
    assert subscriber.is_confirmed(prefix)


def test_any_other_error_ends_the_connection(subscriber: Subscriber) -> None:
    with pytest.raises(ResponseError, match="NOAUTH"):
        subscriber.dispatch(ResponseError("NOAUTH Authentication required."))
