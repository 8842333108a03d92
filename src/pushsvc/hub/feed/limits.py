"""Bounds of the feed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FeedLimits:
    """Times are in seconds."""

    read_anyway: float = 5.0
    """A followed log is read this often without a notification: a lost notification costs no more than that."""

    pause: float = 0.2
    """Time between two attempts while Redis is away."""

    notified_bytes: int = 1_000_000
    """Bytes of entries taken from notifications in one turn of the loop. The rest is read, as fast as it is sent."""

    unsure: float = 15.0
    """Time after a new epoch in which every notification leads to a read. A former primary of a cluster goes on
    sending notifications, with gaps, until this process has subscribed elsewhere."""

    wait: float = 5.0
    """Time in which Redis must confirm a subscription or answer."""
