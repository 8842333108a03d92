"""Reads from the logs what lies between a client's position and the live stream, a piece at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pushsvc import sse
from pushsvc.broker.broker import Broker
from pushsvc.broker.keys import Log
from pushsvc.broker.log import EventsEntry, PartitionRead
from pushsvc.cursor import Position, encode
from pushsvc.hub import messages as frames
from pushsvc.hub.query import Query
from pushsvc.hub.resume.plan import Place

CHUNK_BYTES = 256_000
"""Bytes of a log that are read at once for one connection; the next follow when its socket has taken them."""


class GoneError(Exception):
    """What was to be read is no longer in the logs of a ``partition``."""

    def __init__(self, partition: int) -> None:
        super().__init__(f"the logs of partition {partition} lost what was to be read")
        self.partition = partition


class History:
    """The events behind the ``places`` in the logs. ``have`` moves along: it is what the client has of each partition
    with all that was read for it."""

    def __init__(self, broker: Broker, query: Query, have: dict[int, Position], places: dict[Log, Place]) -> None:
        self.have = have
        self._broker = broker
        self._query = query
        self._places = places

    def read(self, goal: Mapping[int, Position]) -> list[bytes] | None:
        """Return the next messages up to a goal, each with its id; there may be none in a piece. None: it is reached.

        Raises GoneError, and what the broker raises.
        """
        for partition, position in self.have.items():
            until = goal.get(partition)
            logs = {of: place.offset for of, place in self._places.items() if of.partition == partition}
            if not logs or until is None or position == until:
                continue
            read = self._broker.read(partition, logs, budget=CHUNK_BYTES)
            if read.epoch != until.epoch or self._was_trimmed(read):
                raise GoneError(partition)
            return self._messages(partition, read, until)
        return None

    def _was_trimmed(self, read: PartitionRead) -> bool:
        return any(logged.trimmed > self._places[of].sequence > 0 for of, logged in read.logs.items())

    def _messages(self, partition: int, read: PartitionRead, until: Position) -> list[bytes]:
        """Return the events of a read in the order of their sequences, as far as all logs were read."""
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
            self._places[of].offset = entry.last
        self.have[partition] = Position(until.epoch, max(limit, self.have[partition].sequence))
        return messages

    def _events(self, partition: int, of: Log, entry: EventsEntry) -> Iterator[bytes]:
        """Yield the messages of an entry that lie behind the place in its log, and move the position along."""
        place = self._places[of]
        for offset, message in enumerate(frames.events(of, entry, self._query.named), entry.first):
            sequence = entry.sequence_of(offset)
            if offset > place.offset and sequence > place.sequence:
                self.have[partition] = Position(self.have[partition].epoch, sequence)
                yield sse.with_id(message, encode(self.have))
