"""Limits and time constants of an aggregator process. All times are in seconds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CheckpointPolicy:
    """When checkpoints are written, and how fast.

    share: of the CPU that counting takes, what checkpoints may take
    worth: CPU seconds of counting below which a checkpoint is never written
    interval: least time between two checkpoints of an engine
    poll_interval: least time between two looks for an engine that needs a checkpoint
    bytes_per_second: bound of the average write rate of a process: Redis's append-only file and replicas get it all
    burst: bytes per second while a checkpoint is written
    last: time for the last checkpoints of an orderly end; the leases must still be given back
    piece_bytes: bytes that Redis takes or gives in one command, in about half a millisecond
    """

    share: float = 0.05
    worth: float = 0.1
    interval: float = 5.0
    poll_interval: float = 1.0
    bytes_per_second: float = 1_000_000
    burst: float = 20_000_000
    last: float = 0.75
    piece_bytes: int = 500_000


@dataclass(frozen=True, slots=True)
class WorkerPolicy:
    """The limits of an aggregator process.

    lease: time after which another aggregator takes the partitions of a dead one
    leave_timeout: bound of giving the leases back, as they expire by themselves
    retry_pause: pause before a partition that failed is tried again
    poll_interval: time after which logs are read even without a notification, because one may be lost
    yield_interval: CPU time after which sockets and leases get a turn
    run_bytes: bytes of log entries that are applied as one; more would not make an event cheaper
    shard_timeout: time after which a shard's process that takes or answers nothing is given up
    ingest_bytes: bytes of raw messages that wait to be published
    """

    lease: float = 5.0
    leave_timeout: float = 1.0
    retry_pause: float = 0.5
    poll_interval: float = 5.0
    yield_interval: float = 0.005
    run_bytes: int = 64_000
    shard_timeout: float = 30.0
    ingest_bytes: int = 32_000_000
    checkpoints: CheckpointPolicy = CheckpointPolicy()
