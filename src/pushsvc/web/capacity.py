"""Answers requests on connections beyond a limit. The server marks them in the environ."""

from flask import Flask, Response, request

from pushsvc.errors import TooManyRequests
from pushsvc.hub.messages import farewell
from pushsvc.web.problem import problem
from pushsvc.web.responses import ended_stream, wants_stream

REFUSAL = "pushsvc.refused"
"""Why the connection is one too many, as text or as TooManyRequests; absent if it is accepted."""

_ALWAYS = frozenset({"/livez", "/readyz", "/metrics"})
"""Answered despite the limit: restarting a full server would make all its subscribers reconnect at once."""


def install(app: Flask) -> None:
    """Refuse marked requests. A stream gets 200, a time to reconnect and the reason."""

    @app.before_request
    def refuse() -> Response | None:
        reason: str | TooManyRequests | None = request.environ.get(REFUSAL)
        if reason is None or request.path in _ALWAYS:
            return None
        if isinstance(reason, TooManyRequests):
            raise reason
        if wants_stream():
            return ended_stream(farewell(reason))
        response = problem(503, "full", "Too many connections", reason).to_flask()
        response.headers["Retry-After"] = "5"
        return response
