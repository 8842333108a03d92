"""Passes a request that the application has allowed to the server behind it, and the bytes of the answer back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.client import HTTPException, HTTPResponse
from ipaddress import IPv4Address, IPv6Address, ip_address
from socket import SHUT_RDWR, socket

from flask import Request, Response
from werkzeug.exceptions import RequestEntityTooLarge

from pushsvc.auth.grants import Grants
from pushsvc.errors import TooLarge
from pushsvc.extension.server import PushServer, ServerUnavailable
from pushsvc.hub.messages import farewell
from pushsvc.sse import MEDIA_TYPE
from pushsvc.web.html_data import HtmlData

_PASSED = (
    "Accept", "Content-Encoding", "Content-Type", "Idempotency-Key", "If-Match", "If-None-Match",
    "Last-Event-ID", "Origin", "Sec-Fetch-Site", "Access-Control-Request-Headers", "Access-Control-Request-Method",
)  # fmt: skip
_OF_THE_CONNECTION = frozenset({
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding",
    "upgrade", "server", "date",
})  # fmt: skip
_PIECE = 65_536
_SILENCE = 30.0  # seconds, beyond the heartbeat, without a byte of an answer
_RESTART = "the server is restarting"


class Bridge:
    """Passes requests to a server. ``heartbeat`` is the longest silence of its streams, ``body`` the bytes that a
    request may have."""

    def __init__(self, server: PushServer, heartbeat: float, body: int) -> None:
        self._server = server
        self._timeout = heartbeat + _SILENCE
        self._body = body
        self._streams: set[socket] = set()
        self._draining = threading.Event()

    def drain(self) -> None:
        """End the streams: each is told when to come back, and goes on where it was."""
        self._draining.set()
        for sock in list(self._streams):
            with suppress(OSError):  # it ended by itself
                sock.shutdown(SHUT_RDWR)

    def answer(self, request: Request, path: str, grants: Grants | None, *, as_html: bool = False) -> Response:
        """Return the answer of the server to a request with these grants, None for a preflight request.

        ``path`` is that of the server, with its query. ``as_html`` makes the HTML of events the data of messages. Raise
        TooLarge, or ServerUnavailable.
        """
        try:
            return self._answer(request, path, grants, HtmlData().feed if as_html else bytes)
        except ServerUnavailable:
            if MEDIA_TYPE not in request.headers.get("Accept", ""):
                raise
            # Any other status would end a browser's EventSource for good.
            return _ended(farewell("the push server does not run"))

    def _answer(
        self, request: Request, path: str, grants: Grants | None, rewrite: Callable[[bytes], bytes]
    ) -> Response:
        headers = self._headers(request, grants)
        body = self._read(request) if request.method in ("POST", "PUT", "PATCH") else None
        connection = self._server.connect(self._timeout)
        sock = connection.sock  # an answer without an end takes it over from the connection
        try:
            connection.request(request.method, path, body, headers)
            response = connection.getresponse()
        except (OSError, HTTPException) as error:
            connection.close()
            raise ServerUnavailable(f"no answer: {type(error).__name__} {error}") from None
        except BaseException:
            connection.close()
            raise
        passed = [(name, value) for name, value in response.getheaders() if name.lower() not in _OF_THE_CONNECTION]
        if response.headers.get_content_type() == MEDIA_TYPE:
            return self._stream(sock, response, passed, rewrite)
        answer = Response(_pieces(response), response.status, passed, direct_passthrough=True)
        answer.call_on_close(connection.close)
        return answer

    def _headers(self, request: Request, grants: Grants | None) -> dict[str, str]:
        # The events of a CloudEvent in binary mode have headers of their own.
        names = [*_PASSED, *(name for name, _ in request.headers if name.lower().startswith("ce-"))]
        headers = {name: request.headers[name] for name in names if name in request.headers}
        headers["Host"] = request.host
        if (address := address_of(request)) is not None:
            headers["X-Forwarded-For"] = str(address)
        if grants is not None:
            headers["Authorization"] = f"Bearer {self._server.token(grants)}"
        return headers

    def _read(self, request: Request) -> bytes:
        request.max_content_length = self._body + 1
        try:
            body = request.get_data(cache=False)
        except RequestEntityTooLarge:
            body = None
        if body is None or len(body) > self._body:
            raise TooLarge(f"a request body has at most {self._body} bytes: send several requests")
        return body

    def _stream(
        self, sock: socket, response: HTTPResponse, headers: list[tuple[str, str]], rewrite: Callable[[bytes], bytes]
    ) -> Response:
        self._streams.add(sock)

        def end() -> None:
            self._streams.discard(sock)
            response.close()

        if self._draining.is_set():
            end()
            return _ended(farewell(_RESTART))
        answer = Response(self._messages(response, rewrite), response.status, headers, direct_passthrough=True)
        answer.automatically_set_content_length = False
        answer.call_on_close(end)
        return answer

    def _messages(self, response: HTTPResponse, rewrite: Callable[[bytes], bytes]) -> Iterator[bytes]:
        piece = b"\n"
        try:
            for read in _pieces(response):
                if rewritten := rewrite(read):
                    piece = rewritten
                    yield piece
        except (OSError, HTTPException, ValueError):  # lost, or closed while it was read
            pass
        if self._draining.is_set():
            # What is not a whole message yet is dropped by the client: no blank line ends it.
            yield (b"" if piece.endswith(b"\n") else b"\n") + farewell(_RESTART)


def address_of(request: Request) -> IPv4Address | IPv6Address | None:
    """Return the address of the client as the application sees it; None if it has none, as over a Unix socket."""
    try:
        return ip_address((request.remote_addr or "").partition("%")[0])
    except ValueError:
        return None


def _pieces(response: HTTPResponse) -> Iterator[bytes]:
    while piece := response.read1(_PIECE):
        yield piece


def _ended(body: bytes) -> Response:
    return Response(body, content_type=MEDIA_TYPE, headers={"Cache-Control": "no-store"})
