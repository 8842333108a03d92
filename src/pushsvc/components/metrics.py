"""Metrics of components."""

from prometheus_client import Counter, Gauge

HANDLED = Counter("pushsvc_component_events_total", "Events that handlers of a group handled", ["group"])
FAILURES = Counter("pushsvc_component_failures_total", "Failed attempts of handlers", ["group"])
DEAD = Counter("pushsvc_component_dead_total", "Events that were given up", ["group"])
EMITTED = Counter("pushsvc_component_emitted_total", "Events that handlers emitted", ["group"])
TRIMMED = Counter("pushsvc_component_trimmed_total", "Events that were trimmed before they were read", ["group"])
UNKNOWN = Counter("pushsvc_component_unknown_types_total", "Events of types that no handler takes", ["group"])
REFUSED_REPLIES = Counter("pushsvc_component_refused_replies_total", "Replies to undeclared topics", ["group"])
REFUSED_EMITS = Counter(
    "pushsvc_component_refused_emits_total", "Emitted events that a log refused for good", ["group"]
)
REFUSED_STATES = Counter(
    "pushsvc_component_refused_states_total", "Attempts that failed because of max_states", ["group"]
)
SECONDS = Counter("pushsvc_component_seconds_total", "Seconds that handlers took", ["group"])
LOST = Counter("pushsvc_component_processes_lost_total", "Processes of handlers that ended or hung")
LAG = Gauge("pushsvc_component_lag", "Events that the group has not handled", ["group"], multiprocess_mode="livesum")
STATES = Gauge("pushsvc_component_states", "Keys that have a state", ["group"], multiprocess_mode="livesum")
PARKED = Gauge("pushsvc_component_parked", "Events that wait for a retry", ["group"], multiprocess_mode="livesum")
OWNED = Gauge("pushsvc_component_partitions", "Partitions that are owned", ["group"], multiprocess_mode="livesum")
