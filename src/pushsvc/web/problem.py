"""Errors as problem documents, ``application/problem+json`` (RFC 9457)."""

import logging
from http import HTTPStatus
from typing import Any

import orjson
from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from pushsvc.errors import MissingToken, PushError, TooLarge, TooManyRequests, Unavailable
from pushsvc.hub.messages import farewell
from pushsvc.web.audit import note_refused_stream
from pushsvc.web.request_id import PROBLEM
from pushsvc.web.responses import HttpResponse, ended_stream, wants_stream

log = logging.getLogger(__name__)

MEDIA_TYPE = PROBLEM


def install(app: Flask) -> None:
    """Make the app answer every error with a problem document."""
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(Exception, _any)


def problem(status: int, slug: str, title: str, detail: str | None, **members: Any) -> HttpResponse:
    """Return a problem document of the type ``slug``."""
    body = {"type": f"urn:pushsvc:problem:{slug}", "title": title, "status": status, "detail": detail, **members}
    return HttpResponse(status, [("Content-Type", MEDIA_TYPE), ("Cache-Control", "no-store")], orjson.dumps(body))


def http_problem(status: int, detail: str | None, title: str | None = None) -> HttpResponse:
    """Return the problem of an HTTP status. Its phrase is the type and the default title."""
    phrase = HTTPStatus(status).phrase
    return problem(status, phrase.lower().replace(" ", "-"), title or phrase, detail)


def internal_error(title: str = HTTPStatus(500).phrase) -> HttpResponse:
    """Return the problem of an unexpected exception. Only the log describes the exception."""
    return problem(500, PushError.slug, title, "the log of the server has the details")


def problem_of(error: Exception, where: str) -> HttpResponse:
    """Return the problem of an error, and log what the operator needs; ``where`` is the method and the path."""
    if not isinstance(error, PushError):
        log.error("%s: %s", where, error, exc_info=error)
        return internal_error(PushError.title)
    if error.status >= 500:
        log.warning("%s: %s", where, error.detail)
    return document_of(error)


def document_of(error: PushError) -> HttpResponse:
    """Return the problem of an error of ours, without a line in the log."""
    detail = error.title if isinstance(error, Unavailable) and not error.detail_is_public else error.detail
    answer = problem(error.status, error.slug, error.title, detail, **error.members())
    if isinstance(error, Unavailable):
        answer.headers.append(("Retry-After", str(error.retry_after)))
    if isinstance(error, MissingToken):
        answer.headers.append(("WWW-Authenticate", error.challenge))
    if isinstance(error, TooManyRequests):
        answer.headers.extend(error.headers())
    return answer


def _any(error: Exception) -> Response:
    if isinstance(error, TooManyRequests) and wants_stream():
        note_refused_stream(error)
        return ended_stream(farewell(error.detail, error.wait))
    return problem_of(error, f"{request.method} {request.path}").to_flask()


def _http(error: HTTPException) -> Response:
    if isinstance(error, RequestEntityTooLarge):
        limit = (request.max_content_length or 1) - 1  # create_app adds one
        return _any(TooLarge(f"a request body has at most {limit} bytes: send several requests"))
    response = http_problem(error.code or 500, error.description, error.name).to_flask()
    for name, value in error.get_headers():
        if name.lower() in ("allow", "location"):
            response.headers[name] = value
    return response
