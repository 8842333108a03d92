"""Metrics of the web processes. Those of streams are in hub/metrics.py."""

from prometheus_client import Counter, Gauge, Histogram

from pushsvc.metrics import BufferedCounter, BufferedGauge, BufferedHistogram

EVENTS = BufferedCounter(Counter("pushsvc_events_accepted_total", "Events stored in a log"))
DUPLICATES = Counter("pushsvc_events_duplicate_total", "Events with a known id")
REJECTED = Counter("pushsvc_events_rejected_total", "Events refused as invalid")
LATE = Counter("pushsvc_events_late_total", "Events stored that were older than the longest window on arrival")
REPEATED = Counter("pushsvc_publish_repeated_total", "Requests answered again, known by their Idempotency-Key")
CROWDED = Counter("pushsvc_topics_refused_total", "Requests refused because their partition has no room for a topic")
UNAVAILABLE = Counter("pushsvc_publish_unavailable_total", "Requests answered 503, by the type of problem", ["problem"])

CONNECTIONS = BufferedGauge(
    Gauge("pushsvc_connections", "Open connections, streams among them", multiprocess_mode="livesum")
)
ACCEPTED = Counter("pushsvc_connections_accepted_total", "Connections accepted")
REFUSED = Counter("pushsvc_connections_refused_total", "Connections refused at a limit")
BAD_REQUESTS = Counter("pushsvc_bad_requests_total", "Requests that were not HTTP, too large or too slow")
MEMORY = BufferedGauge(
    Gauge(
        "pushsvc_memory_held_bytes",
        "Bytes held for clients: bodies, unread answers, backlogs",
        multiprocess_mode="livesum",
    )
)
MEMORY_REFUSALS = Counter("pushsvc_memory_refusals_total", "Requests and answers that ended for want of memory")
BUSY = Counter("pushsvc_long_requests_refused_total", "Long requests refused because too many wait for their turn")
LIMITED = Counter("pushsvc_limited_total", "Requests and streams refused by a limit of a subject or address", ["limit"])
ABANDONED = Counter("pushsvc_long_requests_abandoned_total", "Long requests ended because their client was gone")
LOOP_LAG = BufferedHistogram(
    Histogram(
        "pushsvc_loop_lag_seconds",
        "Delay of the timers of the event loop",
        buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0),
    ),
    flush_every=10,
)


def count_published(accepted: int, duplicates: int, rejected: int, late: int) -> None:
    """Count the events of a request by outcome. Most requests have one outcome, so the other counters are skipped."""
    EVENTS.inc(accepted)
    for counter, events in ((DUPLICATES, duplicates), (REJECTED, rejected), (LATE, late)):
        if events:
            counter.inc(events)
