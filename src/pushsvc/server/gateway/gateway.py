"""One port for an application and its streams: says which requests are whose."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import Any
from urllib.parse import unquote_to_bytes

from pushsvc.errors import TooManyRequests
from pushsvc.hub.messages import farewell
from pushsvc.server.gateway.granted import Granted
from pushsvc.server.gateway.granted_publish import GrantedPublish
from pushsvc.server.gateway.questions import Permission, Questions
from pushsvc.server.gateway.relay import Relay
from pushsvc.server.gateway.upstream import StartResponse, answered_headers, send, status_line
from pushsvc.server.wsgi import WsgiApp
from pushsvc.sse import MEDIA_TYPE as EVENT_STREAM
from pushsvc.web.capacity import REFUSAL
from pushsvc.web.html_data import HtmlData
from pushsvc.web.long_requests import CLIENT
from pushsvc.web.problem import document_of, problem
from pushsvc.web.responses import HttpResponse

log = logging.getLogger(__name__)

_OPEN = frozenset({"/client.js", "/livez", "/readyz"})
_API = "/v1/"
_PIECE = 65_536
_SILENCE = 30.0  # seconds, beyond the heartbeat, without a byte of a stream


@dataclass(frozen=True, slots=True)
class Behind:
    """What a web process needs to stand in front of an application.

    ``inner`` is a listener on this machine, where requests need a token. ``pages`` and ``questions`` are the Unix
    sockets of the application, ``prefixes`` the paths that are served here. ``waiting`` requests wait for its pages.
    ``heartbeat`` is the longest silence of a stream, in seconds.
    """

    inner: socket.socket
    pages: str
    questions: str
    prefixes: Sequence[str]
    waiting: int
    heartbeat: float


class Gateway:
    """A WSGI application. ``hub`` serves what the application allows, under a prefix; the rest is the application's.

    ``publish`` is a shorter way for plain requests that publish, if there is one.
    """

    def __init__(self, hub: WsgiApp, behind: Behind, publish: GrantedPublish | None = None) -> None:
        self._hub = hub
        self._publish = publish
        self._prefixes = tuple(prefix.rstrip("/") for prefix in behind.prefixes)
        self._inner: tuple[str, int] = behind.inner.getsockname()[:2]
        self._relay = Relay(behind.pages, most=behind.waiting)
        self._questions = Questions(behind.questions)
        self._timeout = behind.heartbeat + _SILENCE

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        # Decoded, as the application sees it: an escaped letter must not lead another way.
        inside = self._inside(environ["PATH_INFO"])
        if inside is None:
            refusal = environ.get(REFUSAL)
            if refusal is not None:
                return send(_too_many(refusal), environ, start_response)
            return self._relay(environ, start_response)
        if inside in _OPEN or environ["REQUEST_METHOD"] == "OPTIONS" or REFUSAL in environ:
            environ["PATH_INFO"] = inside
            return self._hub(environ, start_response)
        answer = self._questions.ask(environ)
        if isinstance(answer, Permission):
            return self._serve(answer.granted, environ, _with(answer.cookies, start_response))
        if answer.status in (503, 504) and EVENT_STREAM in environ.get("HTTP_ACCEPT", ""):
            # Any other status than 200 would end a browser's EventSource for good.
            answer = _ended(farewell("the application does not answer"))
        return send(answer, environ, start_response)

    def _inside(self, path: str) -> str | None:
        """Return the path behind a prefix; None if the request is the application's."""
        for prefix in self._prefixes:
            if path.startswith(prefix + "/"):
                inside = path[len(prefix) :]
                if inside in _OPEN or inside.startswith(_API):
                    return inside
        return None

    def _serve(self, granted: Granted, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        path, _, query = granted.path.partition("?")
        environ["PATH_INFO"] = unquote_to_bytes(path).decode("latin-1")
        environ["QUERY_STRING"] = query
        environ["HTTP_AUTHORIZATION"] = f"Bearer {granted.token}"
        environ.pop("HTTP_COOKIE", None)  # the application has looked at it
        if self._publish is not None and (published := self._publish.answer(granted.path, environ)) is not None:
            return send(published, environ, start_response)
        if granted.html:
            return self._rewritten(granted, environ, start_response)
        return self._hub(environ, start_response)

    def _rewritten(self, granted: Granted, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Answer with a stream whose messages are the HTML of its events. It is read from the hub as a client does."""
        headers = {"Host": "localhost", "Accept": EVENT_STREAM, "Authorization": environ["HTTP_AUTHORIZATION"]}
        headers["X-Forwarded-For"] = environ[CLIENT].address
        if last := environ.get("HTTP_LAST_EVENT_ID"):
            headers["Last-Event-ID"] = last
        connection = HTTPConnection(*self._inner, timeout=self._timeout)
        try:
            connection.request("GET", granted.path, headers=headers)
            response = connection.getresponse()
        except (OSError, HTTPException) as error:
            connection.close()
            log.warning("a stream of HTML did not begin: %s", error)
            return send(_ended(farewell("the stream did not begin")), environ, start_response)
        except BaseException:
            connection.close()
            raise
        passed = [one for one in answered_headers(response) if one[0].lower() not in ("date", "server")]
        start_response(status_line(response.status, response.reason), passed)
        return _messages(connection, response)


def _with(headers: Sequence[tuple[str, str]], start_response: StartResponse) -> StartResponse:
    """Return a ``start_response`` that adds headers."""
    if not headers:
        return start_response
    return lambda status, others, error=None: start_response(status, [*others, *headers], error)


def _messages(connection: HTTPConnection, response: HTTPResponse) -> Iterator[bytes]:
    rewrite = HtmlData().feed if response.headers.get_content_type() == EVENT_STREAM else bytes
    try:
        while piece := response.read1(_PIECE):
            if rewritten := rewrite(piece):
                yield rewritten
    except (OSError, HTTPException, ValueError) as error:
        log.warning("a stream of HTML broke off: %s", error)
    finally:
        response.close()
        connection.close()


def _too_many(refusal: str | TooManyRequests) -> HttpResponse:
    if isinstance(refusal, TooManyRequests):
        return document_of(refusal)
    response = problem(503, "full", "Too many connections", refusal)
    response.headers.append(("Retry-After", "5"))
    return response


def _ended(body: bytes) -> HttpResponse:
    return HttpResponse(200, [("Content-Type", EVENT_STREAM), ("Cache-Control", "no-store")], body)
