"""The limits of subjects and addresses, and their defaults."""

from __future__ import annotations

from dataclasses import dataclass

from pushsvc.event import Limits

_SHARE = 10
"""A process draws a tenth of a limit at a time: its allowance of 100 ms, or the room for a tenth of the streams."""

REQUESTS, EVENTS, CONNECTIONS = 2_000, 200_000, 1_000
STREAMS_OF_SUBJECT, STREAMS_OF_ADDRESS = 100, 1_000
"""What holds if a setting is not given. A loopback address is a proxy or a program of this machine, so that these do
not hold for it, but a limit that was set does."""


@dataclass(frozen=True, slots=True)
class Rate:
    """A limit by name, a second or at a time. A process draws ``slice`` at once; the first ``free`` are drawn later."""

    name: str
    quota: int

    @property
    def slice(self) -> int:
        return max(1, self.quota // _SHARE)

    @property
    def free(self) -> int:
        return self.quota // _SHARE


@dataclass(frozen=True, slots=True)
class RateLimits:
    """The limits of a subject or an address; None is no limit."""

    requests: Rate | None = None
    events: Rate | None = None
    connections: Rate | None = None
    streams_of_subject: Rate | None = None
    streams_of_address: Rate | None = None

    @classmethod
    def of(cls, limits: Limits, *, loopback: bool = False) -> RateLimits:
        """Return the limits that were set, where 0 is none, and the defaults of others unless for ``loopback``."""

        def rate(name: str, given: int | None, default: int) -> Rate | None:
            quota = given if given is not None else 0 if loopback else default
            return Rate(name, quota) if quota else None

        return cls(
            rate("requests", limits.requests_per_second, REQUESTS),
            rate("events", limits.events_per_second, EVENTS),
            rate("connections", limits.connections_per_second, CONNECTIONS),
            rate("streams-of-subject", limits.streams_per_subject, STREAMS_OF_SUBJECT),
            rate("streams-of-address", limits.streams_per_address, STREAMS_OF_ADDRESS),
        )
