"""Flask responses that several resources use."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson
from flask import Response, request

from pushsvc.errors import Unavailable
from pushsvc.hub.streams import Stream
from pushsvc.sse import MEDIA_TYPE as EVENT_STREAM
from pushsvc.web.handoff import HANDOFF

_STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", "Connection": "close", "Vary": "Accept"}


def json_response(body: Any, status: int = 200, **headers: str) -> Response:
    return Response(
        orjson.dumps(body), status, content_type="application/json", headers={"Cache-Control": "no-store", **headers}
    )


def text_response(body: str | bytes, media_type: str) -> Response:
    content_type = f"{media_type}; charset=utf-8" if media_type.startswith("text/") else media_type
    return Response(body, content_type=content_type, headers={"Cache-Control": "no-store", "Vary": "Accept"})


def stream_response(stream: Stream) -> Response:
    """Return an open-ended event stream.

    A temporary failure is answered with 200 and a time to reconnect: any other status ends a browser's EventSource for
    good. If the server offers its socket, the hub takes it after the head; else the server iterates the stream.
    """
    try:
        stream.open()
    except Unavailable as error:
        return _open_ended(stream.refusal(error))
    handoff = request.environ.get(HANDOFF)
    if handoff is None or request.method != "GET":
        return _open_ended(stream)
    handoff(stream.take_over, stream.factory)
    return _open_ended(())


def _open_ended(body: bytes | Iterable[bytes]) -> Response:
    """Return a response without a length, which ends with the connection."""
    response = Response(body, content_type=EVENT_STREAM, headers=_STREAM_HEADERS)
    response.automatically_set_content_length = False  # the stream follows an empty body
    return response
