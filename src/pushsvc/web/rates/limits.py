"""The limits of subjects and addresses, and their defaults."""

from __future__ import annotations

from dataclasses import dataclass

from pushsvc.event import Limits

_SHARE = 10
"""A process draws a tenth of a limit at a time: its allowance of 100 ms, or the room for a tenth of the streams."""

_DEFAULTS = Limits()
"""They do not hold for a loopback address, which is that of a proxy or a program of this machine. Other limits do."""


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
        """Return the limits that are not 0, and for ``loopback`` those that are not the default either."""

        def rate(name: str, quota: int, default: int) -> Rate | None:
            return Rate(name, quota) if quota and not (loopback and quota == default) else None

        return cls(
            rate("requests", limits.requests_per_second, _DEFAULTS.requests_per_second),
            rate("events", limits.events_per_second, _DEFAULTS.events_per_second),
            rate("connections", limits.connections_per_second, _DEFAULTS.connections_per_second),
            rate("streams-of-subject", limits.streams_per_subject, _DEFAULTS.streams_per_subject),
            rate("streams-of-address", limits.streams_per_address, _DEFAULTS.streams_per_address),
        )
