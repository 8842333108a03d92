"""Runs a WSGI application for one request and sends its response (PEP 3333)."""

import io
import logging
import re
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any
from urllib.parse import unquote_to_bytes

from pushsvc.errors import MemoryFull
from pushsvc.hub.delivery.chunked import LAST_CHUNK, frame
from pushsvc.server.body import RequestBody
from pushsvc.server.request import COMMON_HEADERS, Request
from pushsvc.server.response import complete_head
from pushsvc.server.transport import Transport
from pushsvc.web.request_id import HEADER as REQUEST_ID_HEADER
from pushsvc.web.responses import StreamFactory, TakeOver

log = logging.getLogger(__name__)

WsgiApp = Callable[[dict[str, Any], Any], Iterable[bytes]]

_STATUS = re.compile(r"[2-9][0-9]{2} [\t -~\x80-\xff]*")
_SERVERS_OWN = frozenset({"connection", "date", "keep-alive", "transfer-encoding", "upgrade", "trailer", "te"})
"""The date, and the headers of the connection: the server sends its own."""

_NO_CONTENT = frozenset({"204", "304"})
_CHUNKED = ("Transfer-Encoding", "chunked")

_VARIABLES = {name: "HTTP_" + name.upper().replace("-", "_") for name in COMMON_HEADERS} | {
    "content-type": "CONTENT_TYPE",
    "content-length": "CONTENT_LENGTH",
}


def base_environ(address: Any, scheme: str) -> dict[str, Any]:
    """Return the part that all requests to a listener share."""
    return {
        "SCRIPT_NAME": "",
        "SERVER_NAME": str(address[0]),
        "SERVER_PORT": str(address[1]),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scheme,
        "wsgi.errors": _ErrorLog(),
        "wsgi.multithread": False,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
    }


def environ_of(
    base: dict[str, Any], request: Request, address: tuple[str, int], stream: io.BufferedIOBase
) -> dict[str, Any]:
    """Return the environ of one request from ``address`` whose body is ``stream``; port 0 is an unknown one."""
    environ = base.copy()
    environ["REQUEST_METHOD"] = request.method
    environ["PATH_INFO"] = unquote_to_bytes(request.path).decode("latin-1") if "%" in request.path else request.path
    environ["QUERY_STRING"] = request.query
    environ["REQUEST_URI"] = f"{request.path}?{request.query}" if request.query else request.path
    environ["SERVER_PROTOCOL"] = "HTTP/1.1" if request.version else "HTTP/1.0"
    environ["REMOTE_ADDR"] = address[0]
    environ["REMOTE_PORT"] = str(address[1])
    environ["wsgi.input"] = stream
    for name, value in request.headers.items():
        environ[_VARIABLES.get(name) or "HTTP_" + name.upper().replace("-", "_")] = value
    return environ


class _ErrorLog(io.TextIOBase):
    """Writes ``wsgi.errors`` to the log."""

    def write(self, text: str) -> int:
        if text.strip():
            log.error("%s", text.rstrip())
        return len(text)


