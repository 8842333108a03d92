"""Metrics of the hub. Sums over the deliveries of a pass are added once, not delivery by delivery."""

from prometheus_client import Counter, Gauge, Histogram

from pushsvc.metrics import BufferedCounter, BufferedGauge, BufferedHistogram

STREAMS = Gauge("pushsvc_streams", "Open event streams", multiprocess_mode="livesum")
STREAM_BYTES = BufferedCounter(Counter("pushsvc_stream_bytes_total", "Bytes given to event streams"))
DELIVERIES = BufferedCounter(Counter("pushsvc_deliveries_total", "Messages given to event streams"))
FOLLOWED = BufferedGauge(
    Gauge("pushsvc_logs_followed", "Logs that the busiest process follows", multiprocess_mode="livemax")
)
FOLLOWED_BYTES = BufferedGauge(
    Gauge("pushsvc_followed_bytes", "Bytes of the rows that the busiest process follows", multiprocess_mode="livemax")
)
BACKLOG = BufferedGauge(Gauge("pushsvc_backlog_bytes", "Bytes held for slow streams", multiprocess_mode="livesum"))
BEHIND = BufferedGauge(
    Gauge("pushsvc_streams_behind", "Streams that are slow, or are reading history", multiprocess_mode="livesum")
)
CONFLATED = Counter("pushsvc_updates_conflated_total", "Updates that newer rows replaced for a slow stream")
DROPPED = Counter("pushsvc_backlogs_dropped_total", "Backlogs that grew too large; the stream reads the log instead")
SLOW_CLOSES = Counter("pushsvc_slow_closes_total", "Streams ended because the client read nothing for too long")
ERRORS = Counter("pushsvc_dispatch_errors_total", "Internal errors while sending to streams")
IO_URING = Gauge("pushsvc_io_uring", "Web processes that send with io_uring", multiprocess_mode="livesum")
LATENCY = BufferedHistogram(
    Histogram(
        "pushsvc_fanout_seconds",
        "From the read of an entry to the end of its pass over all streams",
        buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
    )
)
