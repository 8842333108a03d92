"""A wait for the next request of a connection. A callback may claim the received bytes and answer them itself."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import NamedTuple

from gevent import get_hub

from pushsvc.server.transport import Transport

SIZE = 8_192
"""Bytes of one read: a small request, or several that a client pipelines."""


class Claim(NamedTuple):
    """How many of the offered bytes were claimed, and whether the bytes after them begin another such request."""

    size: int
    incomplete: bool


class LastAnswerSent(Exception):
    """The last answer announced that the connection closes. ``unread``: the peer has sent more bytes."""

    def __init__(self, *, unread: bool) -> None:
        super().__init__()
        self.unread = unread


class _State(Enum):
    READING = auto()  # what arrives is offered at once
    ANSWERING = auto()  # a claimed request waits for its reply
    HOLDING = auto()  # so it does, and the client did not wait: more bytes are in the socket


class PendingRead:
    """One wait for bytes. Not for TLS.

    ``claim`` gets the received bytes in gevent's hub. Bytes that it claims are answered by ``reply`` or put back by
    ``put_back``; until then nothing more is read. ``on_wait`` is called when the wait for the next request starts, and
    when the first piece of it arrives; its argument says whether that piece is there.
    """

    __slots__ = (
        "_claim", "_closing", "_incomplete", "_on_wait", "_over", "_rest", "_state", "_transport", "_unsent",
        "was_put_back",
    )  # fmt: skip

    def __init__(
        self, transport: Transport, claim: Callable[[bytes, PendingRead], Claim], on_wait: Callable[[bool], None]
    ) -> None:
        self._transport = transport
        self._claim = claim
        self._on_wait = on_wait
        self._state = _State.READING
        self._rest = b""  # bytes after the claimed ones, or an incomplete first request
        self._incomplete = False  # the rest begins a request that may be claimed
        self._unsent = b""
        self._closing = self._over = False
        self.was_put_back = False

    def wait(self) -> bytes | None:
        """Return the bytes that were not claimed, none at the end of the connection.

        None means that a reply was sent late, so a new wait must begin. Raise LastAnswerSent after the last reply, or
        what ``Transport.receive`` raises.
        """
        try:
            data: bytes | None = self._transport.wait_calling(self._read)
        finally:
            self._over = True
        if self._unsent:
            self._transport.send(self._unsent)
        if self._closing:
            raise LastAnswerSent(unread=self._state is _State.HOLDING or bool(self._rest))
        if self._unsent and self._state is not _State.HOLDING:
            return self._rest or None
        if data is None:
            return self._rest or self._transport.receive()
        return data + self._rest

    def _read(self) -> None:
        if self._state is not _State.READING:
            self._state = _State.HOLDING
            self._transport.pause_reading()
            return
        try:
            data = self._transport.sock.recv(SIZE)
        except BlockingIOError:
            return
        except OSError:
            self._end(None)  # the waiting greenlet reads again and gets the error
            return
        if data:
            before, self._rest = self._rest, b""
            data = before + data
            size, self._incomplete = self._claim(data, self)
            if size or self._incomplete:
                self._rest = data[size:]
                if size:
                    self._state = _State.ANSWERING
                if not size and not before:  # the deadline runs from the first piece, however many follow
                    self._on_wait(True)
                return
        self._end(data)

    def reply(self, data: bytes, *, keep_alive: bool) -> None:
        """Send the answer to claimed bytes; it is the last answer unless ``keep_alive``. Does not wait."""
        if self._over:
            return  # the connection has ended meanwhile
        try:
            sent = self._transport.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            sent = len(data)  # the next read gets the error
        self._unsent, self._closing = data[sent:], not keep_alive
        if self._unsent or self._closing or (self._rest and not self._incomplete):
            self._end_later(None)  # the greenlet must send, close or read first
            return
        before, self._state = self._state, _State.READING
        if before is _State.HOLDING:
            self._transport.resume_reading(self._read)
        self._on_wait(bool(self._rest))

    def put_back(self, data: bytes) -> None:
        """Return claimed bytes to the connection, which then reads them as any other."""
        self.was_put_back = True
        self._end_later(data)

    def _end_later(self, data: bytes | None) -> None:
        get_hub().loop.run_callback(self._end, data)

    def _end(self, data: bytes | None) -> None:
        if not self._over:
            self._transport.end_wait(data)
