"""The body of a request, read when it is asked for."""

from __future__ import annotations

import io
import time

from pushsvc.server.protocol import BadRequest, Request, Sized, framing
from pushsvc.server.transport import Disconnected, Overdue, Transport

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Body:
    """Takes bytes out of ``buffer``, which holds what came behind the head, and further ones from the transport.

    A body has ``seconds`` for its first byte and for each ``rate`` bytes one more: a client that sends a byte now and
    then cannot hold a place. ``fault`` is what ended it early.
    """

    def __init__(self, transport: Transport, buffer: bytearray, request: Request, seconds: float, rate: int) -> None:
        self._transport = transport
        self._buffer = buffer
        self._framing = framing(request)
        self._owed = request.expects
        self._seconds, self._rate = seconds, rate
        self._begun: float | None = None
        self._received = len(buffer)
        self.fault: Exception | None = None

    @property
    def done(self) -> bool:
        return self._framing.done

    def stream(self, length: int | None) -> io.BufferedIOBase:
        """Return the WSGI input: plain bytes where the whole body is there."""
        if isinstance(self._framing, Sized) and len(self._buffer) >= (length or 0):
            return io.BytesIO(self._framing.take(self._buffer, length or 0))
        return io.BufferedReader(_Input(self))

    def read_whole(self) -> bytes:
        """Return the body, whose length the caller has found to be bearable."""
        pieces = []
        while not self.done:
            pieces.append(self.take(1 << 20))
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def skip_buffered(self) -> bool:
        """Drop what has come of the body; return whether that was all of it, so that a next request may follow."""
        try:
            while not self.done and self._framing.take(self._buffer, 1 << 20):
                pass
        except BadRequest:
            return False
        return self.done

    def take(self, most: int) -> bytes:
        """Return the next bytes; none at the end."""
        while True:
            data = self._framing.take(self._buffer, most)
            if data or self._framing.done:
                return data
            self._fill()

    def _fill(self) -> None:
        if self._owed and not self._received:
            self._transport.send(_CONTINUE)
        if self._begun is None:
            self._begun = time.monotonic()
        allowed = self._seconds + self._received / self._rate
        self._transport.within(self._begun + allowed - time.monotonic())
        if self._received:
            self._transport.give_way()
        data = self._transport.receive()
        self._transport.no_deadline()
        if not data:
            raise Disconnected
        self._received += len(data)
        self._buffer += data


class _Input(io.RawIOBase):
    """A body as a file."""

    def __init__(self, body: Body) -> None:
        self._body = body

    def readable(self) -> bool:
        return True

    def readinto(self, into: memoryview) -> int:  # type: ignore[override]
        try:
            data = self._body.take(len(into))
        except (BadRequest, Overdue, Disconnected) as fault:
            self._body.fault = fault
            raise OSError("the body of the request ended early") from fault
        into[: len(data)] = data
        return len(data)
