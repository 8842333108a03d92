"""A wait for what comes next on a connection, in which it is offered first to somebody who may answer it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from gevent import get_hub

from pushsvc.server.transport import Transport

SIZE = 8_192
"""Bytes of what may be taken: a small request whole, or some that a client sends without waiting."""


class Taken(NamedTuple):
    """How many bytes were taken, none perhaps, and whether what is behind them begins another such request."""

    size: int
    goes_on: bool


class Closing(Exception):
    """The peer was told that the connection closes. ``more``: it has sent something behind what was answered."""

    def __init__(self, *, more: bool) -> None:
        super().__init__()
        self.more = more


class Offer:
    """One wait. ``take`` is shown what comes, in the loop's own greenlet. What it takes is to be answered by ``reply``
    or given back by ``give_back``; until then nothing more is read. ``waits`` is called when the next is waited for
    behind an answer, and when the first piece of it is there: it is told whether that is so. Not for TLS.
    """

    __slots__ = (
        "_behind", "_goes_on", "_held", "_last", "_over", "_take", "_taken", "_transport", "_unsent", "_waits",
        "given_back",
    )  # fmt: skip

    def __init__(
        self, transport: Transport, take: Callable[[bytes, Offer], Taken], waits: Callable[[bool], None]
    ) -> None:
        self._transport = transport
        self._take = take
        self._waits = waits
        self._taken = self._held = False  # what came waits for a reply; and more of it came
        self._behind = b""  # what came, behind bytes that were taken or before any were
        self._goes_on = False  # it is the beginning of something to be taken
        self._unsent = b""
        self._last = self._over = False
        self.given_back = False

    def wait(self) -> bytes | None:
        """Return what comes and is not taken, nothing at the end; None where an answer was sent late, so that a new
        wait begins. Raise Closing behind an answer that is the last, or what ``Transport.receive`` raises."""
        try:
            data: bytes | None = self._transport.watch(self._look)
        finally:
            self._over = True
        if self._unsent:
            self._transport.send(self._unsent)
        if self._last:
            raise Closing(more=self._held or bool(self._behind))
        if self._unsent and not self._held:
            return self._behind or None
        if data is None:
            return self._behind or self._transport.receive()
        return data + self._behind

    def _look(self) -> None:
        if self._taken:  # a client that does not wait for answers
            self._held = True
            self._transport.stop_watching()
            return
        try:
            data = self._transport.sock.recv(SIZE)
        except BlockingIOError:
            return
        except OSError:
            self._end(None)  # and who was waiting will find out
            return
        if data:
            before, self._behind = self._behind, b""
            data = before + data
            size, self._goes_on = self._take(data, self)
            if size or self._goes_on:
                self._taken, self._behind = bool(size), data[size:]
                if not size and not before:  # it has its time from the first piece on, however many follow
                    self._waits(True)
                return
        self._end(data)

    def reply(self, data: bytes, *, keep: bool) -> None:
        """Send what answers bytes that were taken, the last answer unless ``keep``. Does not wait."""
        if self._over:
            return  # the connection has ended meanwhile
        try:
            sent = self._transport.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            sent = len(data)  # and the next read finds out
        self._unsent, self._last = data[sent:], not keep
        if self._unsent or self._last or (self._behind and not self._goes_on):
            self._end_later(None)  # nothing is taken before
            return
        self._taken = False
        if self._held:
            self._held = False
            self._transport.watch_again(self._look)
        self._waits(bool(self._behind))

    def give_back(self, data: bytes) -> None:
        """Let bytes that were taken be received after all."""
        self.given_back = True
        self._end_later(data)

    def _end_later(self, data: bytes | None) -> None:
        get_hub().loop.run_callback(self._end, data)

    def _end(self, data: bytes | None) -> None:
        if not self._over:
            self._transport.resume(data)
