"""Offers the same bytes to many sockets: one call of the kernel for all of them where it has one, else one for each."""

from __future__ import annotations

import logging
import os
from array import array
from errno import EBADF
from operator import length_hint
from typing import Protocol

from pushsvc.hub import metrics
from pushsvc.hub.delivery.uring import Ring

log = logging.getLogger(__name__)


class Sender(Protocol):
    """``send`` offers bytes to sockets, at most as many as there is ``room``. It returns of each that did not take all
    of it, by its index, how many it took, or its error as a negative number; -1 is no socket.

    One that is ``broken`` is not to be used again.
    """

    @property
    def room(self) -> int: ...
    @property
    def broken(self) -> bool: ...
    def send(self, descriptors: array[int], data: bytes) -> dict[int, int]: ...
    def close(self) -> None: ...


class Writes:
    """A call for each socket."""

    room = 64  # half a millisecond of small frames
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
        """Nothing to close."""


def best(*, io_uring: bool) -> Sender:
    """Return a ring where it is wanted and the kernel has one for us."""
    if io_uring:
        try:
            ring = Ring()
        except OSError as error:
            log.debug("no io_uring: %s", error.strerror)
        except Exception:
            log.exception("no io_uring")
        else:
            metrics.RINGS.set(1)
            return ring
    metrics.RINGS.set(0)
    return Writes()
