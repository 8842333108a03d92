"""The errors of pushsvc, each with its HTTP status. Clients see them as problem documents (RFC 9457).

::

    PushError                        500  an error of pushsvc itself
    ├── InvalidInput                 400  the request is invalid; nothing was changed
    │   ├── InvalidTopic             400  a topic name or pattern is invalid
    │   ├── InvalidParameter         400  a query parameter is invalid; ``parameter`` names it
    │   ├── InvalidBatch             400  events are invalid; ``errors`` lists line, field and detail of each
    │   ├── InvalidDefinition        400  an alert is invalid; ``member`` names the part, ``fault`` the error in it
    │   ├── TooManyRows              400  a stream would begin with more rows of statistics than it may
    │   └── InvalidSetting           400  a setting is invalid (seen by the operator only)
    ├── MissingToken                 401  the request needs credentials
    │   └── InvalidToken             401  the credentials are not valid
    ├── Forbidden                    403  the Host or Origin header is not allowed
    │   ├── ReservedTopic            403  only the server itself publishes to the topic
    │   └── NotGranted               403  the credentials do not grant it, whether there is such a topic or not
    ├── NoStatistics                 404  the topic has no windows
    ├── NoLatest                     404  the topic does not keep the newest event of each key
    ├── NoEvent                      404  there is no such event
    ├── EventGone                    410  the log does not have the event any more
    ├── EventChanged                 412  the event is not as If-Match expects
    ├── WindowsIncomplete            409  a window counts events that the log does not have any more
    ├── NotAcceptable                406  the server has no representation that the client accepts
    ├── Fenced                       409  another process owns the partition now (never sent to clients)
    ├── TooLarge                     413  the request has too many bytes or events
    ├── UnsupportedMediaType         415  the server cannot read this Content-Type
    ├── KeyReused                    422  the Idempotency-Key belongs to an earlier, different request
    ├── TooManyRequests              429  a limit of the subject or address is used up
    ├── ClientGone                   499  the client closed its connection (never sent to clients)
    ├── Unavailable                  503  the same request may succeed later
    │   ├── BrokerUnavailable        503  Redis cannot be reached; nothing was stored
    │   ├── BrokerFull               503  Redis is full and refuses writes; nothing was stored
    │   ├── LogFull                  503  the log of the topic is full; nothing was stored
    │   ├── Overloaded               503  too many requests wait for Redis; nothing was stored
    │   ├── MemoryFull               503  the process holds too much for its clients; nothing was stored
    │   ├── Busy                     503  too many long requests wait for their turn
    │   ├── ApplicationUnavailable   503  the application at authorize_url gives no answer
    │   ├── TooManyLogsFollowed      503  the streams of this process follow too many topics
    │   ├── KeysUnavailable          503  the keys that verify tokens could not be fetched yet
    │   ├── TooManyFilters           503  the streams of this process compare events with too many filters
    │   ├── StatisticsUnavailable    503  no aggregator has counted a topic that has events
    │   └── OutcomeUnknown           503  the answer of Redis was lost; the events may be stored
    │       └── Unconfirmed          503  the events are stored, but not yet as safely as required
    ├── ClientError              500  raised by clients: the server refused the request, or could not be reached
    │   └── InvalidValue         500  raised by clients: an event cannot be written as JSON
    ├── TooManyTopics                507  the partition has as many topics as allowed
    ├── NoAlert                  404  there is no alert of that name
    ├── FixedAlert               409  the alert is in the settings of the server, where alone it can be changed
    ├── TooManyAlerts            507  there are as many alerts as allowed
    ├── TooManyRevocations           507  as many subjects are revoked as are remembered
    └── StartupError                 500  the process cannot start; the text is for the operator
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from typing import Any, ClassVar

from pushsvc_client.errors import ClientError as ClientError
from pushsvc_client.errors import InvalidValue as InvalidValue
from pushsvc_client.errors import PushError as PushError


class InvalidInput(PushError):
    status, slug, title = 400, "invalid-input", "Invalid input"


class TooManyRows(InvalidInput):
    """A stream would begin with more rows of statistics than one message may have."""

    slug, title = "too-many-rows", "The stream has too many rows of statistics"

    @classmethod
    def check(cls, size: int, most: int) -> None:
        """Raise the error for more than ``most`` bytes."""
        if size > most:
            raise cls(
                f"about {size / 1e6:,.0f} MB of rows, at most {most / 1e6:,.0f} MB (limits.snapshot) are sent at once: "
                "choose windows, keys or fields, or top"
            )


class InvalidTopic(InvalidInput):
    slug, title = "invalid-topic", "Invalid topic name"


class InvalidParameter(InvalidInput):
    slug, title = "invalid-parameter", "Invalid query parameter"

    def __init__(self, parameter: str, detail: str) -> None:
        super().__init__(f"{parameter}: {detail}")
        self.parameter = parameter

    def members(self) -> dict[str, Any]:
        return {"parameter": self.parameter}


class InvalidSetting(InvalidInput):
    slug, title = "invalid-setting", "Invalid setting"


class InvalidDefinition(InvalidInput):
    slug, title = "invalid-alert", "Invalid alert"

    def __init__(self, member: str, detail: str, fault: str | None = None) -> None:
        super().__init__(f"{member}: {detail}")
        self.member = member
        self.fault = fault

    def members(self) -> dict[str, Any]:
        return {"member": self.member, "fault": self.fault}


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault of one event. ``line`` counts array elements, NDJSON lines or CSV lines from 1."""

    line: int
    field: str | None
    detail: str


