"""Requests to a process of the application, over its Unix socket, and the answers to clients."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from http import HTTPStatus
from http.client import HTTPConnection, HTTPResponse
from typing import Any

from pushsvc.web.long_requests import CLIENT
from pushsvc.web.request_id import HEADER, REQUEST_ID, identified
from pushsvc.web.responses import HttpResponse

StartResponse = Callable[..., Any]

OF_ONE_CONNECTION = frozenset({
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
    "transfer-encoding", "upgrade",
})  # fmt: skip
_OURS = frozenset({"content-length", "expect", "forwarded", "x-real-ip", "x-request-id", "x-scheme"})
"""Headers that the gateway sets, or that could contradict those. So is all that begins with ``x-forwarded-``."""


class UnixConnection(HTTPConnection):
    """An HTTP connection to a Unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(self.timeout)
        try:
            sock.connect(self._path)
        except BaseException:
            sock.close()
            raise
        self.sock = sock


def headers_of(environ: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Return the headers of a request as the application gets them, without those of its body's framing.

    The address and the scheme are those that the server found. What the client says about them is left out.
    """
    dropped = OF_ONE_CONNECTION | _OURS | named_in(environ.get("HTTP_CONNECTION", ""))
    for variable, value in environ.items():
        if variable.startswith("HTTP_"):
            name = variable[5:].replace("_", "-")
        elif variable == "CONTENT_TYPE":
            name = "CONTENT-TYPE"
        else:
            continue
        if name.lower() not in dropped and not name.startswith("X-FORWARDED-"):
            yield name.title(), value
    if "HTTP_HOST" not in environ:
        yield "Host", "localhost"  # HTTP/1.0 has none, and the request that follows is of HTTP/1.1
    yield "X-Forwarded-For", environ[CLIENT].address
    yield "X-Forwarded-Proto", environ["wsgi.url_scheme"]
    yield "X-Forwarded-Host", environ.get("HTTP_HOST", "")
    yield HEADER, environ[REQUEST_ID]
    yield "Connection", "close"


def named_in(connection: str) -> frozenset[str]:
    """Return the headers that a header ``Connection`` reserves for one connection, in lower case."""
    return frozenset(name.strip(" \t").lower() for name in connection.split(",")) - {"host"}


def begin(connection: HTTPConnection, method: str, target: str, headers: Iterable[tuple[str, str]]) -> None:
    """Send the head of a request. Raise OSError."""
    connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
    for name, value in headers:
        connection.putheader(name, value)
    connection.endheaders()


def answered_headers(response: HTTPResponse) -> list[tuple[str, str]]:
    """Return the headers of an answer that concern the client."""
    dropped = OF_ONE_CONNECTION | named_in(response.headers.get("Connection", ""))
    return [(name, value) for name, value in response.getheaders() if name.lower() not in dropped]


def send(response: HttpResponse, environ: Mapping[str, Any], start_response: StartResponse) -> list[bytes]:
    """Answer a WSGI request with a response of ours, with the id of the request."""
    status, headers, body = identified(response, environ[REQUEST_ID])
    start_response(status_line(status), headers)
    return [body]


def status_line(status: int, reason: str = "") -> str:
    if not reason:
        reason = HTTPStatus(status).phrase if status in HTTPStatus.__members__.values() else "Unknown"
    return f"{status} {reason}"
