"""Limits and time constants of an aggregator process. Times are in seconds."""

from dataclasses import dataclass
from math import inf


@dataclass(frozen=True, slots=True)
class CheckpointPolicy:
    """When checkpoints are written, and how fast."""

    share: float = 0.05  # of the CPU time of counting: the part that checkpoints may take
    worth: float = 0.1  # CPU seconds of counting below which no checkpoint is written
    interval: float = 5.0  # least time between two checkpoints of an engine
    poll_interval: float = 1.0  # time between two searches for an engine that needs a checkpoint
    bytes_per_second: float = 1_000_000  # average of a process: the append-only file and replicas get it all
    burst: float = 20_000_000  # bytes per second while a checkpoint is written
    last: float = 0.75  # for the last checkpoints of an orderly end; leases must still be given back
    piece_bytes: int = 500_000  # of one command to Redis, which takes about half a millisecond
    latest: float = inf  # time after which what was counted is written, whatever it costs


@dataclass(frozen=True, slots=True)
class WorkerPolicy:
    """The limits of an aggregator process."""

    lease: float = 5.0  # after which another aggregator takes the partitions of a dead one
    leave_timeout: float = 1.0  # of giving the leases back, as they expire by themselves
    retry_pause: float = 0.5  # before a partition that failed is tried again
    poll_interval: float = 5.0  # after which logs are read without a notification: one may be lost
    quiet_share: float = 0.2  # of the time: the part that statistics without subscribers may take
    quiet_pause: float = 0.5  # longest time for which these wait
    reading_pause: float = 0.02  # for which notifications about these stay in the socket: one at a time, each wakes us
    # Entries of a log from which the windows of a topic are rebuilt when somebody asks for them; 0: all are counted.
    rebuilt_entries: int = 1_000
    yield_interval: float = 0.005  # after which sockets and leases get a turn
    run_bytes: int = 64_000  # of entries that are applied as one: more would not make an event cheaper
    shard_timeout: float = 30.0  # after which a shard that takes or answers nothing is given up
    recount_interval: float = 1.0  # between two times that corrected topics are counted again
    ingest_bytes: int = 32_000_000  # of raw messages that wait to be published
    checkpoints: CheckpointPolicy = CheckpointPolicy()
    # The log need not have what a window ``all`` has counted, so its records are written soon.
    lifetimes: CheckpointPolicy = CheckpointPolicy(worth=0.0, poll_interval=0.05, latest=15.0)
    lifetime_recount_interval: float = 60.0  # between two times that windows ``all`` of a partition are counted again
