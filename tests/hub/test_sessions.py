"""Streams that end with their grants, in a hub without a server."""

from __future__ import annotations

import time
import tracemalloc
from itertools import count, pairwise

import gevent
import pytest

from pushsvc.auth.grants import Grants
from pushsvc.errors import InvalidToken
from pushsvc.hub.delivery.connection import IteratedConnection
from pushsvc.hub.delivery.sessions import Sessions
from pushsvc.hub.hub import Hub
from pushsvc.hub.query import Query
from pushsvc.system_clock import now_ms

NOW = 1_000_000.0


class Connection:
    def __init__(self) -> None:
        self.closed = False
        self.on_close = self.note

    def note(self) -> None:
        self.closed = True


def accept(_: Grants) -> None:
    """Every grant holds."""


def refuse(_: Grants) -> None:
    raise InvalidToken("revoked meanwhile")


def entered(
    sessions: Sessions, subject: str = "u42", expires: float = NOW + 60, issued: float | None = None
) -> Connection:
    connection = Connection()
    sessions.enter(Grants(subject=subject, expires=expires, issued=issued), connection)
    return connection


def test_streams_are_found_in_the_second_of_their_expiry_and_once() -> None:
    sessions = Sessions(accept)
    sessions.expired(NOW)
    one, other = entered(sessions, expires=NOW + 1.5), entered(sessions, expires=NOW + 3)
    entered(sessions, expires=float("inf"))
    assert sessions.expired(NOW + 1.9) == []
    assert sessions.expired(NOW + 2.1) == [one]
    assert sessions.expired(NOW + 2.9) == []
    assert sessions.expired(NOW + 5_000_000) == [other]  # after a pause, or when the clock was set


def test_a_stream_that_closes_leaves_nothing_behind() -> None:
    sessions = Sessions(accept)
    connections = [entered(sessions, expires=NOW + number) for number in range(10)]
    for connection in connections:
        connection.on_close()
    assert all(connection.closed for connection in connections)
    assert sessions.of("u42", NOW) == sessions.expired(NOW + 60) == []
    assert not sessions._by_subject
    assert not sessions._by_second


def test_only_streams_of_older_tokens_are_revoked() -> None:
    sessions = Sessions(accept)
    old, unknown, _new = (entered(sessions, issued=issued) for issued in (NOW, None, NOW + 1))
    entered(sessions, "u43", issued=NOW)
    assert set(sessions.of("u42", NOW + 0.5)) == {old, unknown}
    assert sessions.of("nobody", NOW) == []


def test_grants_are_checked_once_more_when_the_stream_begins() -> None:
    """A revocation may arrive while the head of the response is sent."""
    sessions = Sessions(refuse)
    with pytest.raises(InvalidToken):
        entered(sessions)
    assert sessions.of("u42", NOW) == []


def test_a_session_takes_less_than_a_kilobyte() -> None:
    sessions, streams = Sessions(accept), 2_000
    connections = [Connection() for _ in range(streams)]
    grants = [Grants(subject=f"user-{number}", expires=NOW + number % 60, issued=NOW) for number in range(streams)]
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for one, connection in zip(grants, connections, strict=True):
        sessions.enter(one, connection)
    used = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert used / streams < 1_000


def test_thousands_of_streams_that_end_in_one_second_do_not_hold_the_loop(hub: Hub) -> None:
    """The time of the processor between two turns of the loop counts: other programs do not lengthen it."""
    hub.sessions = Sessions(accept)
    grants = (Grants(subject=f"user-{number}", expires=now_ms() / 1_000 - 1) for number in count())
    source = hub.group(Query(events=("a",)))
    connections = []
    for one, _ in zip(grants, range(20_000), strict=False):
        connection = IteratedConnection(source.channel)
        hub.enter(source.channel, connection)
        hub.sessions.enter(one, connection)
        connections.append(connection)
    turns = []

    def turn() -> None:
        while True:
            turns.append(time.thread_time())
            gevent.sleep(0)

    turning = gevent.spawn(turn)
    gevent.sleep(0)
    hub.end_streams(hub.sessions.expired(now_ms() / 1_000), "over")
    turning.kill()
    turns.append(time.thread_time())
    assert all(connection.ending for connection in connections)
    assert max(after - before for before, after in pairwise(turns)) < 0.05
