"""Bytes for many sockets: each gets them once, and who does not take all of them is told, whichever way they go."""

import os
import socket
from contextlib import ExitStack
from errno import EAGAIN, EBADF, EIO, EPIPE

import pytest

from pushsvc.hub import ring as ring_module
from pushsvc.hub import sender
from pushsvc.hub.ring import SLOTS, Ring


@pytest.fixture
def ring():
    try:
        made = Ring()
    except OSError as error:
        pytest.skip(f"this kernel has no io_uring for us: {error.strerror}")
    yield made
    made.close()


@pytest.fixture(params=["ring", "writes"])
def any_sender(request):
    return request.getfixturevalue("ring") if request.param == "ring" else sender.Writes()


@pytest.fixture
def pairs():
    with ExitStack() as stack:

        def make(count):
            made = [socket.socketpair() for _ in range(count)]
            for ours, theirs in made:
                stack.enter_context(ours).setblocking(False)
                stack.enter_context(theirs)
            return made

        yield make


def fill(ours):
    try:
        while True:
            ours.send(bytes(65_536))
    except BlockingIOError:
        pass


def offer(sender, descriptors, data):
    """Send to any number of sockets."""
    short, start = {}, 0
    while start < len(descriptors):
        part = descriptors[start : start + sender.room]
        short |= {start + index: sent for index, sent in sender.send(part, data).items()}
        start += len(part)
    return short


def numbers(pairs):
    return [ours.fileno() for ours, _ in pairs]


def test_each_gets_all_of_it_as_often_as_it_is_sent(any_sender, pairs):
    made = pairs(20)
    for turn in range(100):
        here = made[: turn % 20 + 1]
        data = b"%03d" % turn * 10
        assert offer(any_sender, numbers(here), data) == {}
        assert all(theirs.recv(100) == data for _, theirs in here)
    assert not any(_readable(theirs) for _, theirs in made)


def _readable(sock):
    sock.setblocking(False)
    try:
        return sock.recv(1)
    except BlockingIOError:
        return b""


def test_there_is_always_room_and_never_more_than_the_slots(ring, pairs):
    made = pairs(1)
    for _ in range(3 * SLOTS):
        assert 1 <= ring.room <= SLOTS
        ring.send(numbers(made) * min(ring.room, 7), b"x")
    assert len(made[0][1].recv(10 * 7 * SLOTS)) > 2 * SLOTS


def test_who_does_not_take_all_is_named_with_what_it_took(any_sender, pairs):
    made = pairs(4)
    fill(made[1][0])
    made[2][1].close()
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as part:
        part.setblocking(False)
        part.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
        data = bytes(1_000_000)
        assert any_sender.send(numbers(made)[:1], b"a") == {}
        short = any_sender.send([*numbers(made)[1:3], -1, part.fileno(), made[3][0].fileno()], data[:100])
        assert short == {0: -EAGAIN, 1: -EPIPE, 2: -EBADF}
        short = any_sender.send([-1, part.fileno()], data)
        assert short[0] == -EBADF
        assert 0 < short[1] < len(data)


def test_what_was_not_taken_is_not_sent_later(any_sender, pairs):
    """The kernel must not wait for room on its own: the same bytes are offered again."""
    ((ours, theirs),) = pairs(1)
    fill(ours)
    assert any_sender.send([ours.fileno()], b"late") == {0: -EAGAIN}
    theirs.setblocking(False)
    rest = b""
    while got := _take(theirs):
        rest += got
    assert b"late" not in rest
    assert not _take(theirs)
    assert any_sender.send([ours.fileno()], b"late") == {}
    assert theirs.recv(10) == b"late"


def _take(sock):
    try:
        return sock.recv(1 << 20)
    except BlockingIOError:
        return b""


def test_a_thousand_calls_leave_nothing_behind(ring, pairs):
    made = pairs(50)
    before = len(os.listdir("/proc/self/fd"))
    for number in range(1_000):
        assert offer(ring, [*numbers(made), -1], b"%09d" % number) == {50: -EBADF}
        for _, theirs in made:
            theirs.recv(100)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("submitted", [-1, 0, 3])
def test_a_ring_of_a_kernel_that_breaks_off_is_not_used_again(ring, pairs, submitted):
    """Who was not tried has taken nothing, and who was tried without an answer is ended: it may have got something."""
    made = pairs(5)
    call = ring._call

    def broken(number, *args):
        if submitted <= 0:
            return submitted
        return call(number, args[0], submitted, *args[2:])

    ring._call = broken
    short = ring.send(numbers(made), b"some")
    tried = max(submitted, 0)
    assert short == dict.fromkeys(range(tried, 5), -EAGAIN)
    assert ring.broken
    assert [_readable(theirs) for _, theirs in made] == [b"s"] * tried + [b""] * (5 - tried)
    ring_module._kept.clear()


def test_an_answer_that_does_not_come_ends_the_stream(ring, pairs):
    made = pairs(3)
    ring._call = lambda *_: 3
    assert ring.send(numbers(made), b"some") == dict.fromkeys(range(3), -EIO)
    ring_module._kept.clear()


def test_without_a_ring_each_socket_is_written_to(monkeypatch):
    def refused():
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(ring_module, "_system_call", refused)
    assert isinstance(sender.best(io_uring=True), sender.Writes)
    assert isinstance(sender.best(io_uring=False), sender.Writes)


def test_a_kernel_that_sends_otherwise_is_found_out(ring, monkeypatch):
    monkeypatch.setattr(Ring, "send", lambda *_: {})
    with pytest.raises(OSError, match="as it should"):
        Ring()
