"""Bounds of the hub's rooms. Times are in seconds, sizes in bytes."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FanoutLimits:
    """How long the writer works at a stretch, and how much a channel keeps."""

    slice: float = 0.002  # work of a pass after which the event loop gets a turn
    # While the hub is busy, messages of this time leave together. After silence they leave in the same loop turn.
    join: float = 0.001
    # Between two readings of the clock a pass sends at most step_bytes, but to at least step_members.
    step_bytes: int = 1_000_000
    step_members: int = 16
    # Bytes waiting in all channels at which the followers stop reading: the rest waits in Redis.
    unsent_bytes: int = 4_000_000
    # What one channel keeps for its slow connections, which share it (or one larger chunk).
    backlog_chunks: int = 1_000
    backlog_bytes: int = 1_000_000
    write_deadline: int = 60  # a peer that takes nothing of the waiting bytes for this time is disconnected


@dataclass(frozen=True, slots=True)
class FeedLimits:
    read_anyway: float = 5.0  # time between two looks for entries whose notification was lost
    pause: float = 0.2  # time between two attempts while Redis is away
    # Entries taken from notifications in one turn of the loop. The rest is read, as fast as it is sent.
    notified_bytes: int = 1_000_000
    # Events times consumers that entries bring in one turn of the loop, unless one entry brings more: some 20 ms.
    handed_out: int = 20_000
    wide: int = 20  # consumers of a log from which on less of it is read at once
    # Time after a new epoch in which every notification leads to a read. A former primary of a cluster goes on sending
    # notifications, with gaps, until this process has subscribed elsewhere.
    unsure: float = 15.0
    wait: float = 5.0  # time in which Redis must confirm a subscription or answer
    # Windows are asked for again and again, as a demand ends after a minute. The first frame comes within a fraction
    # of a second; after current_wait the log is read as it is. Meanwhile the aggregator is reminded.
    renew_interval: float = 20.0
    current_wait: float = 4.0
    remind_interval: float = 0.5
    slice: float = 0.002  # work after which the event loop gets a turn
    filters: int = 100  # filters that an event of a log is compared with, besides the look-up of its key
    pattern_filters: int = 20  # filters of all patterns, which are compared without slices
    # Bytes of rows, about, that a stream gets at once. They are joined in one step: 2 to 22 ms, and 3 to 11 more for
    # the copy with the label on a stream of several subscriptions.
    snapshot: int = 16_000_000
    followed_bytes: int = 128_000_000  # that the rows of all followed windows take, about
    # Bytes of frames from which on they are parsed in slices: some 2,000 rows.
    large_frames: int = 200_000
    # Logs that are read at once. More are read piece by piece, and other work is done in between.
    read_logs: int = 200


@dataclass(frozen=True, slots=True)
class ResumeLimits:
    readers: int = 8  # connections for which logs are read at the same time
    wait: float = 5.0  # time to wait for a group to know its logs, or for a follower to read as far as the client
    pause: float = 1.0  # time between two attempts while Redis is away
    recheck: float = 0.02  # time for a follower to notice that logs were trimmed, before the next plan
    read_bytes: int = 256_000  # of logs in one read for one connection; the next follows when the socket has taken them
