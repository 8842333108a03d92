"""Sends the same bytes to many sockets with one system call, over Linux's io_uring.

Names, numbers and structures are those of ``linux/io_uring.h``, a stable interface of the kernel.

An io_uring is two ring buffers in memory that this process and the kernel share. The submission queue (SQ) names
requests, the completion queue (CQ) their results. Each has a ``head``, moved by its consumer, and a ``tail``, moved by
its producer: 32-bit counters that wrap around, taken modulo the size of the ring.

    ring  head is moved by  tail is moved by
    SQ    the kernel        this process
    CQ    this process      the kernel

Why this is safe without a memory barrier or a pinned buffer: there is no submission thread (``IORING_SETUP_SQPOLL``),
so the kernel touches the rings only inside ``io_uring_enter``. Every request is a ``send`` with ``MSG_DONTWAIT``, which
the kernel completes inside that same call: it tries the socket once and posts the result. So nothing is in flight
between two calls, and no buffer or descriptor is used after the call that names it.
"""

from __future__ import annotations

import ctypes
import logging
import mmap
import os
import socket
import sys
from array import array
from collections.abc import Callable
from contextlib import closing, suppress
from ctypes import c_int32, c_uint8, c_uint16, c_uint32, c_uint64, sizeof
from errno import EAGAIN, EBADF, EIO, ENOSYS
from typing import Literal

log = logging.getLogger(__name__)

ENTRIES = 128  # size of the submission queue: the most sockets of one call

SYS_io_uring_setup, SYS_io_uring_enter = 425, 426
IORING_SETUP_SUBMIT_ALL = 1 << 7  # Linux 5.18: an entry that the kernel rejects does not stop those after it
IORING_FEAT_SINGLE_MMAP = 1 << 0  # one mapping holds both rings
IORING_OFF_SQ_RING = 0
IORING_OFF_SQES = 0x10000000
IORING_ENTER_GETEVENTS = 1 << 0
IORING_OP_SEND = 26

SystemCall = Callable[..., int]  # syscall(2): takes the number of the call and six arguments


class IoUringSqe(ctypes.Structure):
    """Submission queue entry: one request."""

    _fields_ = [
        ("opcode", c_uint8), ("flags", c_uint8), ("ioprio", c_uint16), ("fd", c_int32),
        ("off", c_uint64), ("addr", c_uint64),
        ("len", c_uint32), ("msg_flags", c_uint32), ("user_data", c_uint64),
        ("buf_index", c_uint16), ("personality", c_uint16), ("splice_fd_in", c_int32),
        ("addr3", c_uint64), ("__pad2", c_uint64),
    ]  # fmt: skip


class IoUringCqe(ctypes.Structure):
    """Completion queue entry: ``res`` is what the request returned, or a negative errno."""

    _fields_ = [("user_data", c_uint64), ("res", c_int32), ("flags", c_uint32)]


class IoSqringOffsets(ctypes.Structure):
    """Where the fields of the submission queue are in its mapping. ``array`` holds the order of the entries."""

    _names = "head", "tail", "ring_mask", "ring_entries", "flags", "dropped", "array", "resv1"
    _fields_ = [*((name, c_uint32) for name in _names), ("user_addr", c_uint64)]


class IoCqringOffsets(ctypes.Structure):
    """Where the fields of the completion queue are in its mapping."""

    _names = "head", "tail", "ring_mask", "ring_entries", "overflow", "cqes", "flags", "resv1"
    _fields_ = [*((name, c_uint32) for name in _names), ("user_addr", c_uint64)]


class IoUringParams(ctypes.Structure):
    """The argument of ``io_uring_setup``: the caller sets ``flags``, the kernel everything else."""

    _names = "sq_entries", "cq_entries", "flags", "sq_thread_cpu", "sq_thread_idle", "features", "wq_fd"
    _fields_ = [
        *((name, c_uint32) for name in _names), ("resv", c_uint32 * 3),
        ("sq_off", IoSqringOffsets), ("cq_off", IoCqringOffsets),
    ]  # fmt: skip


_COUNTER = 0xFFFFFFFF  # heads and tails have 32 bits
_SQE, _CQE = sizeof(IoUringSqe), sizeof(IoUringCqe)

_leaked: list[bytes] = []  # data of broken rings: a kernel that did not complete every request may still read them


