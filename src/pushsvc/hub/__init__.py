"""Fan-out: one live connection and one reader per partition, however many subscribe."""

from pushsvc.hub.hub import Hub
from pushsvc.hub.mirror import Mirror, Selection
from pushsvc.hub.query import Query
from pushsvc.hub.streams import Stream

__all__ = ["Hub", "Mirror", "Query", "Selection", "Stream"]
