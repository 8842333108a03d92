"""Every socket gets the bytes once, and those that do not take all of them are returned, by each kind of sender."""

import ctypes
import mmap
import os
import socket
import sys
from array import array
from contextlib import ExitStack
from ctypes import sizeof
from errno import EAGAIN, EBADF, EIO, EPIPE

import pytest

from pushsvc.hub.delivery import sender, uring
from pushsvc.hub.delivery.uring import (
    ENTRIES,
    IORING_FEAT_SINGLE_MMAP,
    IORING_OFF_SQES,
    IORING_OP_SEND,
    IoUringCqe,
    IoUringParams,
    IoUringSqe,
    SYS_io_uring_enter,
    SYS_io_uring_setup,
    UringSender,
    system_call,
)


class Kernel:
    """The system calls of a sender. A test may put ``intercept`` in front of them."""

    def __init__(self):
        self._call = system_call()
        self.intercept = None

    def __call__(self, *arguments):
        return self._call(*arguments) if self.intercept is None else self.intercept(self._call, *arguments)


@pytest.fixture
def kernel():
    try:
        return Kernel()
    except OSError as error:
        pytest.skip(str(error))


@pytest.fixture
def ring(kernel):
    try:
        made = UringSender(kernel)
    except OSError as error:
        pytest.skip(f"this kernel grants no io_uring: {error.strerror}")
    yield made
    made.close()


@pytest.fixture(params=["io_uring", "syscalls"])
def any_sender(request):
    return request.getfixturevalue("ring") if request.param == "io_uring" else sender.SyscallSender()


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


def test_every_socket_gets_the_bytes_as_often_as_they_are_sent(any_sender, pairs):
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


def test_room_is_between_one_and_the_entries(ring, pairs):
    made = pairs(1)
    sent = offered = 0
    for _ in range(3 * ENTRIES):
        assert 1 <= ring.room <= ENTRIES
        count = min(ring.room, 7)
        assert ring.send(numbers(made) * count, b"x") == {}
        sent += len(made[0][1].recv(100))
        offered += count
    assert sent == offered > 2 * ENTRIES


class Ring:
    """The kernel's side of an io_uring in a file of memory, whose counters begin at ``start``."""

    def __init__(self, start):
        self._start = start

    def __call__(self, number, *arguments):
        return {SYS_io_uring_setup: self._setup, SYS_io_uring_enter: self._enter}[number](*arguments)

    def _setup(self, entries, address, *_):
        params = IoUringParams.from_address(address)
        params.sq_entries, params.cq_entries, params.features = entries, 2 * entries, IORING_FEAT_SINGLE_MMAP
        params.sq_off.head, params.sq_off.tail, params.cq_off.head, params.cq_off.tail = 0, 4, 8, 12
        params.sq_off.array, params.cq_off.cqes = 16, 16 + 4 * entries
        fd = os.memfd_create("ring")
        os.ftruncate(fd, IORING_OFF_SQES + entries * sizeof(IoUringSqe))
        rings = mmap.mmap(fd, params.cq_off.cqes + params.cq_entries * sizeof(IoUringCqe))
        self._sqes = (IoUringSqe * entries).from_buffer(
            mmap.mmap(fd, entries * sizeof(IoUringSqe), offset=IORING_OFF_SQES)
        )
        self._cqes = (IoUringCqe * params.cq_entries).from_buffer(rings, params.cq_off.cqes)
        self._order = (ctypes.c_uint32 * entries).from_buffer(rings, params.sq_off.array)
        self.counters = (ctypes.c_uint32 * 4).from_buffer(rings)  # heads and tails of the SQ and the CQ
        self.counters[:] = [self._start] * 4
        return fd

    def _enter(self, _fd, count, *_):
        sq_head, sq_tail, cq_head, cq_tail = self.counters
        assert (sq_tail - sq_head) % 2**32 == count
        assert cq_head == cq_tail
        for number in range(count):
            sqe = self._sqes[self._order[(sq_head + number) % len(self._sqes)]]
            assert sqe.opcode == IORING_OP_SEND
            try:
                sent = os.write(sqe.fd, ctypes.string_at(sqe.addr, sqe.len))
            except OSError as error:
                sent = -error.errno
            self._cqes[(cq_tail + number) % len(self._cqes)] = IoUringCqe(sqe.user_data, sent, 0)
        self.counters[0], self.counters[3] = sq_head + count, cq_tail + count  # they wrap around
        return count


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has io_uring and files of memory")
def test_counters_wrap_around_at_32_bits(pairs):
    """So many sends take hours, so the kernel's side begins near the end of its counters."""
    made, kernel = pairs(20), Ring(2**32 - 200)
    ring = UringSender(kernel)
    begin = kernel.counters[0]
    assert begin > 2**32 - 200, "the sender has tested the ring"
    for turn in range(30):
        data = b"%d" % turn
        assert offer(ring, numbers(made), data) == {}
        assert [theirs.recv(10) for _, theirs in made] == [data] * 20
    ring.close()
    assert list(kernel.counters) == [(begin + 600) % 2**32] * 4


