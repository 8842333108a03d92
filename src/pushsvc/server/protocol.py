"""HTTP/1.1 requests out of bytes: their heads and their bodies. No I/O, no clock.

llhttp (httptools) reads the fields of a head. Which bytes are the head is found here, so that its bound is exact and a
following request stays where it is; and what llhttp lets through is refused here: other versions, no Host or two, a
Transfer-Encoding beside a length or in HTTP/1.0. Two servers that read the same bytes differently are what request
smuggling lives on, so whatever can be read in two ways is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

import httptools

_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([!-~]+) HTTP/([0-9])\.([0-9])\r\n")
_BROKEN = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]|\r(?=[^\n])|(?<!\r)\n")
"""What no head holds: control characters, a bare CR or LF."""

_ABSOLUTE = re.compile(r"https?://([^/?#]*)(.*)", re.IGNORECASE)
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]*)(?::[0-9]{0,5})?")
_ONCE = frozenset({"host", "content-length", "content-type", "origin", "last-event-id"})
"""Fields that decide something, and of which a second one would be a second opinion."""

USUAL_FIELDS = frozenset({
    "accept", "accept-encoding", "accept-language", "cache-control", "connection", "content-length", "content-type",
    "cookie", "host", "last-event-id", "origin", "referer", "user-agent",
})  # fmt: skip
_KEYS = {form: form.decode().lower() for name in USUAL_FIELDS for form in (name.encode(), name.title().encode())}


class BadRequest(Exception):
    """Bytes that are no request this server takes; ``status`` is what to answer before the connection closes."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Bounds:
    """How large a head may be: bytes of target and head, number of fields."""

    target: int = 8_192
    head: int = 32_768
    fields: int = 100


