"""The id of a request: its answer, its problem document and the log lines about it have the same one."""

from __future__ import annotations

import re
from random import getrandbits

from flask import Flask, Request, Response, request

from pushsvc.web.responses import HttpResponse

HEADER = "X-Request-Id"
REQUEST_ID = "pushsvc.request_id"
"""``environ[REQUEST_ID]`` is the id that the server chose. The key is absent under another server."""

PROBLEM = "application/problem+json"
_ACCEPTED = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


def new_id() -> str:
    """Return an id that no other request is likely to have. It is no secret."""
    return f"{getrandbits(64):016x}"


def accepted_id(text: str | None) -> str:
    """Return the id that a trusted proxy sends, or a new one if it sends none, or one that is no plain word."""
    return text if text is not None and _ACCEPTED.fullmatch(text) else new_id()


def id_of(request: Request) -> str:
    """Return the id of a request."""
    found: str = request.environ.setdefault(REQUEST_ID, "") or new_id()
    request.environ[REQUEST_ID] = found
    return found


def identified(response: HttpResponse, id: str) -> HttpResponse:
    """Return a response with the id of its request, which a problem document also has as a member."""
    status, headers, body = response
    if status >= 400 and is_problem(headers):
        body = with_id(body, id)
    return HttpResponse(status, [*headers, (HEADER, id)], body)


def is_problem(headers: list[tuple[str, str]]) -> bool:
    return ("Content-Type", PROBLEM) in headers


def with_id(body: bytes, id: str) -> bytes:
    """Return a problem document with one more member."""
    return b'%b,"request_id":"%b"}' % (body[:-1], id.encode())


def install(app: Flask) -> None:
    """Give every answer of the app the id of its request."""

    @app.after_request
    def add_id(response: Response) -> Response:
        id = id_of(request)
        response.headers[HEADER] = id
        if response.content_type == PROBLEM:
            response.set_data(with_id(response.get_data(), id))
        return response
