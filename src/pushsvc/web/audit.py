"""A line in the log for every request that was refused for want of a right, or of room within a limit."""

import json
import logging
import re
from dataclasses import dataclass

import orjson
from flask import Flask, Response, request

from pushsvc.errors import PushError
from pushsvc.web.authorization import granted
from pushsvc.web.long_requests import client_of
from pushsvc.web.request_id import PROBLEM, id_of

log = logging.getLogger("pushsvc.audit")

STATUSES = frozenset({401, 403, 429})
_ACTIONS = {"POST": "publish", "PATCH": "publish", "GET": "subscribe", "HEAD": "subscribe"}
_PREFIX = "urn:pushsvc:problem:"
_PLAIN = re.compile(r"[A-Za-z0-9_.:@/*>$%+-]+")
_MOST = 300  # characters of a value: some are those of the client


@dataclass(frozen=True, slots=True)
class RefusedRequest:
    """Who asked for what. ``id`` is that of the request."""

    id: str
    method: str
    address: str
    topic: str | None
    subject: str | None = None

    def note(self, status: int, reason: str, detail: str) -> None:
        """Log why it was refused. Errors do not repeat tokens."""
        fields = {
            "request_id": self.id,
            "action": _ACTIONS.get(self.method, self.method),
            "subject": self.subject,
            "address": self.address,
            "topic": self.topic,
            "status": status,
            "reason": reason,
            "detail": detail,
        }
        shown = " ".join(f"{name}={_shown(value)}" for name, value in fields.items())
        log.warning("refused %s", shown, extra={"fields": fields})

    def note_problem(self, status: int, document: bytes) -> None:
        """Log the refusal that a problem document tells."""
        problem = orjson.loads(document)
        self.note(status, str(problem["type"]).removeprefix(_PREFIX), problem["detail"] or problem["title"])


def install(app: Flask) -> None:
    """Log every problem of the app with one of the statuses of a refusal."""

    @app.after_request
    def note(response: Response) -> Response:
        if response.status_code in STATUSES and response.content_type == PROBLEM:
            _present().note_problem(response.status_code, response.get_data())
        return response


def note_refused_stream(error: PushError) -> None:
    """Log that the present request got a stream which only tells when to come back."""
    _present().note(error.status, error.slug, error.detail)


def _present() -> RefusedRequest:
    return RefusedRequest(
        id_of(request),
        request.method,
        client_of(request).address,
        (request.view_args or {}).get("topic") or _named_topics(),
        granted().subject or None,
    )


def _named_topics() -> str | None:
    """Return the topics that the query names."""
    named = request.args.getlist("events") + request.args.getlist("stats")
    return ",".join(named) or None


def _shown(value: object) -> str:
    """Return a value as one word: spaces and quotation marks of clients must not look like further fields."""
    if value is None:
        return "-"
    text = str(value)[:_MOST]
    return text if _PLAIN.fullmatch(text) else json.dumps(text)
