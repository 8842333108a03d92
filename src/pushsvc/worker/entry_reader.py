"""Reads the events of log entries as columns."""

import logging

from pushsvc.event.columns import ColumnReader, Columns
from pushsvc.settings import TopicSettings

log = logging.getLogger(__name__)


class EntryReader:
    """Reads the entries of one topic; an unreadable entry, which another program wrote, has no events."""

    def __init__(self, topic: str, settings: TopicSettings) -> None:
        self._topic = topic
        self._reader = ColumnReader(settings.key, settings.values)
        self._none = Columns.from_events([], settings.key)
        self._unreadable = 0

    def read(self, offset: int, data: bytes) -> Columns:
        """Return the events of the entry that ends with ``offset``."""
        if not data:
            return self._none
        try:
            return self._reader.read(data)
        except Exception:
            # An entry must not stop the statistics of all later ones.
            log.exception("%s: the entry up to offset %d cannot be read", self._topic, offset)
            self._unreadable += 1
            return self._none

    def read_together(self, parts: list[bytes], count: int) -> Columns | None:
        """Return the ``count`` events of several entries; None if they must be read one by one."""
        try:
            events = self._reader.read(b"\n".join(parts))
        except Exception:  # noqa: BLE001 - reading them one by one finds the unreadable one
            return None
        return events if len(events) == count else None

    def take_unreadable(self) -> int:
        """Return how many entries were unreadable since the last call."""
        unreadable, self._unreadable = self._unreadable, 0
        return unreadable
