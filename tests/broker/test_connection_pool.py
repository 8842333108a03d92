"""Redis loses its scripts: other commands under way still get their replies, and nothing runs twice."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Thread

import pytest

from pushsvc.broker.connection_pool import ConnectionPool
from pushsvc.broker.embedded import EmbeddedServer
from pushsvc.broker.script import LEASE, SCRIPTS, Argument, ScriptCall
from pushsvc.errors import BrokerUnavailable
from support.waiting import until

FLUSH = ("SCRIPT", "FLUSH")
RUN_ID = 40 * "a"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """An own server: flushing the scripts of the shared one would disturb other tests."""
    server = EmbeddedServer(tmp_path_factory.mktemp("data"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def connections(server: EmbeddedServer, prefix: str) -> Iterator[ConnectionPool]:
    connections = ConnectionPool(server.url, size=1)
    connections.command("PING")
    yield connections
    connections.close()


@pytest.fixture
def accepted(connections: ConnectionPool) -> int:
    return accepted_by(connections)


def accepted_by(connections: ConnectionPool) -> int:
    """Return how many connections Redis has accepted so far."""
    text: bytes = connections.command("INFO", "stats")
    return int(text.split(b"total_connections_received:")[1].split()[0])


def lease(prefix: str, number: int) -> ScriptCall:
    """A lease by a new owner. Each run returns a greater fencing token, so runs can be counted."""
    keys = [f"{prefix}{{a}}:partition", f"{prefix}{{a}}:lease:{number}"]
    return ScriptCall(LEASE, keys, [RUN_ID, f"owner {number}", 60_000])


def command(prefix: str, number: int) -> list[Argument]:
    return lease(prefix, number).command("")


def test_calls_of_missing_scripts_are_sent_again(connections: ConnectionPool, prefix: str, accepted: int) -> None:
    connections.command(*FLUSH)
    replies = connections.calls([lease(prefix, number) for number in range(3)])
    assert [fence for _, fence in replies] == [1, 2, 3]
    assert accepted_by(connections) == accepted, "the connection is kept"


def test_calls_after_a_flush_within_a_round_trip_are_sent_again_in_order(
    connections: ConnectionPool, prefix: str
) -> None:
    replies = connections.exchange([command(prefix, 1), FLUSH, command(prefix, 2), command(prefix, 3)])
    assert replies == [[1, 1], b"OK", [1, 2], [1, 3]]


def test_a_call_is_not_sent_again_if_a_later_command_ran(
    connections: ConnectionPool, prefix: str, accepted: int
) -> None:
    loading = [("SCRIPT", "LOAD", script.source) for script in SCRIPTS if script is LEASE]
    commands = [FLUSH, command(prefix, 1), *loading, command(prefix, 2), ("ECHO", "last")]
    replies = connections.exchange(commands)
    assert isinstance(replies[1], BrokerUnavailable)
    assert replies[-2:] == [[1, 1], b"last"], "the other commands get their own replies"
    assert connections.exchange([command(prefix, 1)]) == [[1, 2]]
    assert accepted_by(connections) == accepted


def test_an_unread_reply_is_noticed_before_a_connection_is_used_again(connections: ConnectionPool) -> None:
    connection = connections.open()
    assert not connection.can_read()
    connection.send_packed_command(connection.pack_commands([("ECHO", "first"), ("ECHO", "second")]))
    until(lambda: connection.can_read())
    assert connection.read_response() == b"first"
    assert connection.can_read()  # the parser has read the second reply with the first: the socket is empty
    assert connection.read_response() == b"second"
    assert not connection.can_read()
    connection.disconnect()


def test_a_probe_is_answered_while_every_connection_of_the_pool_is_in_use(
    connections: ConnectionPool, prefix: str
) -> None:
    taken = Thread(target=connections.command, args=["BLPOP", prefix + "list", 0])
    taken.start()
    until(lambda: blocked_clients(connections) == 1)
    for _ in range(3):
        connections.ping()
    assert taken.is_alive()
    push(connections, prefix)
    taken.join()


def test_a_probe_replaces_a_connection_that_redis_has_ended(connections: ConnectionPool, accepted: int) -> None:
    connections.ping()
    connections.ping()
    assert accepted_by(connections) == accepted + 1
    connections.command("CLIENT", "KILL", "TYPE", "normal")
    connections.ping()
    assert accepted_by(connections) == accepted + 2


def blocked_clients(connections: ConnectionPool) -> int:
    """Return how many clients wait for a list, asked over a connection outside the pool."""
    connection = connections.open()
    try:
        connection.send_command("INFO", "clients")
        text: bytes = connection.read_response()
        return int(text.split(b"blocked_clients:")[1].split()[0])
    finally:
        connection.disconnect()


def push(connections: ConnectionPool, prefix: str) -> None:
    connection = connections.open()
    connection.send_command("LPUSH", prefix + "list", "x")
    connection.read_response()
    connection.disconnect()


def test_a_connect_does_not_look_the_version_of_a_package_up(
    connections: ConnectionPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """redis-py did so at every connect: 5 to 10 ms of the event loop."""

    def look_up(name: str) -> str:
        raise AssertionError(name)

    monkeypatch.setattr("importlib.metadata.version", look_up)
    connections.open().disconnect()
