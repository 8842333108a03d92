"""Responses that several resources share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
from flask import Response

from pushsvc.sse import MEDIA_TYPE as EVENT_STREAM
from pushsvc.web import metrics

_STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", "Connection": "close", "Vary": "Accept"}


def json_response(body: Any, status: int = 200, **headers: str) -> Response:
    return Response(
        orjson.dumps(body), status, content_type="application/json", headers={"Cache-Control": "no-store", **headers}
    )


def text_response(body: str | bytes, media_type: str) -> Response:
    content_type = f"{media_type}; charset=utf-8" if media_type.startswith("text/") else media_type
    return Response(body, content_type=content_type, headers={"Cache-Control": "no-store", "Vary": "Accept"})


def stream_response(frames: Iterator[bytes]) -> Response:
    """Return an open-ended event stream. It is never refused for what time can mend."""
    return Response(_counted(frames), content_type=EVENT_STREAM, headers=_STREAM_HEADERS)


def _counted(frames: Iterator[bytes]) -> Iterator[bytes]:
    with metrics.STREAMS.track_inprogress():
        for frame in frames:
            metrics.STREAM_BYTES.inc(len(frame))
            yield frame
