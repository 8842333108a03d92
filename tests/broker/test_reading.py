"""What comes on the live connection: taken in the loop, or waiting in its order for who asks. Over real sockets."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from time import monotonic
from typing import Any

import gevent
import pytest
from redis import exceptions

from pushsvc.broker.reading import Reading
from support.peer import tls_pair
from support.waiting import turn_until

PLAIN, SECURE = "plain", "TLS"


class Case:
    """A reading, and Redis's end of its socket. Numbers below 100 are taken."""

    def __init__(self, kind: str) -> None:
        ours, self.theirs = socket.socketpair()
        if kind == SECURE:
            for end in (ours, self.theirs):
                end.setblocking(False)
            ours, self.theirs = tls_pair(ours, self.theirs)
            self.theirs.setblocking(True)
        ours.settimeout(5)
        self.ours = ours
        self.taken: list[Any] = []
        self.reading = Reading(ours, self._take)

    def _take(self, answer: Any) -> bool:
        taken = isinstance(answer, int) and answer < 100
        if taken:
            self.taken.append(answer)
        return taken

    def say(self, *numbers: int) -> None:
        self.theirs.sendall(b"".join(b":%d\r\n" % number for number in numbers))

    def ask(self, seconds: float = 5.0) -> list[Any] | None:
        return gevent.spawn(self.reading.answers, seconds).get()

    def close(self) -> None:
        self.reading.close()
        self.ours.close()
        self.theirs.close()


@pytest.fixture(params=[PLAIN, SECURE])
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    made = Case(request.param)
    yield made
    made.close()


def test_what_is_not_taken_waits_in_order_with_all_behind_it(case: Case) -> None:
    case.say(1, 2, 100, 3, 101, 4)
    assert case.ask() == [100, 3, 101, 4]
    assert case.taken == [1, 2]
    case.say(5)
    assert case.ask(0.2) is None
    assert case.taken == [1, 2, 5]


def test_nothing_more_is_read_until_it_is_asked_for_again(case: Case) -> None:
    case.say(100)
    assert case.ask() == [100]
    case.say(1)
    gevent.sleep(0.05)
    assert case.taken == []
    assert case.ask(0.2) is None
    assert case.taken == [1]


def test_silence_begins_behind_what_came_last(case: Case) -> None:
    begun = monotonic()
    assert case.ask(0.1) is None
    assert monotonic() - begun >= 0.1
    asking = gevent.spawn(case.reading.answers, 1)
    for _ in range(4):
        gevent.sleep(0.3)
        case.say(1)
        last = monotonic()
    assert asking.get() is None
    assert monotonic() - last >= 0.99
    assert case.taken == [1] * 4


def test_an_answer_may_come_byte_by_byte(case: Case) -> None:
    asking = gevent.spawn(case.reading.answers, 5)
    for byte in b"*2\r\n$3\r\none\r\n:12\r\n":
        case.theirs.sendall(bytes([byte]))
        gevent.sleep(0.001)
    assert asking.get() == [[b"one", 12]]


def test_much_at_once_is_read_to_its_end(case: Case) -> None:
    """TLS holds what no poll sees: nothing may wait there for what comes next."""
    asking = gevent.spawn(case.reading.answers, 5)
    for start in range(0, 20_000, 2_000):
        case.say(*[number % 100 for number in range(start, start + 2_000)])
        turn_until(lambda: len(case.taken) == start + 2_000)  # noqa: B023
    case.say(100)
    assert asking.get() == [100]


def test_the_end_is_raised_behind_what_came_before_it(case: Case) -> None:
    case.say(1, 100)
    case.theirs.close()
    assert case.ask() == [100]
    with pytest.raises((exceptions.ConnectionError, OSError)):
        case.ask()


@pytest.mark.parametrize("asked", ["before", "then"])
def test_who_knows_that_it_is_broken_says_so(case: Case, asked: str) -> None:
    asking = gevent.spawn(case.reading.answers, 5) if asked == "before" else None
    gevent.sleep(0)
    case.reading.fail(OSError("cut"))
    with pytest.raises(OSError, match="cut"):
        case.ask() if asking is None else asking.get()


def test_no_protocol_is_an_error_and_an_error_an_answer(case: Case) -> None:
    case.theirs.sendall(b"-MOVED 1 127.0.0.1:7000\r\n")
    [error] = case.ask() or []
    assert isinstance(error, exceptions.ResponseError)
    assert str(error).startswith("MOVED ")
    case.theirs.sendall(b"GET / HTTP/1.1\r\n")
    with pytest.raises(exceptions.InvalidResponse):
        case.ask()


def test_the_timeout_of_who_sends_is_left_as_it_was(case: Case) -> None:
    case.say(1)
    case.ask(0.1)
    assert case.ours.gettimeout() == 5


def test_an_error_of_who_takes_is_raised_where_somebody_waits() -> None:
    def take(answer: Any) -> bool:
        raise ValueError(answer)

    case = Case(PLAIN)
    case.reading.close()
    case.reading = Reading(case.ours, take)
    case.say(1)
    with pytest.raises(ValueError, match="1"):
        case.ask()
    case.close()
