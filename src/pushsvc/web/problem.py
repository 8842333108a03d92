"""Errors as ``application/problem+json`` (RFC 9457)."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

import orjson
from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from pushsvc.errors import PushError, TooLarge, Unavailable

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"


def install(app: Flask) -> None:
    """Make every error of the app a problem."""
    app.register_error_handler(PushError, _expected)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(Exception, _unexpected)


def problem(status: int, slug: str, title: str, detail: str | None, **members: Any) -> Response:
    body = {"type": f"urn:pushsvc:problem:{slug}", "title": title, "status": status, "detail": detail, **members}
    return Response(orjson.dumps(body), status, content_type=MEDIA_TYPE, headers={"Cache-Control": "no-store"})


def _expected(error: PushError) -> Response:
    # Redis's own words may tell addresses: they are for the log.
    detail = error.title if isinstance(error, Unavailable) else error.detail
    response = problem(error.status, error.slug, error.title, detail, **error.members())
    if isinstance(error, Unavailable):
        response.headers["Retry-After"] = str(error.retry_after)
    if error.status >= 500:
        log.warning("%s %s: %s", request.method, request.path, error.detail)
    return response


def _http(error: HTTPException) -> Response:
    if isinstance(error, RequestEntityTooLarge):
        limit = request.max_content_length
        return _expected(TooLarge(f"a request body has at most {limit} bytes; send several"))
    status = error.code or 500
    slug = HTTPStatus(status).phrase.lower().replace(" ", "-")
    response = problem(status, slug, error.name, error.description)
    for name, value in error.get_headers():
        if name.lower() in ("allow", "location"):
            response.headers[name] = value
    return response


def _unexpected(error: Exception) -> Response:
    log.exception("%s %s", request.method, request.path, exc_info=error)
    return problem(500, "internal", "Internal error", "the server's log says more")