class Request:
    """A head that was read. ``headers`` have names in lower case; a repeated field is joined by commas.

    ``length`` is None where the request names none; ``expects`` says that the client waits for ``100 Continue``.
    ``version`` is the minor one. Fields whose names hold an underscore are left out: as WSGI variables they could not
    be told from those with a hyphen, so a client could forge what a proxy had set.
    """

    __slots__ = (
        "chunked", "expects", "headers", "keep_alive", "length", "method", "path", "query", "repeated", "version",
    )  # fmt: skip

    def __init__(self, method: str, path: str, query: str, version: int) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.version = version
        self.headers: dict[str, str] = {}
        self.length: int | None = None
        self.chunked = self.expects = False
        self.keep_alive = version == 1
        self.repeated: str | None = None

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by llhttp with each field."""
        key = _KEYS.get(name)
        if key is None:
            key = name.decode("ascii").lower()
            if "_" in key:
                return
        text = value.decode("latin-1").rstrip(" \t")
        if key not in self.headers:
            self.headers[key] = text
        elif key in _ONCE:
            self.repeated = key
        else:
            self.headers[key] += ("; " if key == "cookie" else ",") + text


def find_head(buffer: bytearray, start: int, bounds: Bounds) -> int:
    """Return where the head at the beginning of ``buffer`` ends, or 0 where more must come.

    ``start`` is how much of the buffer was looked at before. Raise BadRequest as soon as no head can come of it.
    """
    first = 2 if buffer.startswith(b"\r\n") else 0  # an empty line before the head, as RFC 9112 lets pass
    end = buffer.find(b"\r\n\r\n", max(first, start - 3), bounds.head)
    if end >= 0:
        return end + 4
    if _BROKEN.search(buffer, max(0, start - 1), bounds.head):
        raise BadRequest(400, "a control character or a line end without CR LF in the head")
    line = buffer.find(b"\r\n", first)
    _check_line(line if line >= 0 else len(buffer), bounds)
    if len(buffer) >= bounds.head:
        raise BadRequest(431, f"the head of a request has at most {bounds.head} bytes")
    return 0


def _check_line(length: int, bounds: Bounds) -> None:
    if length > bounds.target + 32:
        raise BadRequest(414, f"a target has at most {bounds.target} bytes")


def parse_head(head: bytes, bounds: Bounds) -> Request:
    """Return the request whose head, with its empty line, these bytes are. Raise BadRequest."""
    head = head.removeprefix(b"\r\n")
    line = _LINE.match(head)
    if line is None:
        _check_line(head.find(b"\r\n"), bounds)
        raise BadRequest(400, "the request line is not METHOD TARGET HTTP/1.1")
    method, target, major, minor = line.groups()
    if major != b"1" or minor not in (b"0", b"1"):
        raise BadRequest(505, "HTTP/1.0 and HTTP/1.1 are spoken here")
    if len(target) > bounds.target:
        raise BadRequest(414, f"a target has at most {bounds.target} bytes")
    if head.count(b"\n") - 2 > bounds.fields:
        raise BadRequest(431, f"a request has at most {bounds.fields} fields")
    if method == b"CONNECT":
        raise BadRequest(501, "this is no proxy")
    path, authority = _path(target.decode("ascii"), method)
    path, _, query = path.partition("?")
    request = Request(method.decode("ascii"), path, query, int(minor))
    upgrade = _read_fields(request, head)
    _check_host(request, authority)
    _frame(request)
    _decide(request, upgrade)
    return request


def _path(target: str, method: bytes) -> tuple[str, str | None]:
    """Return path with query, and the authority of an absolute target."""
    if "#" in target:
        raise BadRequest(400, "a target has no fragment")
    if target[0] == "/" or (target == "*" and method == b"OPTIONS"):
        return target, None
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None or "@" in absolute[1]:
        raise BadRequest(400, "the target is neither a path nor an http URL")
    path = absolute[2]
    return (path if path.startswith("/") else "/" + path), absolute[1]


def _read_fields(request: Request, head: bytes) -> bool:
    """Let llhttp read the fields; return whether it sees an upgrade."""
    upgrade = False
    try:
        httptools.HttpRequestParser(request).feed_data(head)
    except httptools.HttpParserUpgrade:
        upgrade = True
    except httptools.HttpParserInvalidMethodError:
        raise BadRequest(501, f"the method {request.method} is not known") from None
    except httptools.HttpParserError as error:
        raise BadRequest(400, str(error)) from None
    if request.repeated is not None:
        raise BadRequest(400, f"{request.repeated} is there twice")
    return upgrade


def _check_host(request: Request, authority: str | None) -> None:
    host = request.headers.get("host")
    if host is None:
        if request.version == 1:
            raise BadRequest(400, "HTTP/1.1 needs a Host")
        host = authority
    if host is not None and not _is_host(host):
        raise BadRequest(400, "the Host is not a name with a port")
    if authority is not None:
        if authority.lower() != (host or "").lower():
            raise BadRequest(400, "the target names another host than Host does")
        request.headers["host"] = authority


@lru_cache(1024)
def _is_host(text: str) -> bool:
    return len(text) <= 300 and _HOST.fullmatch(text) is not None


def _frame(request: Request) -> None:
    """Find out how long the body is. llhttp has refused a length that is no number, and both ways at once."""
    coding = request.headers.get("transfer-encoding")
    length = request.headers.get("content-length")
    if coding is not None:
        if request.version == 0 or length is not None:
            raise BadRequest(400, "a Transfer-Encoding belongs to HTTP/1.1, and to a request without Content-Length")
        if coding.lower() != "chunked":
            raise BadRequest(501, "the only Transfer-Encoding taken is chunked")
        request.chunked = True
    if length is not None:
        if not (length.isascii() and length.isdigit() and len(length) <= 18):
            raise BadRequest(400, "Content-Length is not a number of bytes")
        request.length = int(length)


def _decide(request: Request, upgrade: bool) -> None:
    """Whether the connection goes on after the answer, and whether the client waits before it sends its body."""
    connection = request.headers.get("connection")
    if connection is not None:
        options = [option.strip(" \t") for option in connection.lower().split(",")]
        # An upgrade is ignored, as HTTP allows; what comes after such a request may be of another protocol.
        request.keep_alive = (
            "close" not in options and not upgrade and (request.version == 1 or "keep-alive" in options)
        )
    expect = request.headers.get("expect")
    if expect is not None and request.version == 1:
        if expect.lower() != "100-continue":
            raise BadRequest(417, "the only expectation met is 100-continue")
        request.expects = True


class Sized:
    """A body of a known length."""

    def __init__(self, length: int) -> None:
        self._left = length

    @property
    def done(self) -> bool:
        return not self._left

    def take(self, buffer: bytearray, most: int) -> bytes:
        """Move at most ``most`` bytes of the body out of ``buffer``; none means that more must come, or ``done``."""
        data = bytes(buffer[: min(self._left, most)])
        del buffer[: len(data)]
        self._left -= len(data)
        return data


class Chunked:
    """A body in chunks. Extensions and trailers are bounded, checked for their form and forgotten."""

    _NAME = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
    _SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})((?:;%b(?:=(?:%b|\"[\t !#-\[\]-~]*\"))?)*)" % (_NAME, _NAME))
    _TRAILER = re.compile(rb"%b:[\t -~\x80-\xff]*" % _NAME)
    _OVERHEAD = 8_192
    """Bytes of extensions and trailers in one body: more is work without a body."""

    def __init__(self) -> None:
        self.done = False
        self._left = self._overhead = 0
        self._step = self._size

    def take(self, buffer: bytearray, most: int) -> bytes:
        """As ``Sized.take``. Raise BadRequest for what are no chunks."""
        taken = bytearray()  # of many chunks, as a byte each would cost a client little and its reader much
        while len(taken) < most and not self.done:
            if self._left:
                data = buffer[: min(self._left, most - len(taken))]
                if not data:
                    break
                del buffer[: len(data)]
                self._left -= len(data)
                taken += data
            elif (line := self._line(buffer)) is not None:
                self._step(line)
            else:
                break
        return bytes(taken)

    def _line(self, buffer: bytearray) -> bytes | None:
        end = buffer.find(b"\r\n", 0, self._OVERHEAD)
        if end < 0:
            if _BROKEN.search(buffer, 0, self._OVERHEAD) or len(buffer) >= self._OVERHEAD:
                raise BadRequest(400, "the chunks of the body have no line ends where they should")
            return None
        line = bytes(buffer[:end])
        del buffer[: end + 2]
        return line

    def _size(self, line: bytes) -> None:
        found = self._SIZE.fullmatch(line)
        if found is None:
            raise BadRequest(
                400, "the size of a chunk is not a hexadecimal number, or its extension has not the form ;name=value"
            )
        self._count(len(found[2]))
        self._left = int(found[1], 16)
        self._step = self._end if self._left else self._trailer

    def _end(self, line: bytes) -> None:
        if line:
            raise BadRequest(400, "a chunk is longer than its size")
        self._step = self._size

    def _trailer(self, line: bytes) -> None:
        if not line:
            self.done = True
        elif self._TRAILER.fullmatch(line) is None:
            raise BadRequest(400, "a trailer is not a field")
        self._count(len(line))

    def _count(self, overhead: int) -> None:
        self._overhead += overhead
        if self._overhead > self._OVERHEAD:
            raise BadRequest(400, f"a body has at most {self._OVERHEAD} bytes of extensions and trailers")


def framing(request: Request) -> Sized | Chunked:
    """Return what takes the body of a request out of the bytes behind its head."""
    return Chunked() if request.chunked else Sized(request.length or 0)
