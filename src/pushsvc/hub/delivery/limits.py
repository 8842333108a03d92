"""Bounds of delivery: how long the writer works at a stretch, and how much it keeps."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FanoutLimits:
    """Times are in seconds, sizes in bytes."""

    slice: float = 0.002
    """Work of a pass after which the event loop gets a turn."""

    join: float = 0.001
    """While the hub is busy, messages of this time leave together. After silence they leave in the same loop turn."""

    step_bytes: int = 1_000_000
    step_members: int = 16
    """Between two readings of the clock a pass sends at most ``step_bytes``, but to at least ``step_members``."""

    unsent_bytes: int = 4_000_000
    """Bytes waiting in all channels at which the followers stop reading: the rest waits in Redis."""

    backlog_chunks: int = 1_000
    backlog_bytes: int = 1_000_000
    """What one channel keeps for its slow connections, which share it (or one larger chunk)."""

    write_deadline: int = 60
    """A peer that takes nothing of the waiting bytes for this time is disconnected."""
