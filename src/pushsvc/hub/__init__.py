"""Fan-out: one live connection and one reader per partition, however many subscribe."""

from pushsvc.hub.hub import Hub
from pushsvc.hub.mirror import Mirror, Selection
from pushsvc.hub.streams import EventsQuery, StatisticsQuery, event_stream, statistics_stream

__all__ = ["EventsQuery", "Hub", "Mirror", "Selection", "StatisticsQuery", "event_stream", "statistics_stream"]
