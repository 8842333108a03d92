"""Checkpoints in Redis: the state of an engine in pieces, and a header that makes them valid.

Checkpoints alternate between two places, and the header names the place of the last complete one. So an incomplete
checkpoint is never read, and the last complete one holds until the next one is. Every write carries the owner's fencing
token and the epoch.
"""

from collections.abc import Iterable, Iterator, Sequence
from zlib import crc32

import msgspec

from pushsvc.broker import script
from pushsvc.broker.connection_pool import Connections
from pushsvc.broker.keys import Keys
from pushsvc.broker.script import RUN, CheckpointCommitArguments, CheckpointPieceArguments, Script
from pushsvc.errors import Fenced

UNFINISHED_TTL = 600_000  # milliseconds after which pieces expire that no header names
FORMAT = 1


class NotStored(ValueError):
    """The checkpoint is not in Redis, or not all of it."""


class Stored(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The header of a checkpoint: ``taken`` at a time of Redis (ms), for ``cost`` CPU seconds."""

    place: int
    pieces: int
    size: int
    crc: int
    taken: int
    cost: float
    format: int = FORMAT


class _Place(msgspec.Struct):
    """What a header of any version has."""

    place: int


class Owner(msgspec.Struct, frozen=True):
    """The owner of a partition; it may write while neither the fencing token nor the epoch changes."""

    partition: int
    fence: int
    epoch: int


class CheckpointStore:
    """The checkpoints of all partitions, by the names of their engines; or what else of a ``kind`` is written in this
    way. Headers have the version ``format``. Methods raise errors of ``pushsvc.errors``."""

    def __init__(
        self, keys: Keys, connections: Connections, kind: str = "checkpoint", format: int = FORMAT
    ) -> None:  # fmt: skip
        self._keys = keys
        self._connections = connections
        self._kind = kind
        self.format = format

    def headers(self, partition: int) -> tuple[int, dict[str, Stored | None]]:
        """Return the epoch, and the header of each engine's checkpoint; None for a header of another version."""
        epoch, flat = self._connections.commands(
            [("HGET", self._keys.partition(partition), "epoch"), ("HGETALL", self._headers(partition))]
        )
        return int(epoch or 0), {
            name.decode(): self._header(value) for name, value in zip(flat[::2], flat[1::2], strict=True)
        }

    def read(self, partition: int, engine: str, stored: Stored) -> bytes:
        """Return a state; raise NotStored if it is incomplete or damaged."""
        key, crc, size = self._pieces(partition, engine, stored.place), 0, 0
        found: list[bytes] = []
        for number in range(stored.pieces):
            found += self._connections.command("LRANGE", key, number, number)
            if len(found) == number or (size := size + len(found[-1])) > stored.size:
                raise NotStored(f"piece {number + 1} of {stored.pieces} is missing or belongs to another checkpoint")
            crc = crc32(found[-1], crc)
        if (crc, size) != (stored.crc, stored.size):
            raise NotStored("it is damaged")
        return b"".join(found)

    def free_place(self, partition: int, engine: str) -> int:
        """Return the place that the header of an engine's checkpoint does not name."""
        header = self._connections.command("HGET", self._headers(partition), engine)
        try:
            named = None if header is None else msgspec.json.decode(header, type=_Place).place
        except msgspec.MsgspecError:
            named = None  # it makes no checkpoint valid
        return 1 if named == 0 else 0

    def write(self, owner: Owner, engine: str, place: int, number: int, piece: bytes) -> None:
        """Append piece ``number`` of a checkpoint; raise Fenced."""
        keys = [self._keys.partition(owner.partition), self._pieces(owner.partition, engine, place)]
        call = CheckpointPieceArguments(RUN, owner.fence, owner.epoch, number, expires=UNFINISHED_TTL, piece=piece)
        self._call(script.CHECKPOINT_PIECE, keys, call)

    def commit(self, owner: Owner, engine: str, stored: Stored) -> None:
        """Make the written pieces the checkpoint of an engine; raise Fenced."""
        pieces = [self._pieces(owner.partition, engine, place) for place in (stored.place, 1 - stored.place)]
        keys = [self._keys.partition(owner.partition), self._headers(owner.partition), *pieces]
        header = msgspec.json.encode(stored)
        call = CheckpointCommitArguments(RUN, owner.fence, owner.epoch, engine, pieces=stored.pieces, header=header)
        self._call(script.CHECKPOINT_COMMIT, keys, call)

    def discard(self, owner: Owner, engines: Sequence[str]) -> None:
        """Delete checkpoints; raise Fenced."""
        keys = [self._keys.partition(owner.partition), self._headers(owner.partition)]
        keys += [self._pieces(owner.partition, engine, place) for engine in engines for place in (0, 1)]
        self._call(script.CHECKPOINT_DISCARD, keys, [RUN, owner.fence, owner.epoch, *engines])

    def _headers(self, partition: int) -> str:
        return self._keys.checkpoints(partition, self._kind)

    def _pieces(self, partition: int, engine: str, place: int) -> str:
        return self._keys.pieces(partition, engine, place, self._kind)

    def _header(self, value: bytes) -> Stored | None:
        try:
            stored = msgspec.json.decode(value, type=Stored)
        except msgspec.MsgspecError:
            return None
        return stored if stored.format == self.format else None

    def _call(self, checkpoint_script: Script, keys: Sequence[str], arguments: Sequence[object]) -> None:
        reply = self._connections.call(checkpoint_script, keys, arguments)
        if reply[0] != b"ok":
            raise Fenced("another aggregator owns the partition, or Redis was restarted")


def pieces_of(parts: Iterable[bytes], piece_bytes: int) -> Iterator[bytes]:
    """Yield the bytes of parts of any size in pieces of ``piece_bytes``; the last may be smaller."""
    held, size = [], 0
    for part in parts:
        view = memoryview(part)
        while size + len(view) >= piece_bytes:
            held.append(view[: piece_bytes - size])
            view = view[piece_bytes - size :]
            yield b"".join(held)
            held, size = [], 0
        held.append(view)
        size += len(view)
    if size:
        yield b"".join(held)
