"""Bytes for many sockets: each gets them once, and who does not take all of them is told, whichever way they go."""

import os
import socket
import struct
from array import array
from contextlib import ExitStack
from errno import EAGAIN, EBADF, EIO, EPIPE

import pytest

from pushsvc.hub.delivery import sender
from pushsvc.hub.delivery import uring as ring_module
from pushsvc.hub.delivery.uring import SLOTS, Ring


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
        part = array("i", descriptors[start : start + sender.room])
        short |= {start + index: sent for index, sent in sender.send(part, data).items()}
        start += len(part)
    return short


def numbers(pairs):
    return array("i", [ours.fileno() for ours, _ in pairs])


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
    sent = offered = 0
    for _ in range(3 * SLOTS):
        assert 1 <= ring.room <= SLOTS
        count = min(ring.room, 7)
        assert ring.send(numbers(made) * count, b"x") == {}
        sent += len(made[0][1].recv(100))
        offered += count
    assert sent == offered > 2 * SLOTS


def test_counters_of_32_bits_go_round(ring, pairs):
    """So many sends take hours: the counters are ours, and the sockets the kernel's."""
    made = pairs(20)
    begin, tail, head, end = (array("I", [2**32 - 200]) for _ in range(4))
    answers = memoryview(bytearray(2 * SLOTS * 16))

    def call(_number, _fd, count, *_):
        assert (tail[0] - begin[0]) % 2**32 == count
        assert head == end
        for _ in range(count):
            slot, sent = begin[0] % SLOTS, os.write(ring._descriptors[begin[0] % SLOTS], ring._data)
            struct.pack_into("QiI", answers, end[0] % (2 * SLOTS) * 16, slot, sent, 0)
            begin[0], end[0] = (begin[0] + 1) % 2**32, (end[0] + 1) % 2**32
        return count

    ring._begin, ring._tail, ring._head, ring._end, ring._answers, ring._call = begin, tail, head, end, answers, call
    for turn in range(30):
        data = b"%d" % turn
        assert offer(ring, numbers(made), data) == {}
        assert [theirs.recv(10) for _, theirs in made] == [data] * 20
    assert begin[0] == end[0] == 400


@pytest.mark.parametrize("after", [False, True])
def test_an_error_of_ours_in_a_call_leaves_nothing_for_the_next(ring, pairs, after):
    made = pairs(6)
    call = ring._call

    def failing(*args):
        if after:
            call(*args)
        raise MemoryError

    ring._call = failing
    with pytest.raises(MemoryError):
        ring.send(numbers(made[:3]), b"lost")
    ring._call = call
    made[4][1].close()
    assert ring.send(numbers(made[3:]), b"next") == {1: -EPIPE}
    assert [theirs.recv(10) for _, theirs in (made[3], made[5])] == [b"next"] * 2
    assert [_readable(theirs) for _, theirs in made[:3]] == [b"l" if after else b""] * 3


def test_who_does_not_take_all_is_named_with_what_it_took(any_sender, pairs):
    made = pairs(4)
    fill(made[1][0])
    made[2][1].close()
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as part:
        part.setblocking(False)
        part.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
        data = bytes(1_000_000)
        assert any_sender.send(numbers(made)[:1], b"a") == {}
        short = offer(any_sender, [*numbers(made)[1:3], -1, part.fileno(), made[3][0].fileno()], data[:100])
        assert short == {0: -EAGAIN, 1: -EPIPE, 2: -EBADF}
        short = offer(any_sender, [-1, part.fileno()], data)
        assert short[0] == -EBADF
        assert 0 < short[1] < len(data)


def test_what_was_not_taken_is_not_sent_later(any_sender, pairs):
    """The kernel must not wait for room on its own: the same bytes are offered again."""
    ((ours, theirs),) = pairs(1)
    fill(ours)
    assert offer(any_sender, [ours.fileno()], b"late") == {0: -EAGAIN}
    theirs.setblocking(False)
    rest = b""
    while got := _take(theirs):
        rest += got
    assert b"late" not in rest
    assert not _take(theirs)
    assert offer(any_sender, [ours.fileno()], b"late") == {}
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
