"""Where the body of a request ends: a length or chunks. No I/O, no clock."""

from __future__ import annotations

import re

from pushsvc.server.request import CONTROL_CHARACTER, TOKEN, BadRequest, Request


class SizedBody:
    """A body with a Content-Length."""

    def __init__(self, length: int) -> None:
        self._left = length

    @property
    def done(self) -> bool:
        return not self._left

    def take(self, buffer: bytearray, most: int) -> bytes:
        """Remove at most ``most`` body bytes from ``buffer`` and return them. None: more must arrive, or ``done``."""
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
