"""Replies on the live connection: handled in the loop, or left in their order for a greenlet. Over real sockets."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from time import monotonic
from typing import Any

import gevent
import pytest
from redis import exceptions

from pushsvc.broker.reply_reader import ReplyReader
from support.peer import tls_pair
from support.waiting import turn_until

PLAIN, SECURE = "plain", "TLS"


class Case:
    """A reader, and Redis's end of its socket. The reader handles numbers below 100."""

    def __init__(self, kind: str) -> None:
        ours, self.theirs = socket.socketpair()
        if kind == SECURE:
            for end in (ours, self.theirs):
                end.setblocking(False)
            ours, self.theirs = tls_pair(ours, self.theirs)
            self.theirs.setblocking(True)
        ours.settimeout(5)
        self.ours = ours
        self.handled: list[Any] = []
        self.pause = 0.0
        self.reader = ReplyReader(ours, self._handle, lambda: self.pause)

    def _handle(self, reply: Any) -> bool:
        handled = isinstance(reply, int) and reply < 100
        if handled:
            self.handled.append(reply)
        return handled

    def send(self, *numbers: int) -> None:
        self.theirs.sendall(b"".join(b":%d\r\n" % number for number in numbers))

    def replies(self, silence: float = 5.0) -> list[Any] | None:
        return gevent.spawn(self.reader.replies, silence).get()

    def close(self) -> None:
        self.reader.close()
        self.ours.close()
        self.theirs.close()


@pytest.fixture(params=[PLAIN, SECURE])
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    made = Case(request.param)
    yield made
    made.close()


def test_an_unhandled_reply_is_left_in_order_with_all_later_ones(case: Case) -> None:
    case.send(1, 2, 100, 3, 101, 4)
    assert case.replies() == [100, 3, 101, 4]
    assert case.handled == [1, 2]
    case.send(5)
    assert case.replies(0.2) is None
    assert case.handled == [1, 2, 5]


def test_nothing_is_read_until_replies_is_called_again(case: Case) -> None:
    case.send(100)
    assert case.replies() == [100]
    case.send(1)
    gevent.sleep(0.05)
    assert case.handled == []
    assert case.replies(0.2) is None
    assert case.handled == [1]


def test_silence_is_counted_from_the_last_data(case: Case) -> None:
    begun = monotonic()
    assert case.replies(0.1) is None
    assert monotonic() - begun >= 0.1
    waiting = gevent.spawn(case.reader.replies, 2)
    for _ in range(4):
        gevent.sleep(0.3)
        case.send(1)
        last = monotonic()
    assert waiting.get() is None
    assert monotonic() - last >= 1.99
    assert case.handled == [1] * 4


def test_a_reply_may_arrive_byte_by_byte(case: Case) -> None:
    waiting = gevent.spawn(case.reader.replies, 5)
    for byte in b"*2\r\n$3\r\none\r\n:12\r\n":
        case.theirs.sendall(bytes([byte]))
        gevent.sleep(0.001)
    assert waiting.get() == [[b"one", 12]]


def test_a_burst_is_read_to_its_end(case: Case) -> None:
    """TLS holds data that no poll of the socket shows: it must not stay there until more arrives."""
    waiting = gevent.spawn(case.reader.replies, 5)
    for start in range(0, 20_000, 2_000):
        case.send(*[number % 100 for number in range(start, start + 2_000)])
        turn_until(lambda: len(case.handled) == start + 2_000)  # noqa: B023
    case.send(100)
    assert waiting.get() == [100]


def test_what_comes_during_a_pause_is_read_after_it(case: Case) -> None:
    case.pause = 0.2
    case.send(1)
    waiting = gevent.spawn(case.reader.replies, 5)
    turn_until(lambda: case.handled == [1])
    begun = monotonic()
    case.send(2, 100)
    assert waiting.get() == [100]
    assert case.handled == [1, 2]
    assert monotonic() - begun > 0.1, "a part of the pause was left"


@pytest.mark.parametrize("end", ["close", "fail"])
def test_a_reader_can_end_during_a_pause(case: Case, end: str) -> None:
    case.pause = 0.05
    case.send(1)
    assert case.replies(0.2) is None
    waiting = gevent.spawn(case.reader.replies, 5)
    turn_until(lambda: case.handled == [1])
    case.send(2)
    if end == "fail":
        case.reader.fail(OSError("cut"))
        with pytest.raises(OSError, match="cut"):
            waiting.get()
    else:
        case.reader.close()
        waiting.kill()
    gevent.sleep(0.1)
    assert case.handled == [1]


def test_the_end_is_raised_after_the_replies_before_it(case: Case) -> None:
    case.send(1, 100)
    case.theirs.close()
    assert case.replies() == [100]
    with pytest.raises((exceptions.ConnectionError, OSError)):
        case.replies()


@pytest.mark.parametrize("waits", ["before", "after"])
def test_fail_raises_its_error_in_the_waiting_greenlet(case: Case, waits: str) -> None:
    waiting = gevent.spawn(case.reader.replies, 5) if waits == "before" else None
    gevent.sleep(0)
    case.reader.fail(OSError("cut"))
    with pytest.raises(OSError, match="cut"):
        case.replies() if waiting is None else waiting.get()


def test_an_error_reply_is_a_reply_and_other_protocols_are_an_error(case: Case) -> None:
    case.theirs.sendall(b"-MOVED 1 127.0.0.1:7000\r\n")
    [error] = case.replies() or []
    assert isinstance(error, exceptions.ResponseError)
    assert str(error).startswith("MOVED ")
    case.theirs.sendall(b"GET / HTTP/1.1\r\n")
    with pytest.raises(exceptions.InvalidResponse):
        case.replies()


def test_reading_keeps_the_senders_timeout(case: Case) -> None:
    case.send(1)
    case.replies(0.1)
    assert case.ours.gettimeout() == 5


def test_an_error_of_the_handler_is_raised_in_the_waiting_greenlet() -> None:
    def handle(reply: Any) -> bool:
        raise ValueError(reply)

    case = Case(PLAIN)
    case.reader.close()
    case.reader = ReplyReader(case.ours, handle)
    case.send(1)
    with pytest.raises(ValueError, match="1"):
        case.replies()
    case.close()
