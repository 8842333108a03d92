"""``/session``: signs a browser in and out.

The token stays in a cookie that scripts cannot read and that only this host gets. So the page's requests present it
by themselves, and a script that got into a page could not carry it away, as it could from sessionStorage.
"""

from __future__ import annotations

from hashlib import blake2b
from math import inf
from typing import Any

import orjson
from flask import Blueprint, Response, request

from pushsvc.auth.access import Access, Presented
from pushsvc.auth.grants import Grants
from pushsvc.clock import format_time
from pushsvc.errors import InvalidInput, MissingToken, UnsupportedMediaType
from pushsvc.system_clock import now_ms
from pushsvc.web.authorization import COOKIE
from pushsvc.web.context import Context
from pushsvc.web.parameters import Parameters
from pushsvc.web.responses import json_response

_LONGEST = 3_900
"""Most characters of a token in a cookie: browsers keep cookies of at most 4,096 bytes, with name and attributes."""

_LONGEST_BODY = 8_192


def blueprint(context: Context) -> Blueprint:
    resource = Blueprint("session", __name__, url_prefix="/session")

    @resource.get("")
    def show() -> Response:
        Parameters(request.args, ())
        grants = None
        if context.access is not None and COOKIE in request.cookies:
            try:
                grants = context.access.grants(Presented(cookie=request.cookies[COOKIE]), now_ms() / 1_000)
            except MissingToken:
                grants = None
        return json_response(_described(context.access, grants, request.cookies.get(COOKIE, "")))

    @resource.post("")
    def sign_in() -> Response:
        Parameters(request.args, ())
        if context.access is None:
            raise InvalidInput("authorization is off: nobody needs to sign in")
        token = _token()
        grants = context.access.grants(Presented(f"Bearer {token}"), now_ms() / 1_000)
        answer = json_response(_described(context.access, grants, token))
        age = None if grants.expires == inf else max(1, int(grants.expires - now_ms() / 1_000))
        answer.set_cookie(COOKIE, token, max_age=age, secure=True, httponly=True, samesite="Strict")
        return answer

    @resource.delete("")
    def sign_out() -> Response:
        Parameters(request.args, ())
        answer = Response(status=204)
        answer.delete_cookie(COOKIE, secure=True, httponly=True, samesite="Strict")
        return answer

    return resource


def _token() -> str:
    """Return the token in the body of the request; raise UnsupportedMediaType or InvalidInput."""
    if request.mimetype != "application/json":  # a form of another site could send any other
        raise UnsupportedMediaType('application/json is expected: {"token": "…"}')
    body = request.stream.read(_LONGEST_BODY + 1)
    try:
        found = orjson.loads(body) if len(body) <= _LONGEST_BODY else None
    except orjson.JSONDecodeError:
        found = None
    token = found.get("token") if isinstance(found, dict) else None
    if not isinstance(token, str) or not 0 < len(token) <= _LONGEST or not token.isascii() or not token.isprintable():
        raise InvalidInput(f'{{"token": "…"}} is expected, a token or API key of at most {_LONGEST} characters')
    return token


def _described(access: Access | None, grants: Grants | None, token: str) -> dict[str, Any]:
    """Return whether requests need credentials, and what the cookie of this one is worth.

    The id tells sessions apart: of the same subject, too, whose tokens may grant different topics.
    """
    expires = None if grants is None or grants.expires == inf else format_time(int(grants.expires * 1_000))
    return {
        "required": access is not None,
        "signed_in": grants is not None,
        "id": blake2b(token.encode(), digest_size=12).hexdigest() if grants is not None else None,
        "sub": grants.subject or None if grants is not None else None,
        "expires": expires,
        "reads": access is None or bool((grants or access.anonymous).subscribe),
    }
