"""Reads the head of an HTTP/1.1 request from bytes. No I/O, no clock.

llhttp (httptools) parses the header fields. This module finds the end of the head, so that the size limit is exact and
the bytes of the next request stay in the buffer. It also refuses what llhttp accepts: other HTTP versions, a missing
or repeated Host, a Transfer-Encoding beside a length or in HTTP/1.0. Request smuggling depends on two servers that read
the same bytes differently, so everything ambiguous is refused.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

import httptools

COMMON_HEADERS = frozenset({
    "accept", "accept-encoding", "accept-language", "cache-control", "connection", "content-length", "content-type",
    "cookie", "host", "last-event-id", "origin", "referer", "user-agent",
})  # fmt: skip
"""Headers of most requests. Their names are converted by table."""

_SINGLE = frozenset({"host", "content-length", "content-type", "origin", "last-event-id"})
"""Headers that decide how a request is treated. A request that repeats one is refused as ambiguous."""

_CLOUDEVENT = "ce-"
"""Attributes of a CloudEvent. A request that repeats one is refused too: joined, two ids would be a third one."""

TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
CONTROL_CHARACTER = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]|\r(?=[^\n])|(?<!\r)\n")
"""Bytes that no head contains: control characters, a bare CR or LF."""

_REQUEST_LINE = re.compile(rb"(%b) ([!-~]+) HTTP/([0-9])\.([0-9])\r\n" % TOKEN)
_ABSOLUTE = re.compile(r"https?://([^/?#]*)(.*)", re.IGNORECASE)
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]*)(?::[0-9]{0,5})?")
_NAMES = {form: form.decode().lower() for name in COMMON_HEADERS for form in (name.encode(), name.title().encode())}


class BadRequest(Exception):
    """The bytes are not a request that this server accepts. It answers ``status`` and closes the connection."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


@dataclass(frozen=True, slots=True)
class HeadLimits:
    """Largest sizes, in bytes, of the target and of the head; largest number of header fields."""

    target: int = 8_192
    head: int = 32_768
    fields: int = 100


