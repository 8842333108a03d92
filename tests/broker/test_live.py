"""What a process knows of its own ears. A real server answers; its answers are read one by one here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from redis.exceptions import ResponseError

from pushsvc.broker.connection import Connections
from pushsvc.broker.keys import slot_of
from pushsvc.broker.live import LiveConnection


class Ears(LiveConnection):
    def __init__(self, connections: Connections) -> None:
        self.heard: list[tuple[str, bytes]] = []
        super().__init__(connections, lambda channel, data: not self.heard.append((channel, data)), lambda: None)
        self._connect()

    def read(self) -> bytes:
        """Take one answer, and return its kind."""
        answer = self._connection.read_response()
        self._dispatch(answer)
        return answer[0] if isinstance(answer, list) else answer

    def close(self) -> None:
        self._disconnect()


@pytest.fixture
def connections(redis_url: str) -> Iterator[Connections]:
    connections = Connections(redis_url, size=1)
    yield connections
    connections.close()


@pytest.fixture
def ears(connections: Connections) -> Iterator[Ears]:
    ears = Ears(connections)
    assert ears.read() == b"PONG"
    yield ears
    ears.close()


def test_one_channel_is_confirmed_once(ears: Ears, prefix: str) -> None:
    ears.subscribe(prefix)
    assert not ears.is_confirmed(prefix)
    assert ears.read() == b"subscribe"
    assert ears.is_confirmed(prefix)
    assert ears.heard == [(prefix, b"")]


def test_what_was_let_go_of_between_is_confirmed_by_the_last_answer_alone(
    ears: Ears, connections: Connections, prefix: str
) -> None:
    """The first answer comes before the channel was let go of, so that what is said behind it is not heard."""
    ears.subscribe(prefix)
    ears.unsubscribe(prefix)
    confirmed = ears.subscribe(prefix)
    for kind in (b"subscribe", b"unsubscribe"):
        assert ears.read() == kind
        assert not ears.is_confirmed(prefix)
        assert not confirmed.is_set()
        assert ears.heard == []
    assert ears.read() == b"subscribe"
    assert ears.is_confirmed(prefix)
    assert confirmed.is_set()
    assert ears.heard == [(prefix, b"")]
    connections.command("PUBLISH", prefix, "said")
    ears.read()
    assert ears.heard[1:] == [(prefix, b"said")]


def test_what_was_asked_of_a_connection_is_forgotten_with_it(ears: Ears, prefix: str) -> None:
    ears.subscribe(prefix)
    ears.read()
    ears.unsubscribe(prefix)
    ears.subscribe(prefix)
    ears.close()
    assert not ears.is_confirmed(prefix)
    ears._connect()
    assert ears.read() == b"subscribe"
    assert ears.is_confirmed(prefix)


def test_a_refused_subscription_is_not_waited_for(ears: Ears, prefix: str) -> None:
    """In a cluster the slot may come back to the primary that refused, over the same connection."""
    ears.subscribe(f"{prefix}beside")
    ears.subscribe(prefix)
    ears._dispatch(ResponseError(f"MOVED {slot_of(prefix)} 127.0.0.1:7000"))
    assert not ears.is_confirmed(prefix)
    for _ in range(2):  # what this server, which is no cluster, answers
        ears.read()
    assert ears.is_confirmed(f"{prefix}beside")
    ears.unsubscribe(prefix)
    ears.read()
    ears.subscribe(prefix)
    ears._dispatch(ResponseError(f"MOVED {slot_of(prefix)} 127.0.0.1:7000"))
    ears.ask_again(prefix)
    ears.read()
    assert ears.is_confirmed(prefix)
    ears._dispatch(ResponseError(f"MOVED {slot_of(prefix)} 127.0.0.1:7000"))
    assert ears.is_confirmed(prefix)


def test_any_other_error_ends_the_connection(ears: Ears) -> None:
    with pytest.raises(ResponseError, match="NOAUTH"):
        ears._dispatch(ResponseError("NOAUTH Authentication required."))
