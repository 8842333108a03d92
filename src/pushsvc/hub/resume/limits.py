"""Bounds of resuming."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ResumeLimits:
    """Times are in seconds."""

    readers: int = 8
    """Connections for which logs are read at the same time."""

    wait: float = 5.0
    """Time to wait for a group to know its logs, or for a follower to read as far as the client."""

    pause: float = 1.0
    """Time between two attempts while Redis is away."""

    recheck: float = 0.02
    """Time for a follower to notice that logs were trimmed, before the next plan looks for lost logs."""

    read_bytes: int = 256_000
    """Bytes of logs in one read for one connection. The next read follows when the socket has taken them."""
