"""The error of the client, and how an HTTP answer becomes one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http.client import HTTPResponse
from typing import Any

from pushsvc.errors import PushError

_TEMPORARY = frozenset({429, 502, 503, 504})
"""Statuses after which the same request may succeed later."""

_NOTHING_STORED = frozenset(
    f"urn:pushsvc:problem:{slug}" for slug in ("broker-unavailable", "broker-full", "overloaded")
)
"""Problems that promise that no event was stored: the request can be repeated even without event ids."""


class ClientError(PushError):
    """The server refused the request, or the client could not reach it.

    ``reply`` is the HTTP status (None: no answer), ``problem`` the problem document. If ``temporary``, the same
    request may succeed later. If ``unknown``, the events may have been stored. ``retry_after`` is in seconds.
    """

    slug = "client"
    title = "The request failed"

    def __init__(
        self,
        detail: str,
        *,
        reply: int | None = None,
        problem: Mapping[str, Any] | None = None,
        temporary: bool = False,
        unknown: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.reply = reply
        self.problem = problem or {}
        self.temporary = temporary
        self.unknown = unknown
        self.retry_after = retry_after


def error_of(response: HTTPResponse, body: bytes) -> ClientError:
    """Return the error that an answer with an error status stands for."""
    problem = json_object(body) if response.headers.get_content_subtype().endswith("json") else {}
    detail = problem.get("detail") or problem.get("title") or response.reason
    return ClientError(
        f"{response.status} {detail}",
        reply=response.status,
        problem=problem,
        temporary=response.status in _TEMPORARY,
        unknown=response.status >= 500 and problem.get("type") not in _NOTHING_STORED,
        retry_after=_seconds(response.headers.get("Retry-After")),
    )


def reason_of(error: Exception) -> str:
    """Return the text of an exception, or its type if it has no text."""
    return str(error) or type(error).__name__


def json_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object in ``body``; {} if it holds none."""
    try:
        value = json.loads(body)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _seconds(text: str | None) -> float | None:
    return float(text) if text is not None and text.isascii() and text.isdigit() else None