class UringSender:
    """Sends through an io_uring of its own. Raises OSError where the kernel grants none.

    ``broken`` is true once the kernel did not complete every request. The sender must not be used again then.
    """

    def __init__(self, call: SystemCall | None = None) -> None:
        self.broken = False
        self._call = call or system_call()
        params = IoUringParams(flags=IORING_SETUP_SUBMIT_ALL)
        self._fd = self._call(SYS_io_uring_setup, ENTRIES, ctypes.addressof(params), 0, 0, 0, 0)
        if self._fd < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
        try:
            self._map(params)
            self._check()
        except BaseException:
            self.close()
            raise

    def _map(self, params: IoUringParams) -> None:
        """Map the shared memory, fill in what never changes, and lay a column over each field that does."""
        sq, cq, self._cq_entries = params.sq_off, params.cq_off, params.cq_entries
        if not params.features & IORING_FEAT_SINGLE_MMAP or params.sq_entries != ENTRIES:
            raise OSError(ENOSYS, "the kernel's io_uring has an unknown layout")
        size = max(sq.array + ENTRIES * sizeof(c_uint32), cq.cqes + self._cq_entries * _CQE)
        shared = mmap.MAP_SHARED | mmap.MAP_POPULATE
        rings = memoryview(mmap.mmap(self._fd, size, flags=shared, offset=IORING_OFF_SQ_RING))
        sqes = memoryview(mmap.mmap(self._fd, ENTRIES * _SQE, flags=shared, offset=IORING_OFF_SQES))
        flags = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
        for index in range(ENTRIES):
            sqe = IoUringSqe(opcode=IORING_OP_SEND, fd=-1, msg_flags=flags, user_data=index)
            sqes[index * _SQE : (index + 1) * _SQE] = bytes(sqe)
        # Entry n of the ring is always entry n of the table: the order of submission is the order of the table.
        _counters(rings, sq.array, ENTRIES)[:] = array("I", range(ENTRIES))
        self._sq_head, self._sq_tail = _counters(rings, sq.head), _counters(rings, sq.tail)
        self._cq_head, self._cq_tail = _counters(rings, cq.head), _counters(rings, cq.tail)
        self._fds = _column(sqes, IoUringSqe, "fd", "i")
        self._addrs = _column(sqes, IoUringSqe, "addr", "Q")
        self._lens = _column(sqes, IoUringSqe, "len", "I")
        self._cqes = rings[cq.cqes : cq.cqes + self._cq_entries * _CQE]
        # The completions of a call in which every socket takes everything.
        self._complete = bytearray().join(bytes(IoUringCqe(user_data=index)) for index in range(ENTRIES))
        self._complete_res = _column(memoryview(self._complete), IoUringCqe, "res", "i")
        self._data = b""

    @property
    def room(self) -> int:
        """Return how many sockets the next call may have. It never wraps around the end of the ring."""
        return ENTRIES - self._sq_head[0] % ENTRIES

    def send(self, descriptors: array[int], data: bytes) -> dict[int, int]:
        """Send bytes to at most ``room`` sockets; return the sockets that did not take all of them.

        The result holds, by index, the number of bytes taken or a negative errno. Entries are written and completions
        compared as whole columns: that makes the cost in Python of one more socket next to nothing.
        """
        if data is not self._data:
            self._set_data(data)
        # Start where the kernel stands, not where the last call meant to end: an exception may have cut it short.
        count, head, completed = len(descriptors), self._sq_head[0], self._cq_tail[0]
        self._cq_head[0] = completed
        index = head % ENTRIES
        self._fds[index : index + count] = descriptors
        self._sq_tail[0] = (head + count) & _COUNTER
        submitted = self._call(SYS_io_uring_enter, self._fd, count, 0, IORING_ENTER_GETEVENTS, 0, 0)
        arrived = (self._cq_tail[0] - completed) & _COUNTER
        # Contiguous: both rings advance together, and the size of this one is a multiple of the other's.
        start = completed % self._cq_entries * _CQE
        cqes = self._cqes[start : start + arrived * _CQE].tobytes()
        self._cq_head[0] = self._cq_tail[0]
        if cqes == self._complete[index * _CQE : (index + count) * _CQE]:
            return {}
        results = {cqe.user_data - index: cqe.res for cqe in (IoUringCqe * arrived).from_buffer_copy(cqes)}
        if len(results) < count:
            self._break()
            # Unsubmitted sends wrote nothing; the outcome of submitted ones without a completion is unknown.
            results = dict.fromkeys(range(count), -EAGAIN) | dict.fromkeys(range(max(submitted, 0)), -EIO) | results
        return {index: result for index, result in results.items() if result != len(data)}

    def _set_data(self, data: bytes) -> None:
        """Let all entries send these bytes.

        Bytes objects do not move, and ``_data`` keeps this one alive as long as the entries name its address.
        """
        self._data = data
        address = ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value or 0
        self._addrs[:] = array("Q", [address]) * ENTRIES
        self._lens[:] = array("I", [len(data)]) * ENTRIES
        self._complete_res[:] = array("i", [len(data)]) * ENTRIES

    def _break(self) -> None:
        log.warning("io_uring failed: each delivery takes a system call from now on")
        self.broken = True
        _leaked.append(self._data)
        self.close()

    def _check(self) -> None:
        """Raise OSError unless the kernel completes sends as described above: some sandboxes imitate Linux."""
        ours, theirs = socket.socketpair()
        full, reader = socket.socketpair()
        with closing(ours), closing(theirs), closing(full), closing(reader):
            full.setblocking(False)
            with suppress(BlockingIOError):
                while True:
                    full.send(bytes(65_536))
            theirs.setblocking(False)
            short = self.send(array("i", [-1, full.fileno(), ours.fileno()]), b"ring")
            if short != {0: -EBADF, 1: -EAGAIN} or theirs.recv(5) != b"ring":
                raise OSError(ENOSYS, "the kernel's io_uring failed its test")

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _counters(rings: memoryview, offset: int, count: int = 1) -> memoryview:
    """Return ``count`` 32-bit numbers at an offset of the rings."""
    return rings[offset : offset + count * sizeof(c_uint32)].cast("I")


def _column(
    entries: memoryview, structure: type[ctypes.Structure], name: str, code: Literal["i", "I", "Q"]
) -> memoryview:
    """Return one field of all entries as a writable column; ``code`` is its type as in ``array``."""
    field = getattr(structure, name)
    column: memoryview = entries.cast(code)[field.offset // field.size :: sizeof(structure) // field.size]
    return column


def system_call() -> SystemCall:
    """Return syscall(2); raise OSError where there is no Linux."""
    if sys.platform != "linux":
        raise OSError(ENOSYS, "io_uring exists only on Linux")
    call = ctypes.CDLL(None, use_errno=True).syscall
    call.restype = ctypes.c_long
    call.argtypes = [ctypes.c_long] * 7
    return call
