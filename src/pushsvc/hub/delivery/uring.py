"""Sends the same bytes to many sockets with one call of the kernel: Linux's io_uring, used like a vector.

Shapes and numbers are those of ``linux/io_uring.h``, a part of the kernel's interface that does not change. Nothing is
under way between two calls: with ``MSG_DONTWAIT`` the kernel tries each socket once, within the call, and says what it
took. So no buffer or descriptor is used after the call, and there is nothing to wait for.
"""

from __future__ import annotations

import ctypes
import logging
import mmap
import os
import socket
import struct
import sys
from array import array
from collections.abc import Callable
from contextlib import closing, suppress
from errno import EAGAIN, EBADF, EIO, ENOSYS

log = logging.getLogger(__name__)

SLOTS = 128
"""Sockets of one call, at most."""

_SETUP, _ENTER = 425, 426
_SUBMIT_ALL = 1 << 7  # Linux 5.18: one that cannot be tried does not keep the others from it
_SINGLE_MMAP = 1 << 0
_OFF_RINGS, _OFF_SLOTS = 0, 0x10000000
_GETEVENTS = 1 << 0
_SEND = 26
_COUNTER = 0xFFFFFFFF
_SLOT = struct.Struct("BBHiQQIIQQQQ")  # operation, -, -, descriptor, -, address, length, flags, number of the slot, -
_RESULT = struct.Struct("QiI")  # number of the slot, what came of it, -


def _numbers(*names: str) -> list[tuple[str, type[ctypes.c_uint32]]]:
    return [(name, ctypes.c_uint32) for name in names]


class _SlotsAt(ctypes.Structure):
    """Where things stand in what is shared: the counters of the slots, and the order in which they are tried."""

    _fields_ = [*_numbers("head", "tail", "mask", "entries", "flags", "dropped", "array", "_"), ("__", ctypes.c_uint64)]


class _ResultsAt(ctypes.Structure):
    """The same of the results."""

    _fields_ = [*_numbers("head", "tail", "mask", "entries", "overflow", "cqes", "flags", "_"), ("__", ctypes.c_uint64)]


class _Params(ctypes.Structure):
    """What is asked of the kernel at the making of a ring, and what it answers."""

    _fields_ = [
        *_numbers("slots", "results", "flags", "thread_cpu", "thread_idle", "features", "wq_fd", "_", "__", "___"),
        ("slots_at", _SlotsAt),
        ("results_at", _ResultsAt),
    ]


_kept: list[bytes] = []  # what a kernel that broke its word may still read


class Ring:
    """A ring of sends. Raises OSError where the kernel has none for us.

    ``broken`` is true once the kernel did something else than it was asked to: the ring is not to be used again then.
    """

    def __init__(self) -> None:
        self.broken = False
        self._call = _system_call()
        params = _Params(flags=_SUBMIT_ALL)
        self._fd = self._call(_SETUP, SLOTS, ctypes.addressof(params), 0, 0, 0, 0)
        if self._fd < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
        try:
            self._map(params)
            self._check()
        except BaseException:
            self.close()
            raise

    def _map(self, params: _Params) -> None:
        """Lay columns over what is shared with the kernel: each field of all slots, and all results."""
        slots_at, results_at, self._results = params.slots_at, params.results_at, params.results
        if not params.features & _SINGLE_MMAP or params.slots != SLOTS:
            raise OSError(ENOSYS, "an io_uring of another kind")
        order, found = slots_at.array, results_at.cqes
        size = max(order + 4 * SLOTS, found + _RESULT.size * self._results)
        shared = mmap.MAP_SHARED | mmap.MAP_POPULATE
        rings = memoryview(mmap.mmap(self._fd, size, flags=shared, offset=_OFF_RINGS))
        table = memoryview(mmap.mmap(self._fd, _SLOT.size * SLOTS, flags=shared, offset=_OFF_SLOTS))
        for slot in range(SLOTS):
            flags = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
            _SLOT.pack_into(table, _SLOT.size * slot, _SEND, 0, 0, -1, 0, 0, 0, flags, slot, 0, 0, 0)
        rings[order : order + 4 * SLOTS].cast("I")[:] = array("I", range(SLOTS))
        self._data = b""
        self._descriptors = table.cast("i")[1::16]
        self._addresses = table.cast("Q")[2::8]
        self._lengths = table.cast("I")[6::16]
        # Of the slots the kernel moves the first counter and we the second, of the answers we the first.
        self._begin, self._tail, self._head, self._end = (
            rings[at : at + 4].cast("I") for at in (slots_at.head, slots_at.tail, results_at.head, results_at.tail)
        )
        self._answers = rings[found : found + _RESULT.size * self._results]
        self._expected = bytearray().join(_RESULT.pack(slot, 0, 0) for slot in range(SLOTS))

    @property
    def room(self) -> int:
        """How many sockets the next call may have."""
        return SLOTS - self._begin[0] % SLOTS

    def send(self, descriptors: array[int], data: bytes) -> dict[int, int]:
        """Offer bytes to sockets, at most as many as there is room. Return of each that did not take all of it, by its
        index, how many it took, or its error as a negative number.

        All fields are written and read as columns: that makes a socket cost next to nothing of Python.
        """
        if data is not self._data:
            self._put(data)
        # Both begin where the kernel stands: should an error of ours have cut a call short, nothing of it is left.
        count, begin, head = len(descriptors), self._begin[0], self._end[0]
        at, self._head[0] = begin % SLOTS, head
        self._descriptors[at : at + count] = descriptors
        self._tail[0] = (begin + count) & _COUNTER
        submitted = self._call(_ENTER, self._fd, count, 0, _GETEVENTS, 0, 0)
        answered = (self._end[0] - head) & _COUNTER
        found = head % self._results * _RESULT.size
        answers = self._answers[found : found + answered * _RESULT.size].tobytes()
        self._head[0] = self._end[0]
        if answers == self._expected[at * _RESULT.size : (at + count) * _RESULT.size]:
            return {}
        sent = {number - at: took for number, took, _ in _RESULT.iter_unpack(answers)}
        if len(sent) < count:
            self._break()
            # Who was not even tried took nothing; of who was nothing is known.
            sent = dict.fromkeys(range(count), -EAGAIN) | dict.fromkeys(range(max(submitted, 0)), -EIO) | sent
        return {index: took for index, took in sent.items() if took != len(data)}

    def _put(self, data: bytes) -> None:
        """Let all slots send some bytes. They are kept until others take their place: so an address is only theirs."""
        self._data = data
        address = ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value or 0
        self._addresses[:] = array("Q", [address]) * SLOTS
        self._lengths[:] = array("I", [len(data)]) * SLOTS
        memoryview(self._expected).cast("i")[2::4] = array("i", [len(data)]) * SLOTS

    def _break(self) -> None:
        log.warning("io_uring failed: from now on a call of the kernel for each delivery")
        self.broken = True
        _kept.append(self._data)
        self.close()

    def _check(self) -> None:
        """See that the kernel keeps what is said above: it may be another that only looks like Linux."""
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
                raise OSError(ENOSYS, "an io_uring that does not send as it should")

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _system_call() -> Callable[..., int]:
    """Return syscall(2) for six numbers."""
    if sys.platform != "linux":
        raise OSError(ENOSYS, "io_uring is Linux's")
    call = ctypes.CDLL(None, use_errno=True).syscall
    call.restype = ctypes.c_long
    call.argtypes = [ctypes.c_long] * 7
    return call
