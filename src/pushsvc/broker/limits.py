"""Limits of the broker; tests inject smaller ones."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BrokerLimits:
    """Sizes are in bytes, times in milliseconds unless stated otherwise."""

    timeout: float = 5.0  # seconds to wait for a connection or an answer

    chunk_events: int = 1_000
    chunk_bytes: int = 256_000
    """A larger request becomes several log entries within these bounds (or of one event that is larger)."""

    group_calls: int = 32
    group_bytes: int = 1_000_000
    """Calls and bytes of one round trip (or one call that is larger): few enough that, of 64 connections, Redis works
    for one half while this process works for the other."""

    waiting_calls: int = 4_096
    waiting_bytes: int = 64_000_000
    """Calls and bytes that may wait for their round trip; more are refused."""

    confirmed_bytes: int = 16_000_000
    """Bytes of a round trip that waits for the disk or for replicas. It may take a second, so all waiting calls go."""

    confirm_ms: int = 3_000  # how long a confirmation may take; less than ``timeout``

    ids_window: int = 600_000
    max_ids: int = 1_000_000
    """How long, and how many, ids and idempotency keys of a topic are remembered at least (at most twice that)."""