@pytest.mark.parametrize("after", [False, True])
def test_exception_during_a_call_leaves_nothing_for_the_next(ring, kernel, pairs, after):
    made = pairs(6)

    def failing(call, *args):
        if after:
            call(*args)
        raise MemoryError

    kernel.intercept = failing
    with pytest.raises(MemoryError):
        ring.send(numbers(made[:3]), b"lost")
    kernel.intercept = None
    made[4][1].close()
    assert ring.send(numbers(made[3:]), b"next") == {1: -EPIPE}
    assert [theirs.recv(10) for _, theirs in (made[3], made[5])] == [b"next"] * 2
    assert [_readable(theirs) for _, theirs in made[:3]] == [b"l" if after else b""] * 3


def test_short_and_failed_sends_are_returned(any_sender, pairs):
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


def test_bytes_that_were_not_taken_are_not_sent_later(any_sender, pairs):
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


def test_calls_open_no_files(ring, pairs):
    made = pairs(50)
    before = len(os.listdir("/proc/self/fd"))
    for number in range(1_000):
        assert offer(ring, [*numbers(made), -1], b"%09d" % number) == {50: -EBADF}
        for _, theirs in made:
            theirs.recv(100)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("submitted", [-1, 0, 3])
def test_sender_whose_kernel_submits_too_few_is_broken(ring, kernel, pairs, submitted):
    """Unsubmitted sends wrote nothing, so they may be repeated."""
    made = pairs(5)

    def broken(call, number, *args):
        if submitted <= 0:
            return submitted
        return call(number, args[0], submitted, *args[2:])

    kernel.intercept = broken
    short = ring.send(numbers(made), b"some")
    tried = max(submitted, 0)
    assert short == dict.fromkeys(range(tried, 5), -EAGAIN)
    assert ring.broken
    assert [_readable(theirs) for _, theirs in made] == [b"s"] * tried + [b""] * (5 - tried)


def test_submitted_send_without_a_completion_fails(ring, kernel, pairs):
    """Its outcome is unknown: the socket may have taken something, so its stream must end."""
    made = pairs(3)
    kernel.intercept = lambda *_: 3
    assert ring.send(numbers(made), b"some") == dict.fromkeys(range(3), -EIO)


def test_without_io_uring_each_socket_gets_a_system_call(monkeypatch):
    def refused():
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(uring, "system_call", refused)
    assert isinstance(sender.choose_sender(io_uring=True), sender.SyscallSender)
    assert isinstance(sender.choose_sender(io_uring=False), sender.SyscallSender)


def test_kernel_that_does_not_send_is_found_out(ring, monkeypatch):
    monkeypatch.setattr(UringSender, "send", lambda *_: {})
    with pytest.raises(OSError, match="failed its test"):
        UringSender()
