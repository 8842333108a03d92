"""HTTP responses that do not depend on the server that sends them."""

from __future__ import annotations

from typing import NamedTuple

from flask import Response


class HttpResponse(NamedTuple):
    """Status, headers (without Content-Length) and body."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def to_flask(self) -> Response:
        return Response(self.body, self.status, self.headers)


class BatchResponse(NamedTuple):
    """Responses to several requests, which differ only in their bodies."""

    status: int
    headers: list[tuple[str, str]]
    bodies: list[bytes]
