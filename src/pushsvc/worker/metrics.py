"""The metrics of aggregators, for Prometheus."""

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import Counter, Gauge

from pushsvc.aggregate.row_updates import TopicCounts
from pushsvc.metrics import BufferedCounter

COUNTED = BufferedCounter(Counter("pushsvc_events_counted_total", "Events counted by an aggregator"))
FRAMES = Counter("pushsvc_frames_written_total", "Frames written to statistics logs", ["kind"])
ENTRIES = BufferedCounter(
    Counter("pushsvc_entries_read_total", "Entries of events logs that an aggregator has counted")
)
UNCOUNTABLE = Counter("pushsvc_entries_uncountable_total", "Entries of a log that could not be read or counted")
SHARDS_LOST = Counter("pushsvc_parts_lost_total", "Restarts of the shards of a topic after one was lost")
AHEAD = BufferedCounter(Counter("pushsvc_events_ahead_total", "Events not counted: too far ahead of their arrival"))
FOLDED = BufferedCounter(
    Counter("pushsvc_events_folded_total", "Events counted under __other__: their topic has more keys than max_keys")
)
IGNORED = BufferedCounter(
    Counter("pushsvc_numbers_ignored_total", "Numbers not counted: in fields beyond the limit of a topic")
)
MISSED = Counter("pushsvc_events_missed_total", "Events that were too late for a window", ["window"])
LAG = Gauge("pushsvc_aggregator_lag_ms", "Age of the newest event when it was counted", multiprocess_mode="livemax")

CELLS = Gauge(
    "pushsvc_statistics_cells", "Cells held: keys times fields times windows of all topics", multiprocess_mode="livesum"
)
MOST_CELLS = Gauge(
    "pushsvc_statistics_cells_limit", "Cells that the aggregators may hold together", multiprocess_mode="livesum"
)
CROWDED = Counter(
    "pushsvc_keys_folded_total", "Keys, once an entry, and fields without room of their own in limits.statistics_cells"
)
KEPT = Gauge(
    "pushsvc_statistics_kept_bytes",
    "Events of exact windows and of the last N, and values of fields, which also count as cells",
    multiprocess_mode="livesum",
)
LIMITED = Counter(
    "pushsvc_statistics_limited_total",
    "Times that topics had to keep fewer events or values than they are allowed, for lack of cells",
)
WAITING = Gauge(
    "pushsvc_topics_waiting", "Topics whose statistics wait for limits.opened_topics", multiprocess_mode="livesum"
)

CHECKPOINTS = Counter("pushsvc_checkpoints_written_total", "Checkpoints of engines written to Redis")
UNWRITTEN = Counter("pushsvc_checkpoints_failed_total", "Checkpoints that could not be written")
LOADED = Counter("pushsvc_checkpoints_loaded_total", "Checkpoints from which an aggregator restored an engine")
UNUSABLE = Counter("pushsvc_checkpoints_ignored_total", "Checkpoints that an aggregator could not use")
AGE = Gauge(
    "pushsvc_checkpoint_age_seconds",
    "Age of the oldest checkpoint of an engine with newer counted events",
    multiprocess_mode="livemax",
)
SIZE = Gauge("pushsvc_checkpoint_bytes", "Size of the last checkpoints of all engines", multiprocess_mode="livesum")


@contextmanager
def added(counts: TopicCounts) -> Iterator[None]:
    """Add the growth of a topic's counts inside the context to the metrics."""
    ahead, folded, ignored, missed = counts.ahead, counts.folded, counts.ignored, dict(counts.late_by_window)
    yield
    AHEAD.inc(counts.ahead - ahead)
    FOLDED.inc(counts.folded - folded)
    IGNORED.inc(counts.ignored - ignored)
    for window, late in counts.late_by_window.items():
        if late != missed[window]:
            MISSED.labels(window=window).inc(late - missed[window])
