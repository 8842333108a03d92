"""Passes requests through to the application's processes, with bounded buffers in both directions."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from http.client import HTTPException, HTTPResponse
from typing import Any

from pushsvc.hub.delivery.chunked import LAST_CHUNK, frame
from pushsvc.server.body import FORWARDS
from pushsvc.server.gateway.upstream import (
    StartResponse,
    UnixConnection,
    answered_headers,
    begin,
    headers_of,
    send,
    status_line,
)
from pushsvc.server.transport import Disconnected
from pushsvc.web.problem import http_problem
from pushsvc.web.request_id import HEADER, REQUEST_ID

log = logging.getLogger(__name__)

_PIECE = 65_536


class Relay:
    """Lets the application behind a Unix socket answer requests.

    At most ``most`` requests are under way; the socket's queue has room for them. ``timeout`` is the longest silence of
    the application, in seconds: before its answer, within it, and while it does not read a body.
    """

    def __init__(self, path: str, *, most: int, timeout: float = 60.0) -> None:
        self._path = path
        self._free = most
        self._timeout = timeout

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        if not self._free:
            return _unavailable("too many requests wait for the application", environ, start_response)
        self._free -= 1
        try:
            exchange = _Exchange(UnixConnection(self._path, self._timeout), self._release)
        except BaseException:
            self._free += 1
            raise
        try:
            return exchange.run(environ, start_response)
        except BaseException:
            exchange.close()
            raise

    def _release(self) -> None:
        self._free += 1


class _Exchange:
    """One request and its answer: iterating yields the body. ``close`` must be called at the end."""

    def __init__(self, connection: UnixConnection, on_close: Callable[[], None]) -> None:
        self._connection = connection
        self._on_close: Callable[[], None] | None = on_close
        self._response: HTTPResponse | None = None
        self._first = b""
        self._where = ""

    def run(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        self._where = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}"
        try:
            self._connection.connect()
        except OSError as error:
            log.warning("%s: the application does not run: %s", self._where, error)
            self.close()
            return _unavailable("the application does not run; it is started again", environ, start_response)
        try:
            self._send(environ)
            response = self._response = self._connection.getresponse()
            if response.status < 200:
                raise HTTPException(f"the status {response.status}")
            self._first = response.read1(_PIECE)
        except TimeoutError:
            return self._fail(504, "the application did not answer in time", environ, start_response)
        except _LostClient as lost:
            raise lost.fault from None
        except (OSError, HTTPException, ValueError) as error:
            log.warning("%s: the application gave no answer: %s %s", self._where, type(error).__name__, error)
            return self._fail(502, "the application ended before its answer", environ, start_response)
        headers = answered_headers(response)
        if HEADER not in response.headers:
            headers.append((HEADER, environ[REQUEST_ID]))
        start_response(status_line(response.status, response.reason), headers)
        return self

    def _fail(
        self, status: int, detail: str, environ: dict[str, Any], start_response: StartResponse
    ) -> Iterable[bytes]:
        self.close()
        return send(http_problem(status, detail), environ, start_response)

    def _send(self, environ: dict[str, Any]) -> None:
        """Send the request. Return early if the application closes the connection before it has read the body."""
        chunked = "HTTP_TRANSFER_ENCODING" in environ
        length = environ.get("CONTENT_LENGTH")
        headers = [*headers_of(environ)]
        if chunked:
            headers.append(("Transfer-Encoding", "chunked"))
        elif length is not None:
            headers.append(("Content-Length", length))
        begin(self._connection, environ["REQUEST_METHOD"], environ["REQUEST_URI"], headers)
        if not chunked and not int(length or 0):
            return
        environ[FORWARDS]()
        sock, body = self._connection.sock, environ["wsgi.input"]
        while piece := _read(body):
            try:
                sock.sendall(frame(piece) if chunked else piece)
            except TimeoutError:
                raise
            except OSError:
                return  # it has answered without reading the rest, or it has ended: the answer shows it
        if chunked:
            sock.sendall(LAST_CHUNK)

    def __iter__(self) -> Iterator[bytes]:
        assert self._response is not None
        piece = self._first
        try:
            while piece:
                yield piece
                piece = self._response.read1(_PIECE)
        except (OSError, HTTPException, ValueError) as error:
            log.warning("%s: the answer of the application broke off: %s", self._where, type(error).__name__)
            raise Disconnected from None  # the client must not take a part for the whole

    def close(self) -> None:
        """End the exchange, also with an answer that was not read to its end."""
        on_close, self._on_close = self._on_close, None
        if on_close is None:
            return
        if self._response is not None:
            self._response.close()
        self._connection.close()
        on_close()


class _LostClient(Exception):
    """The body of the request ended early."""

    def __init__(self, fault: OSError) -> None:
        super().__init__()
        self.fault = fault


def _read(body: Any) -> bytes:
    try:
        piece: bytes = body.read1(_PIECE)
    except OSError as fault:
        raise _LostClient(fault) from None
    return piece


def _unavailable(detail: str, environ: dict[str, Any], start_response: StartResponse) -> list[bytes]:
    response = http_problem(503, detail)
    response.headers.append(("Retry-After", "1"))
    return send(response, environ, start_response)
