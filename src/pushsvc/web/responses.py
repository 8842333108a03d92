"""Responses that several resources share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson
from flask import Response, request

from pushsvc.errors import Unavailable
from pushsvc.hub.streams import Stream
from pushsvc.sse import MEDIA_TYPE as EVENT_STREAM

_STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", "Connection": "close", "Vary": "Accept"}


def json_response(body: Any, status: int = 200, **headers: str) -> Response:
    return Response(
        orjson.dumps(body), status, content_type="application/json", headers={"Cache-Control": "no-store", **headers}
    )


def text_response(body: str | bytes, media_type: str) -> Response:
    content_type = f"{media_type}; charset=utf-8" if media_type.startswith("text/") else media_type
    return Response(body, content_type=content_type, headers={"Cache-Control": "no-store", "Vary": "Accept"})


def stream_response(stream: Stream) -> Response:
    """Return an open-ended event stream. It is never refused for what time can mend.

    Where the server offers its socket (``pushsvc.handoff``) the hub takes it after the head; else it is iterated.
    """
    try:
        stream.open()
    except Unavailable as error:
        return _open_ended(stream.refusal(error))
    handoff = request.environ.get("pushsvc.handoff")
    if handoff is None or request.method != "GET":
        return _open_ended(stream)
    handoff(stream.take_over, stream.factory)
    return _open_ended(())


def _open_ended(body: bytes | Iterable[bytes]) -> Response:
    """Return a response without a length: its end is that of the connection."""
    response = Response(body, content_type=EVENT_STREAM, headers=_STREAM_HEADERS)
    response.automatically_set_content_length = False  # what follows an empty body is the stream
    return response
