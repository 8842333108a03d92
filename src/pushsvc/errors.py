"""Everything that pushsvc refuses or fails at, each with the HTTP status that it means.

::

    PushError
    ├── InvalidInput                 400  what was sent cannot be used; nothing was changed
    │   ├── InvalidTopic             400
    │   ├── InvalidParameter         400  a query parameter; names it
    │   ├── InvalidBatch             400  events; lists line, field and detail of each
    │   └── InvalidSetting           400  a configuration value; names it
    ├── Forbidden                    403  host or origin not allowed
    ├── NotAcceptable                406  no representation that the client accepts
    ├── TooLarge                     413
    ├── UnsupportedMediaType         415
    ├── Fenced                       409  a newer owner of the partition exists
    ├── KeyReused                    422  an idempotency key that named another request
    ├── TooManyTopics                507  the partition holds as many as it may
    ├── Unavailable                  503  safe to repeat later
    │   ├── BrokerUnavailable        503  Redis could not be reached; nothing was stored
    │   ├── BrokerFull               503  Redis refuses writes
    │   ├── LogFull                  503  windows need more of a log than it may hold; nothing was stored
    │   ├── Overloaded               503  too much waits for Redis; nothing was stored
    │   ├── TooManyLogsFollowed          503  streams of the process follow as many logs as they may
    │   └── OutcomeUnknown           503  sent, but the answer was lost
    │       └── Unconfirmed          503  stored, but not yet as safely as was asked for
    └── StartupError                 500  the process cannot start; the text is for the operator
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar


class PushError(Exception):
    """Root of the tree. ``slug`` names the problem type, ``status`` is the HTTP status it means."""

    status: ClassVar[int] = 500
    slug: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail

    def members(self) -> dict[str, Any]:
        """Return what this problem adds to the common members of RFC 9457."""
        return {}


class InvalidInput(PushError):
    status = 400
    slug = "invalid-input"
    title = "Invalid input"


class InvalidTopic(InvalidInput):
    slug = "invalid-topic"
    title = "Invalid topic name"


class InvalidParameter(InvalidInput):
    slug = "invalid-parameter"
    title = "Invalid query parameter"

    def __init__(self, parameter: str, detail: str) -> None:
        super().__init__(f"{parameter}: {detail}")
        self.parameter = parameter

    def members(self) -> dict[str, Any]:
        return {"parameter": self.parameter}


class InvalidSetting(InvalidInput):
    slug = "invalid-setting"
    title = "Invalid setting"


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with one event: ``line`` counts from 1 (array elements, NDJSON lines, CSV lines)."""

    line: int
    field: str | None
    detail: str


class InvalidBatch(InvalidInput):
    """Events were refused. ``faults`` holds at most 100 of them, ``more`` counts the rest."""

    slug = "invalid-events"
    title = "Invalid events"

    def __init__(self, faults: list[Fault], more: int = 0) -> None:
        first = faults[0]
        where = f"line {first.line}" + (f", field {first.field!r}" if first.field is not None else "")
        super().__init__(f"{where}: {first.detail}")
        self.faults = faults
        self.more = more

    def members(self) -> dict[str, Any]:
        return fault_members(self.faults, self.more)


def fault_members(faults: list[Fault], more: int) -> dict[str, Any]:
    """Return faults in the shape that problems and receipts share."""
    return {
        "errors": [{"line": fault.line, "field": fault.field, "detail": fault.detail} for fault in faults],
        "more": more,
    }


class Forbidden(PushError):
    status = 403
    slug = "forbidden"
    title = "Forbidden"


class NotAcceptable(PushError):
    status = 406
    slug = "not-acceptable"
    title = "Not acceptable"


class Fenced(PushError):
    status = 409
    slug = "fenced"
    title = "A newer owner exists"


class TooLarge(PushError):
    status = 413
    slug = "too-large"
    title = "Too large"


class UnsupportedMediaType(PushError):
    status = 415
    slug = "unsupported-media-type"
    title = "Unsupported media type"


class KeyReused(PushError):
    status = 422
    slug = "idempotency-key-reused"
    title = "The Idempotency-Key was used for another request"


class TooManyTopics(PushError):
    status = 507
    slug = "too-many-topics"
    title = "Too many topics"


class Unavailable(PushError):
    """Repeat after ``retry_after`` seconds. ``detail`` is for the log, unless it is ``told`` to clients: Redis's own
    words may tell addresses."""

    status = 503
    slug = "unavailable"
    title = "Service unavailable"
    retry_after: int = 2
    detail_is_public: ClassVar[bool] = False


class BrokerUnavailable(Unavailable):
    slug = "broker-unavailable"
    title = "Redis is not reachable"


class BrokerFull(Unavailable):
    slug = "broker-full"
    title = "Redis refuses writes"
    retry_after = 10


class LogFull(Unavailable):
    """``wait`` is the ms until something of the log may go; many are told, so none is sent away for long."""

    slug = "log-full"
    title = "The log of the topic is full"
    detail_is_public = True

    def __init__(self, detail: str, wait: int) -> None:
        super().__init__(detail)
        self.retry_after = min(60, max(1, -(-wait // 1000)))


class Overloaded(Unavailable):
    slug = "overloaded"
    title = "Too many requests wait for Redis"
    retry_after = 1


class TooManyLogsFollowed(Unavailable):
    slug = "too-much-followed"
    title = "Streams of this process follow as many topics and windows as they may"


class OutcomeUnknown(Unavailable):
    slug = "outcome-unknown"
    title = "The outcome is unknown; repeating is safe for events with ids, or with the same key"


class Unconfirmed(OutcomeUnknown):
    detail_is_public = True


class StartupError(PushError):
    slug = "startup"
    title = "Cannot start"
