"""The body of a request: a length or chunks, read on demand."""

import io
import re
import time

from gevent.event import Event

from pushsvc.errors import MemoryFull
from pushsvc.server.request import CONTROL_CHARACTER, TOKEN, BadRequest, Request
from pushsvc.server.transport import DeadlineExceeded, Disconnected, Transport
from pushsvc.web.memory.budget import Hold, MemoryBudget
from pushsvc.web.memory.work import Work

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

WORK_FACTOR = 4
"""Bytes that a byte of a body takes while its events are read and stored: 3.5, but 13 for the first events of a topic,
and 33 if they have tens of thousands of different names. So the bodies in work have 6 MB, or there is only one."""

FORWARDS = "pushsvc.forwards"
"""``environ[FORWARDS]()`` says that what is read of the body is passed on at once, and not kept."""

_WORK_WAIT = 5.0
"""Seconds that a complete body waits for the work on others to end."""


class SizedBody:
    """A body with a Content-Length."""

    def __init__(self, length: int) -> None:
        self._left = length

    @property
    def done(self) -> bool:
        return not self._left

    def take(self, buffer: bytearray, most: int) -> bytes:
        """Remove at most ``most`` body bytes from ``buffer`` and return them; none if it needs more, or is ``done``."""
        data = bytes(buffer[: min(self._left, most)])
        del buffer[: len(data)]
        self._left -= len(data)
        return data


