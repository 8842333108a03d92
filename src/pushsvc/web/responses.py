"""Responses that several resources use, and the hand-over of a stream to the server."""

import socket
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any, NamedTuple, Protocol

import orjson
from flask import Response, current_app, g, request

from pushsvc.errors import Unavailable
from pushsvc.hub.streams import Stream
from pushsvc.sse import MEDIA_TYPE as EVENT_STREAM
from pushsvc.web.long_requests import client_of
from pushsvc.web.rates.streams import hold

HANDOFF = "pushsvc.handoff"
"""``environ[HANDOFF](take_over, factory)`` asks for the connection's socket. The view then answers 200 with the headers
of its stream and no body; the server sends the head and gives the socket to ``take_over``. ``factory``, which is
optional, makes the stream of a later equal request. The key is absent if the server cannot hand the socket over."""


class TakeOver(Protocol):
    """Takes the socket of a stream. Calls ``on_close`` when it has closed the socket. The head of the response says
    whether the bytes are ``chunked``."""

    def __call__(self, sock: socket.socket, on_close: Callable[[], None], *, chunked: bool) -> None: ...


StreamFactory = Callable[[str | None], Stream]  # makes a stream of the same query from another cursor

_STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", "Connection": "close", "Vary": "Accept"}


class HttpResponse(NamedTuple):
    """Status, headers (without Content-Length) and body, for any server."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def to_flask(self) -> Response:
        return Response(self.body, self.status, self.headers)


class BatchResponse(NamedTuple):
    """Responses to several requests, which differ only in their bodies."""

    status: int
    headers: list[tuple[str, str]]
    bodies: list[bytes]


def json_response(body: Any, status: int = 200, **headers: str) -> Response:
    return Response(
        orjson.dumps(body), status, content_type="application/json", headers={"Cache-Control": "no-store", **headers}
    )


def begun_response(pieces: Iterator[bytes], media_type: str) -> Response:
    """Return a response after its first piece was made: most failures happen there, before the head is sent."""
    return text_response(chain([next(pieces, b"")], pieces), media_type)


def text_response(body: str | bytes | Iterable[bytes], media_type: str) -> Response:
    content_type = f"{media_type}; charset=utf-8" if media_type.startswith("text/") else media_type
    return Response(body, content_type=content_type, headers={"Cache-Control": "no-store", "Vary": "Accept"})


def of_suffix(response: Response, suffix: str | None) -> Response:
    """Return the response. With a suffix the URL alone chooses its format, so it does not vary by ``Accept``."""
    if suffix is not None:
        response.vary.discard("Accept")
    return response


def stream_response(stream: Stream) -> Response:
    """Return an open-ended event stream.

    A temporary failure is answered with 200 and a time to reconnect: any other status ends a browser's EventSource for
    good. Raise TooManyRequests for more streams than the limits allow. If the server offers its socket, the hub takes
    it after the head; else the server iterates the stream.
    """
    context, client, grants = current_app.extensions["pushsvc"], client_of(request), g.get("grants")
    if grants is not None:
        stream.under(grants)
    try:
        stream.open()
        release = hold(context.streams, client.accounts or (), grants)
    except Unavailable as error:
        return _open_ended(stream.refusal(error))
    handoff = request.environ.get(HANDOFF)
    if handoff is None or request.method != "GET" or client.at_close is None:
        response = _open_ended(stream)
        if release is not None:
            response.call_on_close(release)
        return response
    if release is not None:
        client.at_close(release)
    handoff(stream.take_over, stream.factory)
    return _open_ended(())


def wants_stream() -> bool:
    """Return whether the present request asks for a stream, as far as its route does not matter."""
    asked = request.args.get("format")
    return asked == "sse" if asked is not None else EVENT_STREAM in request.headers.get("Accept", "")


def ended_stream(body: bytes) -> Response:
    """Return a stream that is complete."""
    return Response(body, content_type=EVENT_STREAM, headers={"Cache-Control": "no-store"})


def _open_ended(body: bytes | Iterable[bytes]) -> Response:
    """Return a response without a length, which ends with the connection."""
    response = Response(body, content_type=EVENT_STREAM, headers=_STREAM_HEADERS)
    response.automatically_set_content_length = False  # the stream follows an empty body
    return response
