"""Errors as ``application/problem+json`` (RFC 9457)."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

import orjson
from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from pushsvc.errors import PushError, TooLarge, Unavailable
from pushsvc.web.answer import Answer

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"


def install(app: Flask) -> None:
    """Make every error of the app a problem."""
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(Exception, _any)


def problem(status: int, slug: str, title: str, detail: str | None, **members: Any) -> Answer:
    body = {"type": f"urn:pushsvc:problem:{slug}", "title": title, "status": status, "detail": detail, **members}
    return Answer(status, [("Content-Type", MEDIA_TYPE), ("Cache-Control", "no-store")], orjson.dumps(body))


def answer_to(error: Exception, where: str) -> Answer:
    """Return the problem that an error is, and log what the operator should know; ``where`` is method and path."""
    if not isinstance(error, PushError):
        log.error("%s: %s", where, error, exc_info=error)
        return problem(500, "internal", "Internal error", "the server's log says more")
    detail = error.title if isinstance(error, Unavailable) and not error.detail_is_public else error.detail
    answer = problem(error.status, error.slug, error.title, detail, **error.members())
    if isinstance(error, Unavailable):
        answer.headers.append(("Retry-After", str(error.retry_after)))
    if error.status >= 500:
        log.warning("%s: %s", where, error.detail)
    return answer


def _any(error: Exception) -> Response:
    return answer_to(error, f"{request.method} {request.path}").response()


def _http(error: HTTPException) -> Response:
    if isinstance(error, RequestEntityTooLarge):
        limit = (request.max_content_length or 1) - 1  # which is one more, see create_app
        return _any(TooLarge(f"a request body has at most {limit} bytes; send several"))
    status = error.code or 500
    slug = HTTPStatus(status).phrase.lower().replace(" ", "-")
    response = problem(status, slug, error.name, error.description).response()
    for name, value in error.get_headers():
        if name.lower() in ("allow", "location"):
            response.headers[name] = value
    return response