class ChunkedBody:
    """A body in chunks. Extensions and trailers are limited in size, checked for syntax and dropped."""

    _SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})((?:;%b(?:=(?:%b|\"[\t !#-\[\]-~]*\"))?)*)" % (TOKEN, TOKEN))
    _TRAILER = re.compile(rb"%b:[\t -~\x80-\xff]*" % TOKEN)
    _MAX_OVERHEAD = 8_192
    """Largest number of bytes of extensions and trailers in one body. They cost work but carry no data."""

    def __init__(self) -> None:
        self.done = False
        self._left = self._overhead = 0
        self._step = self._read_size

    def take(self, buffer: bytearray, most: int) -> bytes:
        """As ``SizedBody.take``. Raise BadRequest if the bytes are not chunks."""
        taken = bytearray()  # join chunks: chunks of one byte are cheap to send and expensive to return one by one
        while len(taken) < most and not self.done:
            if self._left:
                data = buffer[: min(self._left, most - len(taken))]
                if not data:
                    break
                del buffer[: len(data)]
                self._left -= len(data)
                taken += data
            elif (line := self._take_line(buffer)) is not None:
                self._step(line)
            else:
                break
        return bytes(taken)

    def _take_line(self, buffer: bytearray) -> bytes | None:
        end = buffer.find(b"\r\n", 0, self._MAX_OVERHEAD)
        if end < 0:
            if CONTROL_CHARACTER.search(buffer, 0, self._MAX_OVERHEAD) or len(buffer) >= self._MAX_OVERHEAD:
                raise BadRequest(400, "a chunk of the body does not end with CR LF")
            return None
        line = bytes(buffer[:end])
        del buffer[: end + 2]
        return line

    def _read_size(self, line: bytes) -> None:
        found = self._SIZE.fullmatch(line)
        if found is None:
            raise BadRequest(
                400, "the size of a chunk is not hexadecimal, or its extension is not of the form ;name=value"
            )
        self._count_overhead(len(found[2]))
        self._left = int(found[1], 16)
        self._step = self._read_end if self._left else self._read_trailer

    def _read_end(self, line: bytes) -> None:
        if line:
            raise BadRequest(400, "a chunk is longer than its size")
        self._step = self._read_size

    def _read_trailer(self, line: bytes) -> None:
        if not line:
            self.done = True
        elif self._TRAILER.fullmatch(line) is None:
            raise BadRequest(400, "a trailer is not a header field")
        self._count_overhead(len(line))

    def _count_overhead(self, overhead: int) -> None:
        self._overhead += overhead
        if self._overhead > self._MAX_OVERHEAD:
            raise BadRequest(400, f"a body has at most {self._MAX_OVERHEAD} bytes of extensions and trailers")


def framing_of(request: Request) -> SizedBody | ChunkedBody:
    """Return the reader of the body that follows a head."""
    return ChunkedBody() if request.chunked else SizedBody(request.length or 0)


class RequestBody:
    """Takes bytes from ``buffer``, which holds what arrived after the head, then from the transport.

    A body that has arrived with its head is at most one read, so it is not counted. Any other counts in ``memory`` from
    its first byte to ``release``, and again, as work, from its last byte. It must arrive at the pace of the transport.
    ``fault`` is the error that ended the body early.
    """

    def __init__(self, transport: Transport, buffer: bytearray, request: Request, memory: MemoryBudget) -> None:
        self._transport = transport
        self._buffer = buffer
        self._framing = framing_of(request)
        self._continue_expected = request.expects
        self._memory = memory
        self._hold: Hold | None = None
        self._work: Work | None = None
        self._begun = self._filled = 0.0
        self._kept = True
        self._received = len(buffer)
        self._taken = 0
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

    def pass_on(self) -> None:
        """Count only bytes that wait here: a reader that keeps none of them may take a body of any size.

        The time that it needs between its reads is not the client's.
        """
        self._kept = False

    def take(self, most: int) -> bytes:
        """Return at most ``most`` following bytes; none at the end. Raise MemoryFull if the process is short of it."""
        while True:
            data = self._framing.take(self._buffer, most)
            self._taken += len(data)
            if self._kept and self._framing.done and self._hold is not None and self._work is None:
                self._begin_work(self._hold)
            if data or self._framing.done:
                return data
            self._fill()

    def raise_fault(self) -> None:
        """Raise the error that ended the body early, if one did."""
        fault, self.fault = (
            self.fault,
            None,
        )  # its traceback refers to this body: together they would outlive the request
        if fault is not None:
            raise fault

    def release(self) -> None:
        """Count the body no more: nothing refers to its bytes now."""
        if self._work is not None:
            self._memory.work.leave(self._work)
        if self._hold is not None:
            self._transport.end_hold(self._hold)

    def _fill(self) -> None:
        if self._continue_expected and not self._received:
            self._transport.send(_CONTINUE)
        if self._hold is None:
            self._begun = time.monotonic()
            self._hold = self._transport.hold(len(self._buffer))
        now = time.monotonic()
        if not self._kept and self._filled:
            self._begun += now - self._filled
        self._transport.set_deadline(self._transport.pace.deadline(self._begun, now, self._received) - now)
        if self._received:
            self._transport.yield_to_loop()
        data = self._transport.receive()
        self._transport.clear_deadline()
        if not data:
            raise Disconnected
        self._received += len(data)
        self._buffer += data
        self._hold.resize(self._taken * self._kept + len(self._buffer))
        self._filled = time.monotonic()

    def _begin_work(self, hold: Hold) -> None:
        """Wait for room for the work on a complete body. The work ends by itself, so it is not let go."""
        hold.keep()
        work = self._work = self._memory.work.join(WORK_FACTOR * self._taken)
        if not work.admitted:
            admitted = Event()
            work.on_admitted = admitted.set
            if not admitted.wait(_WORK_WAIT):
                self._memory.refusals += 1
                raise MemoryFull


class _Input(io.RawIOBase):
    """A body as a file."""

    def __init__(self, body: RequestBody) -> None:
        self._body = body

    def readable(self) -> bool:
        return True

    def readinto(self, into: memoryview) -> int:  # type: ignore[override]
        try:
            data = self._body.take(len(into))
        except (BadRequest, DeadlineExceeded, Disconnected, MemoryFull) as fault:
            self._body.fault = fault
            raise OSError("the body of the request ended early") from fault
        into[: len(data)] = data
        return len(data)
