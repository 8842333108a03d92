"""The body of a request, read on demand."""

from __future__ import annotations

import io
import time

from pushsvc.server.framing import SizedBody, framing_of
from pushsvc.server.request import BadRequest, Request
from pushsvc.server.transport import DeadlineExceeded, Disconnected, Transport

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class RequestBody:
    """Takes bytes from ``buffer``, which holds what arrived after the head, then from the transport.

    The first byte may take ``seconds``; each ``rate`` bytes add one second. So a client cannot hold a connection by
    sending a byte now and then. ``fault`` is the error that ended the body early.
    """

    def __init__(self, transport: Transport, buffer: bytearray, request: Request, seconds: float, rate: int) -> None:
        self._transport = transport
        self._buffer = buffer
        self._framing = framing_of(request)
        self._continue_expected = request.expects
        self._seconds, self._rate = seconds, rate
        self._started: float | None = None
        self._received = len(buffer)
        self.fault: Exception | None = None

    @property
    def done(self) -> bool:
        return self._framing.done

    def stream(self, length: int | None) -> io.BufferedIOBase:
        """Return the WSGI input; plain bytes if the whole body has arrived."""
        if isinstance(self._framing, SizedBody) and len(self._buffer) >= (length or 0):
            return io.BytesIO(self._framing.take(self._buffer, length or 0))
        return io.BufferedReader(_Input(self))

    def read_whole(self) -> bytes:
        """Return the whole body. The caller has checked its length."""
        pieces = []
        while not self.done:
            pieces.append(self.take(1 << 20))
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def skip_buffered(self) -> bool:
        """Drop the buffered part; return whether that was the rest of the body, so that the next request can follow."""
        try:
            while not self.done and self._framing.take(self._buffer, 1 << 20):
                pass
        except BadRequest:
            return False
        return self.done

    def take(self, most: int) -> bytes:
        """Return at most ``most`` following bytes; none at the end."""
        while True:
            data = self._framing.take(self._buffer, most)
            if data or self._framing.done:
                return data
            self._fill()

    def _fill(self) -> None:
        if self._continue_expected and not self._received:
            self._transport.send(_CONTINUE)
        if self._started is None:
            self._started = time.monotonic()
        allowed = self._seconds + self._received / self._rate
        self._transport.set_deadline(self._started + allowed - time.monotonic())
        if self._received:
            self._transport.yield_to_loop()
        data = self._transport.receive()
        self._transport.clear_deadline()
        if not data:
            raise Disconnected
        self._received += len(data)
        self._buffer += data


class _Input(io.RawIOBase):
    """A body as a file."""

    def __init__(self, body: RequestBody) -> None:
        self._body = body

    def readable(self) -> bool:
        return True

    def readinto(self, into: memoryview) -> int:  # type: ignore[override]
        try:
            data = self._body.take(len(into))
        except (BadRequest, DeadlineExceeded, Disconnected) as fault:
            self._body.fault = fault
            raise OSError("the body of the request ended early") from fault
        into[: len(data)] = data
        return len(data)
