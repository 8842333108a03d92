"""Reads from the logs, piece by piece, what lies between a client's position and the live messages."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from pushsvc import sse
from pushsvc.broker.broker import Broker
from pushsvc.broker.keys import Log
from pushsvc.broker.log import EventsEntry, PartitionRead
from pushsvc.cursor import Position, encode
from pushsvc.hub import messages as sse_messages
from pushsvc.hub.query import Query


@dataclass(slots=True)
class LogPosition:
    """Where the reading of a log continues: after an offset, and after a sequence that the client has."""

    offset: int
    sequence: int


class HistoryLost(Exception):
    """The ``logs`` of a ``partition`` do not hold the events any more that were to be read."""

    def __init__(self, partition: int, logs: Collection[Log]) -> None:
        super().__init__(f"the logs of partition {partition} lost events that were to be read")
        self.partition = partition
        self.logs = logs


@dataclass(slots=True, eq=False)
class History:
    """The events after ``log_positions``. ``client_positions`` advance with every message that was read."""

    broker: Broker
    query: Query
    client_positions: dict[int, Position]
    log_positions: dict[Log, LogPosition]
    read_bytes: int

    def cursor(self) -> str:
        return encode(self.client_positions, self.query.digest)

    def read(self, goal: Mapping[int, Position]) -> list[bytes] | None:
        """Return the next messages up to a goal, each with its id; a piece may be empty. None: the goal is reached.

        Raises HistoryLost, and what the broker raises.
        """
        for partition, position in self.client_positions.items():
            until = goal.get(partition)
            logs = {of: at.offset for of, at in self.log_positions.items() if of.partition == partition}
            if not logs or until is None or position == until:
                continue
            read = self.broker.read(partition, logs, budget=self.read_bytes)
            trimmed = any(logged.trimmed > self.log_positions[of].sequence > 0 for of, logged in read.logs.items())
            if trimmed or read.epoch != until.epoch:
                raise HistoryLost(partition, logs)
            return self._messages(partition, read, until)
        return None

    def _messages(self, partition: int, read: PartitionRead, until: Position) -> list[bytes]:
        """Return the events of a read in order of sequence, up to the first end of a log whose read was cut."""
        cuts = [logged.entries[-1].sequence for logged in read.logs.values() if logged.more]
        limit = min([until.sequence, *cuts])
        found = sorted(
            ((entry.sequence, of, entry) for of, logged in read.logs.items() for entry in logged.entries),
            key=lambda item: item[0],
        )
        messages: list[bytes] = []
        for sequence, of, entry in found:
            if sequence > limit:
                break
            messages += self._events(partition, of, entry)
            self.log_positions[of].offset = entry.last
        reached = max(limit, self.client_positions[partition].sequence)
        self.client_positions[partition] = Position(until.epoch, reached)
        return messages

    def _events(self, partition: int, of: Log, entry: EventsEntry) -> Iterator[bytes]:
        """Yield the messages of an entry after the position in its log, and advance the client's position."""
        at, selected, reserved = self.log_positions[of], self.query.filter_of(of.topic), self.query.reserved_names
        if entry.correction is not None:
            message = sse_messages.correction(of, entry, selected, reserved)
            if message is not None and entry.last > at.offset and entry.sequence > at.sequence:
                self.client_positions[partition] = Position(self.client_positions[partition].epoch, entry.sequence)
                yield sse.with_id(message, self.cursor())
            return
        for offset, event in enumerate(entry.events, entry.first):
            sequence = entry.sequence_of(offset)
            if offset > at.offset and sequence > at.sequence and selected.matches(event):
                self.client_positions[partition] = Position(self.client_positions[partition].epoch, sequence)
                yield sse.with_id(sse_messages.event(of, entry, offset, reserved), self.cursor())
