"""Redis forgets the scripts: what else is under way is answered all the same, and nothing runs twice."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pushsvc.broker.connection import Connections
from pushsvc.broker.embedded import EmbeddedServer
from pushsvc.broker.script import LEASE, SCRIPTS, Argument, Call
from pushsvc.errors import BrokerUnavailable
from support.waiting import until

FLUSH = ("SCRIPT", "FLUSH")
RUN_ID = 40 * "a"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """One of our own: to flush the scripts of another would be felt by everybody."""
    server = EmbeddedServer(tmp_path_factory.mktemp("data"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def connections(server: EmbeddedServer, prefix: str) -> Iterator[Connections]:
    connections = Connections(server.url, size=1)
    connections.command("PING")
    yield connections
    connections.close()


@pytest.fixture
def made(connections: Connections) -> int:
    return made_by(connections)


def made_by(connections: Connections) -> int:
    """Return how many connections Redis has ever taken."""
    text: bytes = connections.command("INFO", "stats")
    return int(text.split(b"total_connections_received:")[1].split()[0])


def take(prefix: str, number: int) -> Call:
    """A lease by a new owner, who gets a greater token: so each run is seen."""
    keys = [f"{prefix}{{a}}:partition", f"{prefix}{{a}}:lease:{number}"]
    return Call(LEASE, keys, [RUN_ID, f"owner {number}", 60_000])


def command(prefix: str, number: int) -> list[Argument]:
    return take(prefix, number).command("")


def test_calls_of_which_redis_forgot_the_script_are_sent_again(
    connections: Connections, prefix: str, made: int
) -> None:
    connections.command(*FLUSH)
    answers = connections.calls([take(prefix, number) for number in range(3)])
    assert [fence for _, fence in answers] == [1, 2, 3]
    assert made_by(connections) == made, "the connection is kept"


def test_in_the_middle_of_a_round_trip_those_behind_are_sent_again_in_their_order(
    connections: Connections, prefix: str
) -> None:
    answers = connections.exchange([command(prefix, 1), FLUSH, command(prefix, 2), command(prefix, 3)])
    assert answers == [[1, 1], b"OK", [1, 2], [1, 3]]


def test_what_ran_is_not_run_again_and_nothing_comes_behind_it_that_was_before(
    connections: Connections, prefix: str, made: int
) -> None:
    loading = [("SCRIPT", "LOAD", script.source) for script in SCRIPTS if script is LEASE]
    commands = [FLUSH, command(prefix, 1), *loading, command(prefix, 2), ("ECHO", "last")]
    answers = connections.exchange(commands)
    assert isinstance(answers[1], BrokerUnavailable)
    assert answers[-2:] == [[1, 1], b"last"], "the answers of the others are their own"
    assert connections.exchange([command(prefix, 1)]) == [[1, 2]]
    assert made_by(connections) == made


def test_an_answer_that_nobody_read_is_seen_before_a_connection_is_used_again(connections: Connections) -> None:
    connection = connections.open()
    assert not connection.can_read()
    connection.send_packed_command(connection.pack_commands([("ECHO", "first"), ("ECHO", "second")]))
    until(lambda: connection.can_read())
    assert connection.read_response() == b"first"
    assert connection.can_read()  # the second came with it: nothing is left in the socket
    assert connection.read_response() == b"second"
    assert not connection.can_read()
    connection.disconnect()