class Request:
    """The head of a request. ``headers`` have names in lower case; repeated fields are joined by commas.

    ``length`` is the Content-Length, None without one. ``expects`` is true if the client waits for ``100 Continue``.
    ``version`` is the minor HTTP version. Fields with an underscore in their name are dropped: as WSGI variables they
    equal those with a hyphen, so a client could forge a header that a proxy sets.
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
        """Add a field. llhttp calls this."""
        key = _NAMES.get(name)
        if key is None:
            key = name.decode("ascii").lower()
            if "_" in key:
                return
        text = value.decode("latin-1").rstrip(" \t")
        if key not in self.headers:
            self.headers[key] = text
        elif key in _SINGLE or key.startswith(_CLOUDEVENT):
            self.repeated = key
        else:
            self.headers[key] += ("; " if key == "cookie" else ",") + text


def find_head(buffer: bytearray, start: int, limits: HeadLimits) -> int:
    """Return where the head at the beginning of ``buffer`` ends, or 0 if more bytes are needed.

    The first ``start`` bytes were searched before. Raise BadRequest as soon as the bytes cannot become a head.
    """
    first = 2 if buffer.startswith(b"\r\n") else 0  # RFC 9112 allows an empty line before the head
    end = buffer.find(b"\r\n\r\n", max(first, start - 3), limits.head)
    if end >= 0:
        return end + 4
    if CONTROL_CHARACTER.search(buffer, max(0, start - 1), limits.head):
        raise BadRequest(400, "a control character or a line end without CR LF in the head")
    line = buffer.find(b"\r\n", first)
    _check_line(line if line >= 0 else len(buffer), limits)
    if len(buffer) >= limits.head:
        raise BadRequest(431, f"the head of a request has at most {limits.head} bytes")
    return 0


def _check_line(length: int, limits: HeadLimits) -> None:
    if length > limits.target + 32:
        raise BadRequest(414, f"a request target has at most {limits.target} bytes")


def parse_head(head: bytes, limits: HeadLimits) -> Request:
    """Return the request of a complete head, its empty line included. Raise BadRequest."""
    head = head.removeprefix(b"\r\n")
    request, authority = _parse_line(head, limits)
    upgrade = _read_fields(request, head)
    _check_host(request, authority)
    _read_framing(request)
    _read_connection(request, upgrade)
    _read_expectation(request)
    return request


def _parse_line(head: bytes, limits: HeadLimits) -> tuple[Request, str | None]:
    """Return a request without its fields, and the authority of an absolute target."""
    line = _REQUEST_LINE.match(head)
    if line is None:
        _check_line(head.find(b"\r\n"), limits)
        raise BadRequest(400, "the request line is not METHOD TARGET HTTP/1.1")
    method, target, major, minor = line.groups()
    if major != b"1" or minor not in (b"0", b"1"):
        raise BadRequest(505, "only HTTP/1.0 and HTTP/1.1 are supported")
    if len(target) > limits.target:
        raise BadRequest(414, f"a request target has at most {limits.target} bytes")
    if head.count(b"\n") - 2 > limits.fields:
        raise BadRequest(431, f"a request has at most {limits.fields} fields")
    if method == b"CONNECT":
        raise BadRequest(501, "this server is not a proxy")
    path, authority = _split_target(target.decode("ascii"), method)
    path, _, query = path.partition("?")
    return Request(method.decode("ascii"), path, query, int(minor)), authority


def _split_target(target: str, method: bytes) -> tuple[str, str | None]:
    """Return the path with the query, and the authority of an absolute target."""
    if "#" in target:
        raise BadRequest(400, "a request target cannot have a fragment")
    if target[0] == "/" or (target == "*" and method == b"OPTIONS"):
        return target, None
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None or "@" in absolute[1]:
        raise BadRequest(400, "the target is neither a path nor an http URL")
    path = absolute[2]
    return (path if path.startswith("/") else "/" + path), absolute[1]


def _read_fields(request: Request, head: bytes) -> bool:
    """Parse the header fields with llhttp; return whether it reports an upgrade."""
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
        raise BadRequest(400, f"the header {request.repeated} is repeated")
    return upgrade


def _check_host(request: Request, authority: str | None) -> None:
    host = request.headers.get("host")
    if host is None:
        if request.version == 1:
            raise BadRequest(400, "HTTP/1.1 requires a Host")
        host = authority
    if host is not None and not _is_host(host):
        raise BadRequest(400, "the Host is not a name with an optional port")
    if authority is not None:
        if authority.lower() != (host or "").lower():
            raise BadRequest(400, "the request target and the header Host name different hosts")
        request.headers["host"] = authority


@lru_cache(1024)
def _is_host(text: str) -> bool:
    return len(text) <= 300 and _HOST.fullmatch(text) is not None


def _read_framing(request: Request) -> None:
    """Find out how the body ends. llhttp has refused a length that is not a number, and a length beside chunks."""
    coding = request.headers.get("transfer-encoding")
    length = request.headers.get("content-length")
    if coding is not None:
        if request.version == 0 or length is not None:
            raise BadRequest(400, "a Transfer-Encoding requires HTTP/1.1 and a request without Content-Length")
        if coding.lower() != "chunked":
            raise BadRequest(501, "the only supported Transfer-Encoding is chunked")
        request.chunked = True
    if length is not None:
        if not (length.isascii() and length.isdigit() and len(length) <= 18):
            raise BadRequest(400, "Content-Length is not a number of bytes")
        request.length = int(length)


def _read_connection(request: Request, upgrade: bool) -> None:
    """Find out whether the connection stays open after the answer."""
    connection = request.headers.get("connection")
    if connection is None:
        return
    options = [option.strip(" \t") for option in connection.lower().split(",")]
    # HTTP allows a server to ignore an upgrade. The bytes that follow may be of another protocol, so they are not read.
    request.keep_alive = "close" not in options and not upgrade and (request.version == 1 or "keep-alive" in options)


def _read_expectation(request: Request) -> None:
    expect = request.headers.get("expect")
    if expect is not None and request.version == 1:
        if expect.lower() != "100-continue":
            raise BadRequest(417, "the only supported expectation is 100-continue")
        request.expects = True
