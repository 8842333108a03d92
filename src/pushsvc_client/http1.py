"""Requests and answers of HTTP/1.1 as bytes, without I/O."""

import re
from collections.abc import Mapping

import httptools

from pushsvc_client.network import Connection

_LONGEST_HEAD = 262_144  # bytes of the head of an answer
_TARGET = re.compile(r"/[!-~]*")
_CONTROL = re.compile(r"[^\t\x20-\x7e\x80-\xff]")


def encode_request(method: str, target: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
    """Return a request; raise ValueError if its target or a header holds what could begin another one."""
    if not _TARGET.fullmatch(target):
        raise ValueError(f"{target[:100]!r} is no path: characters such as spaces must be escaped")
    lines = [f"{method} {target} HTTP/1.1"]
    for name, value in headers.items():
        if _CONTROL.search(value):
            raise ValueError(f"the header {name} has characters that no header may have")
        lines.append(f"{name}: {value}")
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


class Answer:
    """The answer to a request, from pieces of any size.

    ``status``, ``reason`` and ``headers`` (names in lower case) are there when it ``has_head``. ``ended`` is set at the
    end of the body, and ``reusable`` if the connection then serves another request.
    """

    def __init__(self) -> None:
        self.status = 0
        self.reason = ""
        self.headers: dict[str, str] = {}
        self.has_head = self.ended = self.reusable = False
        self._parser = httptools.HttpResponseParser(self)
        self._pieces: list[bytes] = []
        self._size_of_head = 0

    def feed(self, data: bytes) -> bytes:
        """Take what has come, ``b""`` at the end of the connection; return its share of the body. Raise OSError."""
        if not data:
            self._end_of_connection()
            return b""
        if not self.has_head:
            self._size_of_head += len(data)
            if self._size_of_head > _LONGEST_HEAD:
                raise ConnectionError("the head of the answer is too long")
        if self.ended:
            raise ConnectionError("more came than the answer")
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            raise ConnectionError("the answer leaves HTTP") from None
        except httptools.HttpParserError as error:
            if not self.ended:
                raise ConnectionError(f"the answer is not HTTP: {error}") from None
            self.reusable = False
        body, self._pieces = b"".join(self._pieces), []
        return body

    def _end_of_connection(self) -> None:
        lasts = self.headers.keys().isdisjoint(("content-length", "transfer-encoding"))
        if not (self.has_head and lasts):
            raise ConnectionError("the connection was closed")
        self.ended = True

    # What the parser calls

    def on_message_begin(self) -> None:
        if self.ended:  # an answer that nobody asked for
            self.reusable = False
            return
        self.headers, self.reason = {}, ""

    def on_status(self, text: bytes) -> None:
        if not self.ended:
            self.reason += text.decode("latin-1")

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.ended:
            self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if not self.ended and status >= 200:  # else another head follows
            self.status, self.has_head = status, True

    def on_body(self, body: bytes) -> None:
        if not self.ended:
            self._pieces.append(body)

    def on_message_complete(self) -> None:
        if self.has_head and not self.ended:
            self.ended, self.reusable = True, self._parser.should_keep_alive()


class Exchange:
    """A request on a connection, and its answer. Closing it ends the connection."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.answer = Answer()
        self._body = b""

    async def begin(self, request: bytes, timeout: float) -> None:
        """Send the request, and return when the head of the answer is there; raise OSError."""
        await self.connection.send(request, timeout)
        while not self.answer.has_head:
            self._body += self.answer.feed(await self.connection.receive(timeout))

    async def read(self, timeout: float) -> bytes:
        """Return the next piece of the body, ``b""`` at its end; raise OSError if it is cut."""
        body, self._body = self._body, b""
        while not body and not self.answer.ended:
            body = self.answer.feed(await self.connection.receive(timeout))
        return body

    async def read_all(self, timeout: float) -> bytes:
        """Return the whole body; raise OSError if it is cut."""
        pieces = []
        while piece := await self.read(timeout):
            pieces.append(piece)
        return b"".join(pieces)

    def close(self) -> None:
        self.connection.close()
