"""The engine of one topic's window ``all``, in this process or in shards. It counts events in the forms that they have
when the log is read, and then the corrections that these forms do not include."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from pushsvc.aggregate.lifetime_record import EncodedRows, LifetimeHead, LifetimeRow, encode_record
from pushsvc.aggregate.row_updates import TopicCounts
from pushsvc.broker.log import Correction, EventsEntry
from pushsvc.pause import Pause, no_pause
from pushsvc.settings import TopicSettings
from pushsvc.stats.cells import UNBOUNDED, CellLedger
from pushsvc.worker.engine import LocalEngine
from pushsvc.worker.shards.pool import ShardPool, StartShard

log = logging.getLogger(__name__)

RECOUNTABLE = "corrections"  # values that are not exact because of them are exact after another count
_MOST_RANGES = 100


class LifetimeLog(ABC):
    """What a TopicEngine of one topic has counted of its log.

    ``lost`` are the offsets of events that were trimmed before they were counted, as ranges. Counting began ``after``
    an offset; -1: events were lost since then. ``approximate`` names what is not exact.
    """

    topics: dict[str, TopicCounts]
    _settings: TopicSettings

    def _begin_log(self) -> None:
        self.after = 0
        self.lost: list[tuple[int, int]] = []
        self.approximate: set[str] = set()
        self._included: dict[int, int] = {}  # by offset of an event: the correction that its counted form includes

    # -- state

    def begin(self, name: str, created: int, deleted: int, *, after: int, trimmed: bool) -> None:
        """Open the topic, to be counted after an offset. ``trimmed``: the log had earlier events."""
        counts = self._open_empty(name, created)
        counts.deleted, counts.offset, self.after = deleted, after, after
        self.lost = [(1, after)] if trimmed and after else []

    def load(self, name: str, head: LifetimeHead, rows: Sequence[LifetimeRow], record: bytes) -> None:
        """Open the topic with what a record has of it. Raise NoRoom, or another error for a record that makes no sense;
        the engine is then of no use."""
        self.after, self.lost, self._included = head.after, list(head.lost), dict(head.included)
        kept = {RECOUNTABLE, *(f"by {grouping}" for grouping in self._settings.key)}
        kept |= {"quantiles"} if self._settings.percents else set()
        self.approximate = kept.intersection(head.approximate) | missing_from(head, self._settings)
        self._load_rows(name, head, rows, record)

    @abstractmethod
    def _open_empty(self, name: str, created: int) -> TopicCounts:
        """Open the topic without rows."""

    @abstractmethod
    def _load_rows(self, name: str, head: LifetimeHead, rows: Sequence[LifetimeRow], record: bytes) -> None:
        """Open the topic with the rows of a record."""

    @abstractmethod
    def _encode_rows(self) -> list[EncodedRows]:
        """Return the rows of the topic."""

    def save(self) -> list[bytes]:
        """Return the record in parts of any size."""
        (counts,) = self.topics.values()
        encoded = self._encode_rows()
        head = LifetimeHead(
            created=counts.since, deleted=counts.deleted, offset=counts.offset, after=self.after, lost=self.lost,
            groupings=list(self._settings.key), quantiles=bool(self._settings.percents),
            approximate=sorted(self.approximate), included=list(self._included.items()),
            least=min((one.least for one in encoded if one.least is not None), default=None),
            greatest=max((one.greatest for one in encoded if one.greatest is not None), default=None),
        )  # fmt: skip
        return encode_record(head, encoded)

    def lose(self, name: str, through: int) -> None:
        """Note that the log has nothing of the events up to an offset that were not counted."""
        counts = self.topics[name]
        if through <= counts.offset:
            return
        self.lost.append((counts.offset + 1, through))
        if len(self.lost) > _MOST_RANGES:
            self.lost[:2] = [(self.lost[0][0], self.lost[1][1])]
        counts.offset, self.after = through, -1
        self._included = {event: offset for event, offset in self._included.items() if offset > through}

    def _notes(self) -> Mapping[str, object]:
        """Return further members of frames."""
        found: dict[str, object] = {"gap": self.lost[-1][1]} if self.lost else {}
        return found | {"approximate": sorted(self.approximate)} if self.approximate else found

    # -- in

    def apply_entries(self, name: str, entries: Sequence[EventsEntry], *, reported: bool) -> int:
        applied = 0
        run: list[EventsEntry] = []
        for entry in entries:
            if not run:
                self.lose(name, entry.first - 1)
            if entry.correction is None:
                if entry.marks:
                    self._included |= {event: mark.offset for event, mark in entry.marks.items()}
                run.append(entry)
                continue
            if run:
                applied += self._apply_events(name, run, reported=reported)
                run = []
            self._correct(name, entry.last, entry.correction)
        return applied + (self._apply_events(name, run, reported=reported) if run else 0)

    @abstractmethod
    def _apply_events(self, name: str, entries: Sequence[EventsEntry], *, reported: bool) -> int:
        """Count consecutive entries without corrections, as ``apply_entries``."""

    def _correct(self, name: str, offset: int, correction: Correction) -> None:
        """Count an event by its new form instead of its old one, unless it was counted by that form or not at all."""
        self.topics[name].offset = offset
        event = correction.offset
        included = self._included.get(event, 0)
        if included <= offset:
            self._included.pop(event, None)
        if included >= offset or any(first <= event <= last for first, last in self.lost):
            return
        exact = correction.old is not None
        for form, subtract in ((correction.old, True), (correction.new, False)):
            if form is not None:
                exact &= self._apply_form(name, offset, correction.arrival, form, subtract=subtract)
        if not exact:
            self.approximate.add(RECOUNTABLE)

    @abstractmethod
    def _apply_form(self, name: str, offset: int, arrival: int, form: bytes, *, subtract: bool) -> bool:
        """Take a form of an event out of the rows, or add it; return whether exact rows are still exact."""


class LocalLifetime(LifetimeLog, LocalEngine):
    """The engine in this process."""

    def __init__(
        self, settings: TopicSettings, *, pause: Pause = no_pause, cells: CellLedger | None = None
    ) -> None:  # fmt: skip
        LocalEngine.__init__(self, settings, 0, pause=pause, cells=cells)
        self._begin_log()

    def _open_empty(self, name: str, created: int) -> TopicCounts:
        return self.open(name, created)

    def _load_rows(self, name: str, head: LifetimeHead, rows: Sequence[LifetimeRow], record: bytes) -> None:
        self.open(name, head.created)
        self.load_lifetime(name, head, rows)

    def _encode_rows(self) -> list[EncodedRows]:
        return [self.encode_lifetime(name) for name in self.topics]

    def _apply_events(self, name: str, entries: Sequence[EventsEntry], *, reported: bool) -> int:
        return LocalEngine.apply_entries(self, name, entries, reported=reported)

    def _apply_form(self, name: str, offset: int, arrival: int, form: bytes, *, subtract: bool) -> bool:
        events = self._reader_of(name).read(offset, form)
        try:
            even = self.apply_form(name, offset, arrival, events, subtract=subtract)
        except Exception:
            # The offset has passed: a failure must not end the statistics of all later events.
            log.exception("%s: the correction with offset %d cannot be counted", name, offset)
            return False
        return even and not events.fields


class ShardedLifetime(LifetimeLog, ShardPool):
    """The engine of a topic with parts: each process counts the keys of its own. The number of parts may change."""

    def __init__(self, settings: TopicSettings, start: StartShard, *, cells: int = UNBOUNDED) -> None:
        ShardPool.__init__(self, settings, 0, start, cells=cells)
        self._begin_log()

    def _open_empty(self, name: str, created: int) -> TopicCounts:
        return self.open(name, created)

    def _load_rows(self, name: str, head: LifetimeHead, rows: Sequence[LifetimeRow], record: bytes) -> None:
        counts = self._add_topic(name, head.created)
        counts.deleted, counts.offset = head.deleted, head.offset
        self._start([record] * self._settings.parts)

    def _encode_rows(self) -> list[EncodedRows]:
        return [state.rows for state in self._states() if state.rows is not None]

    def _apply_events(self, name: str, entries: Sequence[EventsEntry], *, reported: bool) -> int:
        return ShardPool.apply_entries(self, name, entries, reported=reported)

    def _apply_form(self, name: str, offset: int, arrival: int, form: bytes, *, subtract: bool) -> bool:
        self.send_form(offset, arrival, form, subtract=subtract)
        return False


LifetimeEngine = LocalLifetime | ShardedLifetime


def missing_from(head: LifetimeHead, settings: TopicSettings) -> set[str]:
    """Return the groupings and statistics that the settings ask for and the record does not have."""
    found = {f"by {grouping}" for grouping in settings.key if grouping not in head.groupings}
    return found | {"quantiles"} if settings.percents and not head.quantiles else found
