"""What a connection beyond a cap is answered. The server says in the environ why it is one too many."""

from __future__ import annotations

from flask import Flask, Response, request

from pushsvc import sse
from pushsvc.hub.messages import farewell
from pushsvc.web.problem import problem

REFUSED = "pushsvc.refused"
_RETRY_AFTER = "5"
_ALWAYS = frozenset({"/livez", "/readyz", "/metrics"})
"""Who restarts a full server makes all its subscribers come back at once."""


def install(app: Flask) -> None:
    """Refuse what the server marked. A stream gets 200, a time to come back and the reason."""

    @app.before_request
    def refuse() -> Response | None:
        reason: str | None = request.environ.get(REFUSED)
        if reason is None or request.path in _ALWAYS:
            return None
        if _wants_stream():
            return Response(farewell(reason), content_type=sse.MEDIA_TYPE, headers={"Cache-Control": "no-store"})
        response = problem(503, "full", "Too many connections", reason).response()
        response.headers["Retry-After"] = _RETRY_AFTER
        return response


def _wants_stream() -> bool:
    asked = request.args.get("format")
    return asked == "sse" if asked is not None else sse.MEDIA_TYPE in request.headers.get("Accept", "")