class InvalidBatch(InvalidInput):
    """Events are invalid. ``faults`` has at most 100 faults, ``more`` counts the rest."""

    slug, title = "invalid-events", "Invalid events"

    def __init__(self, faults: list[Fault], more: int = 0) -> None:
        first = faults[0]
        where = f"line {first.line}" + (f", field {first.field!r}" if first.field is not None else "")
        super().__init__(f"{where}: {first.detail}")
        self.faults = faults
        self.more = more

    def members(self) -> dict[str, Any]:
        return fault_members(self.faults, self.more)


def fault_members(faults: list[Fault], more: int) -> dict[str, Any]:
    """Return faults as members of a problem document or a receipt."""
    return {
        "errors": [{"line": fault.line, "field": fault.field, "detail": fault.detail} for fault in faults],
        "more": more,
    }


class MissingToken(PushError):
    """``challenge`` is the value of ``WWW-Authenticate`` (RFC 6750, 3)."""

    status, slug, title = 401, "missing-token", "The request needs credentials"
    challenge: ClassVar[str] = 'Bearer realm="pushsvc"'


class InvalidToken(MissingToken):
    slug, title = "invalid-token", "The credentials are not valid"
    challenge = 'Bearer realm="pushsvc", error="invalid_token"'


class Forbidden(PushError):
    status, slug, title = 403, "forbidden", "Forbidden"


class ReservedTopic(Forbidden):
    slug, title = "reserved-topic", "Only the server publishes to this topic"


class NotGranted(Forbidden):
    slug, title = "not-granted", "Not granted"


class NoStatistics(PushError):
    status, slug, title = 404, "no-statistics", "The topic has no statistics"

    def __init__(self, topic: str) -> None:
        super().__init__(f"{topic} has events only: the setting windows of this topic is []")


class NoLatest(PushError):
    status, slug, title = 404, "no-latest", "The topic keeps no latest events"

    def __init__(self, topic: str) -> None:
        super().__init__(f"{topic} does not keep the newest event of each key: set latest = true for it")


class NoEvent(PushError):
    status, slug, title = 404, "no-event", "There is no such event"


class EventGone(PushError):
    status, slug, title = 410, "event-gone", "The event is gone"


class EventChanged(PushError):
    status, slug, title = 412, "event-changed", "The event has changed"


class WindowsIncomplete(PushError):
    status, slug, title = 409, "windows-incomplete", "The windows cannot be counted again"


class NotAcceptable(PushError):
    status, slug, title = 406, "not-acceptable", "Not acceptable"


class Fenced(PushError):
    status, slug, title = 409, "fenced", "Another process owns the partition"


class TooLarge(PushError):
    status, slug, title = 413, "too-large", "Too large"


class UnsupportedMediaType(PushError):
    status, slug, title = 415, "unsupported-media-type", "Unsupported media type"


class KeyReused(PushError):
    status, slug, title = 422, "idempotency-key-reused", "The Idempotency-Key was used for another request"


