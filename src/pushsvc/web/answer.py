"""What is answered to a request, whichever server asks."""

from __future__ import annotations

from typing import NamedTuple

from flask import Response


class Answer(NamedTuple):
    """Status, headers (without Content-Length) and body."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def response(self) -> Response:
        """Return it as Flask has it."""
        return Response(self.body, self.status, self.headers)


class Answers(NamedTuple):
    """What is answered to several requests: the same but for the bodies."""

    status: int
    headers: list[tuple[str, str]]
    bodies: list[bytes]
