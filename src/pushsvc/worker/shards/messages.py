"""The messages between the owner of a sharded topic and the processes of its shards.

A message is its length in four bytes and MessagePack. A shard answers ``OpenShard``, ``GetReports``, ``GetRows`` and
``GetState`` once each, in order, and nothing else. So an answer covers exactly the entries that were sent before its
question.
"""

from __future__ import annotations

import socket
from typing import Any

import msgspec

from pushsvc.aggregate.lifetime_record import EncodedRows
from pushsvc.aggregate.merge import ShardReport
from pushsvc.aggregate.reading import RowsWanted
from pushsvc.aggregate.row_updates import TopicCounts
from pushsvc.aggregate.shard_reading import ShardRows
from pushsvc.settings import TopicSettings
from pushsvc.stats.cells import UNBOUNDED

_LENGTH = 4


class OpenShard(msgspec.Struct, tag=True):
    """Become a shard of a topic created at ``since`` (ms): from a ``state``, or with the clock at ``time`` (ms). It
    holds at most ``cells``. The state of a window ``all`` is its whole record."""

    settings: TopicSettings
    number: int
    name: str
    since: int
    time: int
    state: bytes | None = None
    cells: int = UNBOUNDED


class ApplyEntry(msgspec.Struct, tag=True):
    """Count an entry of the log that ends with ``offset``. ``reported``: its late events are in the metadata.

    With ``form`` it is one event that a correction with this offset takes out of the window ``all`` (-1) or adds (1).
    """

    offset: int
    arrival: int
    reported: bool
    data: bytes
    form: int = 0


class SetDemand(msgspec.Struct, tag=True):
    """Note whether reports of a window are wanted. While they are not, the rows that leave it are freed."""

    window: str
    wanted: bool


class GetReports(msgspec.Struct, tag=True):
    """Report some windows, in ``full`` or what changed. The clock first moves to ``time`` (ms)."""

    time: int | None
    full: bool
    windows: list[int]


class GetRows(msgspec.Struct, tag=True):
    """Return single statistics; what reports have does not change. The clock first moves to ``time`` (ms)."""

    time: int | None
    wanted: RowsWanted


class GetState(msgspec.Struct, tag=True):
    """Return the state."""


class ShardCounts(msgspec.Struct, array_like=True):
    """Fields of TopicCounts. All but ``folded`` are the same in every shard."""

    late: int
    reported_late: int
    late_by_window: dict[str, int]
    ahead: int
    folded: int
    ignored: int

    @classmethod
    def of(cls, counts: TopicCounts) -> ShardCounts:
        return cls(*(getattr(counts, name) for name in cls.__struct_fields__))

    def set_on(self, counts: TopicCounts) -> None:
        for name in self.__struct_fields__:
            setattr(counts, name, getattr(self, name))


class Reports(msgspec.Struct, tag=True):
    """The answer to ``OpenShard`` and ``GetReports``.

    ``schedule`` has for each window whether it changed, and the ms at which the clock may change it. ``unreadable``
    entries were counted without events. ``spent`` are the CPU seconds since the last answer.
    """

    offset: int
    reports: list[ShardReport]
    schedule: list[tuple[bool, int | None]]
    counts: ShardCounts
    unreadable: int
    spent: float


class RowsRead(msgspec.Struct, tag=True):
    """The answer to ``GetRows``; ``spent`` as in Reports."""

    rows: ShardRows
    spent: float


class State(msgspec.Struct, tag=True):
    """The answer to ``GetState``; ``spent`` as in Reports. The state of a window ``all`` are its ``rows``."""

    state: bytes
    spent: float
    rows: EncodedRows | None = None


class StateRejected(msgspec.Struct, tag=True):
    """An answer to ``OpenShard``: the state cannot be restored, or not now for lack of room."""

    detail: str
    no_room: bool = False


class ApplyFailed(msgspec.Struct, tag=True):
    """An answer to anything: counting the entry that ends with ``offset`` failed, and no later entry was counted."""

    offset: int


Request = OpenShard | ApplyEntry | SetDemand | GetReports | GetRows | GetState
Response = Reports | RowsRead | State | StateRejected | ApplyFailed

_encoder = msgspec.msgpack.Encoder()


def encode(message: Request | Response) -> bytes:
    data = _encoder.encode(message)
    return len(data).to_bytes(_LENGTH, "big") + data


class MessageReader:
    """Reads messages of some types from a socket."""

    def __init__(self, source: socket.socket, types: Any) -> None:
        self._source = source
        self._decoder = msgspec.msgpack.Decoder(types)

    def read(self) -> Any:
        """Return the next message; raise EOFError at the end, OSError, and MsgspecError for other bytes."""
        length = int.from_bytes(self._exactly(_LENGTH), "big")
        return self._decoder.decode(self._exactly(length))

    def _exactly(self, size: int) -> bytearray:
        data = bytearray(size)
        rest = memoryview(data)
        while rest:
            got = self._source.recv_into(rest)
            if not got:
                raise EOFError
            rest = rest[got:]
        return data