class WsgiResponse:
    """The response of an application to one request.

    ``keep_alive`` is false if the client, the server, the application, the framing of the response or an unread request
    body requires that the connection closes. ``take_over`` is set if the response is a stream that wants the socket.
    """

    def __init__(
        self, transport: Transport, request: Request, body: RequestBody, may_keep_alive: Callable[[], bool]
    ) -> None:
        self._transport = transport
        self._request = request
        self._body = body
        self._may_keep_alive = may_keep_alive
        self.keep_alive = True
        self.started = False
        self.take_over: TakeOver | None = None
        self.factory: StreamFactory | None = None
        self.stream_head = ""
        self._status = ""
        self._headers: list[tuple[str, str]] = []
        self._left: int | None = None
        self._chunked = False
        self._bodiless = request.method == "HEAD"

    def run(self, app: WsgiApp, environ: dict[str, Any]) -> None:
        """Send the app's response. Raise what the app raises, and the fault of a request body that ended early."""
        chunks = app(environ, self.start_response)
        try:
            self._body.raise_fault()
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

    @property
    def status(self) -> int:
        """Return the status of the app, 500 if it chose none."""
        return int(self._status[:3] or 500)

    def handoff(self, take_over: TakeOver, factory: StreamFactory | None = None) -> None:
        """Ask for the socket: the ``HANDOFF`` entry of the environ."""
        self.take_over, self.factory = take_over, factory

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
        if _STATUS.fullmatch(status) is None:
            raise ValueError(f"{status!r} is not a status")
        self._status, self._headers = status, list(headers)
        self._bodiless = self._request.method == "HEAD" or status[:3] in _NO_CONTENT
        return self.write

    def write(self, data: bytes) -> None:
        """Send a part of the body; the first part follows the head."""
        if not self.started:
            self.take_over = None  # a response with a body of its own does not hand its socket over
            head = self._head()
            if self._bodiless:
                self._transport.send(head)
                return
            try:
                self._transport.send(self._part(data), after=head)
            except MemoryFull:
                self.started = False  # nothing was sent: another answer may follow
                raise
        elif not self._bodiless:
            self._transport.send(self._part(data))

    def _part(self, data: bytes) -> bytes:
        if self._chunked:
            return frame(data)
        if self._left is not None:
            if len(data) > self._left:
                log.error("%s %s: the app sent more than its Content-Length", self._request.method, self._request.path)
                self.keep_alive = False
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
            self._transport.send(LAST_CHUNK)
        elif self._left:
            log.error("%s %s: the app sent less than its Content-Length", self._request.method, self._request.path)
            self.keep_alive = False

    def _head(self) -> bytes:
        if not self._status:
            raise RuntimeError("the app did not call start_response")
        fields = self._app_fields()
        self.keep_alive = self.keep_alive and self._may_keep_alive() and self._body.skip_buffered()
        if self._left is not None:
            if not self._status.startswith("204"):
                fields.append(("Content-Length", str(self._left)))
        elif self._request.version == 1 and self._status[:3] not in _NO_CONTENT:
            self._chunked = True  # an answer to HEAD says so, too
            fields.append(_CHUNKED)
        elif not self._bodiless:
            self.keep_alive = False
        if not self.keep_alive:
            fields.append(("Connection", "close"))
        elif self._request.version == 0:
            fields.append(("Connection", "keep-alive"))
        head = complete_head(self._head_text(fields))
        self.started = True
        return head

    def _app_fields(self) -> list[tuple[str, str]]:
        """Return the app's headers without length and the server's own; apply ``Connection: close`` and length."""
        fields = []
        for name, value in self._headers:
            lower = name.lower()
            if lower == "connection" and "close" in value.lower():
                self.keep_alive = False
            elif lower == "content-length":
                self._left = int(value)
            elif lower not in _SERVERS_OWN:
                fields.append((name, value))
        return fields

    def _begin_stream(self) -> None:
        self.keep_alive = False
        coding = [_CHUNKED] if self._request.version == 1 else []
        fields = [*self._app_fields(), *coding, ("Connection", "close")]
        own = [field for field in fields if field[0] == REQUEST_ID_HEADER]  # the others fit every equal request
        self.stream_head = self._head_text([field for field in fields if field not in own])
        self._transport.send(complete_head(self._head_text(fields)), more=True)
        self.started = True

    def _head_text(self, fields: list[tuple[str, str]]) -> str:
        """Return status line and headers, without date and empty line."""
        text = "".join([f"{name}: {value}\r\n" for name, value in fields])
        if text.count("\n") != len(fields) or text.count("\r") != len(fields) or "\0" in text:
            raise ValueError("a header of the app contains a line end")
        return f"HTTP/1.1 {self._status}\r\n{text}"