class TooManyRequests(PushError):
    """``policy`` names the limit, of ``quota`` a second, or at a time if ``seconds`` is None. It has room again after
    ``wait`` seconds."""

    status, slug, title = 429, "too-many-requests", "Too many requests"

    def __init__(self, detail: str, policy: str, quota: int, wait: float, seconds: int | None = 1) -> None:
        super().__init__(detail)
        self.policy = policy
        self.wait = wait
        self.retry_after = max(1, ceil(wait))
        window = "" if seconds is None else f";w={seconds}"
        self.quota = f'"{policy}";q={quota}{window}'

    def members(self) -> dict[str, Any]:
        return {"violated-policies": [self.policy]}

    def headers(self) -> list[tuple[str, str]]:
        """Return the headers of the answer: RFC 9110, and draft-ietf-httpapi-ratelimit-headers-10."""
        return [
            ("Retry-After", str(self.retry_after)),
            ("RateLimit-Policy", self.quota),
            ("RateLimit", f'"{self.policy}";r=0;t={self.retry_after}'),
        ]


class ClientGone(PushError):
    status, slug, title = 499, "client-gone", "The client closed its connection"


class TooManyTopics(PushError):
    status, slug, title = 507, "too-many-topics", "Too many topics"


class NoAlert(PushError):
    status, slug, title = 404, "no-alert", "There is no such alert"


class FixedAlert(PushError):
    status, slug, title = 409, "fixed-alert", "The alert is in the settings of the server"


class TooManyAlerts(PushError):
    status, slug, title = 507, "too-many-alerts", "Too many alerts"


class TooManyRevocations(PushError):
    status, slug, title = 507, "too-many-revocations", "Too many subjects are revoked"


class Unavailable(PushError):
    """Clients may repeat the request after ``retry_after`` seconds.

    Unless ``detail_is_public``, they see the title instead of the detail: messages of Redis may contain addresses.
    """

    status, slug, title = 503, "unavailable", "Service unavailable"
    retry_after: int = 2
    detail_is_public: ClassVar[bool] = False


class BrokerUnavailable(Unavailable):
    slug, title = "broker-unavailable", "Redis is not reachable"


class BrokerFull(Unavailable):
    slug, title = "broker-full", "Redis refuses writes"
    retry_after = 10


class LogFull(Unavailable):
    """``wait`` is the ms until the log may drop events. ``retry_after`` is 1 to 60 seconds."""

    slug, title = "log-full", "The log of the topic is full"
    detail_is_public = True

    def __init__(self, detail: str, wait: int) -> None:
        super().__init__(detail)
        self.retry_after = min(60, max(1, -(-wait // 1000)))


class Overloaded(Unavailable):
    slug, title = "overloaded", "Too many requests wait for Redis"
    retry_after = 1


class MemoryFull(Unavailable):
    """The process has no room for what it would hold for a client: a body that arrives, or an answer."""

    slug, title = "memory-full", "The server holds too much for its clients"
    retry_after = 1

    def __init__(self, detail: str = title) -> None:
        super().__init__(detail)


class Busy(Unavailable):
    slug, title = "busy", "Too many long requests wait for their turn"
    detail_is_public = True


class TooManyLogsFollowed(Unavailable):
    slug, title = "too-much-followed", "The streams of this process follow too many topics and windows"


class KeysUnavailable(Unavailable):
    slug, title = "keys-unavailable", "The keys that verify tokens could not be fetched yet"
    retry_after = 5


class TooManyFilters(Unavailable):
    slug, title = "too-many-filters", "The streams of a topic have too many different filters (limits.filters)"


class ApplicationUnavailable(Unavailable):
    slug, title = "application-unavailable", "The application does not say who may do this"


class StatisticsUnavailable(Unavailable):
    """No aggregator has written statistics of a topic that has events."""

    slug, title = "statistics-unavailable", "No aggregator has counted the topic yet"


class OutcomeUnknown(Unavailable):
    slug = "outcome-unknown"
    title = "The outcome is unknown; repeating is safe for events with ids, or with the same Idempotency-Key"


class Unconfirmed(OutcomeUnknown):
    detail_is_public = True


class StartupError(PushError):
    slug, title = "startup", "Cannot start"


@contextmanager
def at_place(place: str) -> Iterator[None]:
    """Let errors that a request causes name the place in it."""
    try:
        yield
    except PushError as error:
        if error.status < 500:
            error.detail = f"{place}: {error.detail}"
        if isinstance(error, InvalidParameter):
            error.parameter = place
        raise
