"""PEP 3333: what an app is told of a request, and how its answer becomes bytes."""

from __future__ import annotations

import io
import logging
import re
import socket
import time
from collections.abc import Callable, Iterable
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from types import TracebackType
from typing import Any
from urllib.parse import unquote_to_bytes

import orjson

from pushsvc.server.body import Body
from pushsvc.server.fastpath.stream_cache import Again
from pushsvc.server.protocol import USUAL_FIELDS, Request
from pushsvc.server.transport import Transport

log = logging.getLogger(__name__)

App = Callable[[dict[str, Any], Any], Iterable[bytes]]
TakeOver = Callable[[socket.socket, Callable[[], None]], None]
"""Receives the socket of a stream, and what to call once when it is closed."""

HANDOFF = "pushsvc.handoff"
"""In the environ: ``environ[HANDOFF](take_over)`` asks for the connection. The view then answers 200 with the headers
of its stream and no body; behind the head the server gives the socket to ``take_over``. Absent where that cannot be.

A second argument makes the same stream from another position, for an equal request that comes later."""

_STATUS = re.compile(r"[2-9][0-9]{2} [\t -~\x80-\xff]*")
_OURS = frozenset({"connection", "keep-alive", "transfer-encoding", "upgrade", "trailer", "te"})
"""Fields that speak of the connection, which is the server's."""


def base_environ(address: Any, scheme: str) -> dict[str, Any]:
    """Return what every request of a listener has in common."""
    return {
        "SCRIPT_NAME": "",
        "SERVER_NAME": str(address[0]),
        "SERVER_PORT": str(address[1]),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scheme,
        "wsgi.errors": _Errors(),
        "wsgi.multithread": False,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
    }


class _Errors(io.TextIOBase):
    """``wsgi.errors``: into the log."""

    def write(self, text: str) -> int:
        if text.strip():
            log.error("%s", text.rstrip())
        return len(text)


def environ_of(
    base: dict[str, Any], request: Request, address: tuple[str, int], stream: io.BufferedIOBase
) -> dict[str, Any]:
    environ = base.copy()
    environ["REQUEST_METHOD"] = request.method
    environ["PATH_INFO"] = _unquoted(request.path)
    environ["QUERY_STRING"] = request.query
    environ["SERVER_PROTOCOL"] = "HTTP/1.1" if request.version else "HTTP/1.0"
    environ["REMOTE_ADDR"] = address[0]
    environ["REMOTE_PORT"] = str(address[1])
    environ["wsgi.input"] = stream
    for name, value in request.headers.items():
        environ[_VARIABLES.get(name) or "HTTP_" + name.upper().replace("-", "_")] = value
    return environ


_VARIABLES = {name: "HTTP_" + name.upper().replace("-", "_") for name in USUAL_FIELDS} | {
    "content-type": "CONTENT_TYPE",
    "content-length": "CONTENT_LENGTH",
}


def _unquoted(path: str) -> str:
    return unquote_to_bytes(path).decode("latin-1") if "%" in path else path


@lru_cache(512)
def _is_status(text: str) -> bool:
    return _STATUS.fullmatch(text) is not None


