"""Fan-out: one live connection and one reader per partition, however many subscribe."""

from pushsvc.hub.hub import Hub
from pushsvc.hub.mirror import Mirror, Selection
from pushsvc.hub.query import Query
from pushsvc.hub.streams import ListingStream, QueryStream, Stream

__all__ = ["Hub", "ListingStream", "Mirror", "Query", "QueryStream", "Selection", "Stream"]
