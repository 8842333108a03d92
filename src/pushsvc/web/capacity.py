"""Answers requests on connections beyond a limit. The server marks them in the environ."""

from flask import Flask, Response, request

from pushsvc import sse
from pushsvc.hub.messages import farewell
from pushsvc.web.problem import problem

REFUSAL = "pushsvc.refused"  # why the connection is one too many; absent if it is accepted

_ALWAYS = frozenset({"/livez", "/readyz", "/metrics"})
"""Answered despite the limit: restarting a full server would make all its subscribers reconnect at once."""


def install(app: Flask) -> None:
    """Refuse marked requests. A stream gets 200, a time to reconnect and the reason."""

    @app.before_request
    def refuse() -> Response | None:
        reason: str | None = request.environ.get(REFUSAL)
        if reason is None or request.path in _ALWAYS:
            return None
        if _wants_stream():
            return Response(farewell(reason), content_type=sse.MEDIA_TYPE, headers={"Cache-Control": "no-store"})
        response = problem(503, "full", "Too many connections", reason).to_flask()
        response.headers["Retry-After"] = "5"
        return response


def _wants_stream() -> bool:
    asked = request.args.get("format")
    return asked == "sse" if asked is not None else sse.MEDIA_TYPE in request.headers.get("Accept", "")
