"""Sends the same bytes to many sockets, with one system call for all of them or one for each."""

from __future__ import annotations

import logging
import os
from array import array
from errno import EBADF
from operator import length_hint
from typing import Protocol

from pushsvc.hub import metrics
from pushsvc.hub.delivery.uring import UringSender

log = logging.getLogger(__name__)


class Sender(Protocol):
    """``send`` offers bytes to at most ``room`` sockets; a descriptor of -1 is none.

    It returns the sockets that did not take all of the bytes: by index, the number of bytes taken or a negative errno.
    A ``broken`` sender must not be used again.
    """

    @property
    def room(self) -> int: ...
    @property
    def broken(self) -> bool: ...
    def send(self, descriptors: array[int], data: bytes) -> dict[int, int]: ...
    def close(self) -> None: ...


class SyscallSender:
    """Makes one system call for each socket."""

    room = 64  # half a millisecond of small messages
    broken = False

    @staticmethod
    def send(descriptors: array[int], data: bytes) -> dict[int, int]:
        size, write = len(data), os.write
        short = {}
        left = iter(descriptors.tolist())
        for descriptor in left:
            try:
                sent = write(descriptor, data)
                if sent == size:
                    continue
            except OSError as error:
                sent = -(error.errno or EBADF)
            short[len(descriptors) - length_hint(left) - 1] = sent
        return short

    def close(self) -> None:
        """Do nothing."""


def choose_sender(*, io_uring: bool) -> Sender:
    """Return a sender over io_uring if it is wanted and the kernel grants it, else one that calls per socket."""
    if io_uring:
        try:
            sender = UringSender()
        except OSError as error:
            log.debug("io_uring is not used: %s", error.strerror)
        except Exception:
            log.exception("io_uring is not used")
        else:
            metrics.IO_URING.set(1)
            return sender
    metrics.IO_URING.set(0)
    return SyscallSender()
