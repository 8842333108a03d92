"""An aggregate that tests can look into."""

from pushsvc.aggregate.aggregate import Aggregate


class OpenAggregate(Aggregate):
    @property
    def engine(self):
        return self._engine

    def limit_memory(self, most_bytes):
        """Change the limit that the constructor takes."""
        self._most_bytes = most_bytes
