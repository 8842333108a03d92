"""Asks the application whether a request may be served, and remembers what it allows."""

from __future__ import annotations

import json
import logging
import time
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b
from http.client import HTTPException
from typing import Any, NamedTuple

import gevent

from pushsvc.errors import Busy
from pushsvc.server.gateway.granted import MEDIA_TYPE, Granted
from pushsvc.server.gateway.upstream import UnixConnection, answered_headers, begin, headers_of
from pushsvc.web.long_requests import CLIENT, Seats
from pushsvc.web.problem import http_problem
from pushsvc.web.responses import HttpResponse

log = logging.getLogger(__name__)

_ANSWER = 65_536  # bytes, of a page that refuses, too
_REMEMBERED = 10_000
_REMEMBERED_METHODS = frozenset({"GET", "POST"})  # what manages is rare, and asked about each time
_AT_ONCE, _WAITING, _WAITING_PER_ADDRESS = 16, 2_000, 200
_OF_ONE_REQUEST = frozenset({
    "accept-encoding", "content-encoding", "content-type", "idempotency-key", "if-none-match", "last-event-id",
    "traceparent", "tracestate", "x-request-id",
})  # fmt: skip
"""Headers that differ between requests of one client. The application gets them, but its answer holds for others.

It gets no ``Accept-Encoding``: its answer is for us, and not compressed.
"""


class Permission(NamedTuple):
    """What the application allows, and the headers ``Set-Cookie`` that it has for this one request."""

    granted: Granted
    cookies: Sequence[tuple[str, str]] = ()


class Questions:
    """Asks over a Unix socket. A question takes at most ``timeout`` seconds, also while it waits for its turn."""

    def __init__(self, path: str, *, timeout: float = 10.0) -> None:
        self._path = path
        self._timeout = timeout
        self._seats = Seats(_AT_ONCE, _WAITING, _WAITING_PER_ADDRESS)
        self._allowed: OrderedDict[bytes, Permission] = OrderedDict()

    def ask(self, environ: dict[str, Any]) -> Permission | HttpResponse:
        """Return what the application allows, or its refusal. A problem says that it gave no answer."""
        method = "GET" if environ["REQUEST_METHOD"] == "HEAD" else environ["REQUEST_METHOD"]
        target: str = environ["REQUEST_URI"]
        headers = [one for one in headers_of(environ) if one[0] != "Accept-Encoding"]
        digest = _digest(method, target, headers)
        known = self._allowed.get(digest)
        if known is not None and known.granted.expires > time.time():
            self._allowed.move_to_end(digest)
            return known
        self._allowed.pop(digest, None)
        try:
            with gevent.Timeout(self._timeout, TimeoutError()), self._seats.seat(environ[CLIENT].address):
                found = self._exchange(method, target, headers)
        except TimeoutError:
            return http_problem(504, "the application did not answer in time")
        except (OSError, HTTPException, ValueError, Busy) as error:
            log.warning("the application gave no answer: %s %s", type(error).__name__, error)
            response = http_problem(503, "the application does not answer")
            response.headers.append(("Retry-After", "1"))
            return response
        if isinstance(found, Permission) and method in _REMEMBERED_METHODS:
            self._allowed[digest] = Permission(found.granted)
            if len(self._allowed) > _REMEMBERED:
                self._allowed.popitem(last=False)
        return found

    def _exchange(self, method: str, target: str, headers: list[tuple[str, str]]) -> Permission | HttpResponse:
        connection = UnixConnection(self._path, self._timeout)
        try:
            begin(connection, method, target, [*headers, ("Content-Length", "0")])
            response = connection.getresponse()
            body = response.read(_ANSWER + 1)
            if len(body) > _ANSWER:
                raise ValueError(f"it has more than {_ANSWER} bytes")
            if response.status == 200 and response.headers.get_content_type() == MEDIA_TYPE:
                cookies = [one for one in response.getheaders() if one[0].lower() == "set-cookie"]
                return Permission(Granted.decode(body), cookies)
            passed = [one for one in answered_headers(response) if one[0].lower() != "content-length"]
            return HttpResponse(response.status, passed, body)
        finally:
            connection.close()


def _digest(method: str, target: str, headers: list[tuple[str, str]]) -> bytes:
    kept = [one for one in headers if one[0].lower() not in _OF_ONE_REQUEST and not one[0].startswith("Ce-")]
    return blake2b(json.dumps((method, target, kept)).encode(), digest_size=16).digest()