class Reply:
    """The answer of an app to one request.

    ``keep`` says whether the connection goes on after it: not where the client, the server, the app, the form of the
    body or an unread request body end it.
    """

    def __init__(self, transport: Transport, request: Request, body: Body, may_keep: Callable[[], bool]) -> None:
        self._transport = transport
        self._request = request
        self._body = body
        self._may_keep = may_keep
        self.keep = True
        self.started = False
        self.take_over: TakeOver | None = None
        self.again: Again | None = None
        self.head_of_stream = ""
        self._status = ""
        self._headers: list[tuple[str, str]] = []
        self._left: int | None = None
        self._chunked = False
        self._bodiless = request.method == "HEAD"

    def run(self, app: App, environ: dict[str, Any]) -> None:
        """Send what the app answers. What it raises is raised, and so is the fault of a body that ended early."""
        chunks = app(environ, self.start_response)
        try:
            if self._body.fault is not None:
                raise self._body.fault
            if isinstance(chunks, list | tuple) and len(chunks) == 1 and not (self.started or self._bodiless):
                self._left = len(chunks[0])
            for chunk in chunks:
                if chunk:
                    self.write(chunk)
                if self._bodiless:
                    break
            self._end()
        finally:
            close = getattr(chunks, "close", None)
            if close is not None:
                close()

    def handoff(self, take_over: TakeOver, again: Again | None = None) -> None:
        self.take_over, self.again = take_over, again

    def start_response(
        self,
        status: str,
        headers: list[tuple[str, str]],
        exc_info: tuple[type[BaseException], BaseException, TracebackType] | None = None,
    ) -> Callable[[bytes], None]:
        if exc_info is not None:
            if self.started:
                raise exc_info[1].with_traceback(exc_info[2])
        elif self._status:
            raise RuntimeError("start_response was called twice")
        if not _is_status(status):
            raise ValueError(f"{status!r} is no status")
        self._status, self._headers = status, list(headers)
        self._bodiless = self._request.method == "HEAD" or status[:3] in ("204", "304")
        return self.write

    def write(self, data: bytes) -> None:
        """Send a part of the body, after the head."""
        if not self.started:
            self.take_over = None  # it has a body of its own, so it is no stream to hand over
            head = self._head()
            self._transport.send(head if self._bodiless else head + self._part(data))
        elif not self._bodiless:
            self._transport.send(self._part(data))

    def _part(self, data: bytes) -> bytes:
        if self._chunked:
            return b"%x\r\n%b\r\n" % (len(data), data)
        if self._left is not None:
            if len(data) > self._left:
                log.error("%s %s: the app sent more than its Content-Length", self._request.method, self._request.path)
                self.keep = False
                data = data[: self._left]
            self._left -= len(data)
        return data

    def _end(self) -> None:
        if not self.started:
            if self.take_over is not None and self._status.startswith("200"):
                self._begin_stream()
                return
            self.take_over = None
            if not self._bodiless and self._left is None:
                self._left = 0
            self._transport.send(self._head())
        if self._bodiless:
            return
        if self._chunked:
            self._transport.send(b"0\r\n\r\n")
        elif self._left:
            log.error("%s %s: the app sent less than its Content-Length", self._request.method, self._request.path)
            self.keep = False

    def _head(self) -> bytes:
        if not self._status:
            raise RuntimeError("the app did not call start_response")
        fields = self._fields_of_app()
        self.keep = self.keep and self._may_keep() and self._body.skip_buffered()
        if self._left is not None:
            if not self._status.startswith("204"):
                fields.append(("Content-Length", str(self._left)))
        elif not self._bodiless and self._request.version == 1:
            self._chunked = True
            fields.append(("Transfer-Encoding", "chunked"))
        elif not self._bodiless:
            self.keep = False
        if not self.keep:
            fields.append(("Connection", "close"))
        elif self._request.version == 0:
            fields.append(("Connection", "keep-alive"))
        return self._encoded(fields)

    def _fields_of_app(self) -> list[tuple[str, str]]:
        """Return the app's fields but those of the connection and the length, which are taken note of."""
        fields = []
        for name, value in self._headers:
            lower = name.lower()
            if lower == "connection" and "close" in value.lower():
                self.keep = False
            elif lower == "content-length":
                self._left = int(value)
            elif lower not in _OURS:
                fields.append((name, value))
        return fields

    def _begin_stream(self) -> None:
        self.keep = False
        head = self._text([*self._fields_of_app(), ("Connection", "close")])
        self._transport.send(dated(head), more=True)
        self.started, self.head_of_stream = True, head

    def _encoded(self, fields: list[tuple[str, str]]) -> bytes:
        head = dated(self._text(fields))
        self.started = True
        return head

    def _text(self, fields: list[tuple[str, str]]) -> str:
        """Return the head without its end."""
        text = "".join([f"{name}: {value}\r\n" for name, value in fields])
        if text.count("\n") != len(fields) or text.count("\r") != len(fields) or "\0" in text:
            raise ValueError("a header of the app holds a line end")
        return f"HTTP/1.1 {self._status}\r\n{text}"


class _Clock:
    """The Date field, made once a second."""

    second = 0
    text = ""


def _date() -> str:
    second = int(time.time())
    if second != _Clock.second:
        _Clock.second, _Clock.text = second, f"Date: {formatdate(second, usegmt=True)}\r\n"
    return _Clock.text


def dated(head: str) -> bytes:
    """Return a head whole: with its date and its end."""
    return f"{head}{_date()}\r\n".encode("latin-1")


def answer(status: int, headers: list[tuple[str, str]], body: bytes, *, keep: bool, version: int = 1) -> bytes:
    """Return a whole answer as bytes."""
    return whole(head_of(status, headers, keep=keep, version=version), body)


def head_of(status: int, headers: list[tuple[str, str]], *, keep: bool, version: int = 1) -> bytes:
    """Return a head but for the length of the body; HTTP/1.0 must be told that the connection stays."""
    text = "".join([f"{name}: {value}\r\n" for name, value in headers])
    connection = ("" if version else "Connection: keep-alive\r\n") if keep else "Connection: close\r\n"
    return f"HTTP/1.1 {_STATUS_LINES[status]}\r\n{text}{connection}{_date()}".encode("latin-1")


def whole(head: bytes, body: bytes) -> bytes:
    """Return an answer of what ``head_of`` returned and a body."""
    return b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body)


_STATUS_LINES = {one.value: f"{one.value} {one.phrase.upper()}" for one in HTTPStatus}


def problem(status: int, detail: str, *, bodiless: bool = False) -> bytes:
    """Return the answer of the server itself where the app gives none; the connection closes after it."""
    title = HTTPStatus(status).phrase
    slug = "internal" if status == 500 else title.lower().replace(" ", "-")
    members = {"type": f"urn:pushsvc:problem:{slug}", "title": title, "status": status, "detail": detail}
    headers = [("Content-Type", "application/problem+json"), ("Cache-Control", "no-store")]
    data = answer(status, headers, orjson.dumps(members), keep=False)
    return data[: data.index(b"\r\n\r\n") + 4] if bodiless else data


def internal_error(*, bodiless: bool = False) -> bytes:
    """Return the answer where something of ours raised; what it was stands in the log alone."""
    return problem(500, "the server's log says more", bodiless=bodiless)
