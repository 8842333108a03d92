"""Limits of the broker; tests inject smaller ones."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class BrokerLimits:
    """Sizes are in bytes, times in milliseconds unless stated otherwise."""

    timeout: float = 5.0  # seconds to wait for a connection or an answer
    chunk_events: int = 1_000  # of a log entry; a larger request becomes several
    chunk_bytes: int = 256_000  # of a log entry, unless one event is larger
    indexed_chunk_events: int = 200  # of a topic with an index: a look-up reads an entry for each event that it finds
    indexed_chunk_bytes: int = 32_000
    # Of one round trip (or one call that is larger): few enough that, of 64 connections, Redis works for one half while
    # this process works for the other.
    group_calls: int = 32
    group_bytes: int = 1_000_000
    waiting_calls: int = 4_096  # calls that may wait for their round trip; more are refused
    waiting_bytes: int = 64_000_000
    # Of a round trip that waits for the disk or for replicas. It may take a second, so all waiting calls go.
    confirmed_bytes: int = 16_000_000
    confirm_ms: int = 3_000  # how long a confirmation may take; less than ``timeout``
    # How long, and how many, ids and idempotency keys of a topic are remembered at least (at most twice that).
    ids_window: int = 600_000
    max_ids: int = 1_000_000
    wanted_for: int = 60_000  # how long the frames of a window are wanted after somebody asked for them
    ended_age: int = 7 * 86_400_000  # how long a topic that ended is remembered, so that its offsets go on

    def indexed(self) -> BrokerLimits:
        """Return the limits of a topic with an index."""
        events = min(self.chunk_events, self.indexed_chunk_events)
        return replace(self, chunk_events=events, chunk_bytes=min(self.chunk_bytes, self.indexed_chunk_bytes))
