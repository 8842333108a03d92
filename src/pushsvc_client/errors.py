"""The errors of the client. ``pushsvc.errors`` has the same classes, and those of the server."""

from collections.abc import Mapping
from typing import Any, ClassVar


class PushError(Exception):
    """The root of all errors. ``slug`` is the end of the problem ``type``, ``status`` the HTTP status."""

    status: ClassVar[int] = 500
    slug: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail

    def members(self) -> dict[str, Any]:
        """Return the members that this error adds to its problem document."""
        return {}


class ClientError(PushError):
    """The server refused the request, or the client could not reach it.

    ``reply`` is the HTTP status (None: no answer), ``problem`` the problem document. If ``temporary``, the same
    request may succeed later. If ``unknown``, the events may have been stored. ``retry_after`` is in seconds.
    ``receipt`` sums up the requests of the same call that succeeded before (None: there were none).
    """

    slug, title = "client", "The request failed"

    def __init__(
        self, detail: str, *, reply: int | None = None, problem: Mapping[str, Any] | None = None,
        temporary: bool = False, unknown: bool = False, retry_after: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__(detail)
        self.reply = reply
        self.problem = problem or {}
        self.temporary = temporary
        self.unknown = unknown
        self.retry_after = retry_after
        self.receipt: dict[str, Any] | None = None


class InvalidValue(ClientError, ValueError):
    """An event cannot be written as JSON. The text names its row, counted from 0, and its field."""

    slug, title = "invalid-value", "An event cannot be written as JSON"
