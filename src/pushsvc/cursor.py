"""Cursors: positions in the logs as opaque text, which SSE ids carry.

The position in a partition is an epoch (32 bits) and a sequence. Partitions with the same epoch share its bytes, so all
64 partitions of one Redis fit in 600 bytes::

    version (1 byte) { epoch (4 bytes) n (1 byte) n × { partition (1 byte) sequence (varint) } } …   in base64url

A stream of several subscriptions has a cursor of each: ``s``, and then for each a dot, six characters of the digest of
its text, and its own cursor.

The byte of a partition has the bit 64 if the position is partial. In version 2 a digest (8 bytes) of what the client
has selected follows the version. A process that knows version 1 alone cannot read it, and answers with a reset.
"""

import re
from base64 import b64decode
from binascii import b2a_base64
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from hashlib import blake2b

from msgspec import Struct

from pushsvc.topic import PARTITIONS

MAX_LENGTH = 600
DIGEST_LENGTH = 8
_VERSION = 1
_WITH_DIGEST = 2
_PARTIAL = 64
_URL_SAFE = bytes.maketrans(b"+/", b"-_")
_COMBINED = "s"
_NAME_LENGTH = 6
_MOST_COMBINED = 64
_PART = re.compile(rf"[A-Za-z0-9_-]{{{_NAME_LENGTH},{_NAME_LENGTH + MAX_LENGTH}}}")
UNREADABLE = "0"
"""A text that is no cursor."""


class UnreadableCursor(ValueError):
    """The text is not a cursor. A stream answers it with a reset, never with an error."""


class Position(Struct, frozen=True, eq=False, gc=False):
    """The client has seen a partition up to and including ``sequence``. ``epoch`` identifies the life of Redis.

    It is ``partial`` if the client has the events up to there, but not all statistics. That does not matter to whether
    two positions are equal.
    """

    epoch: int
    sequence: int
    partial: bool = False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Position) and (self.epoch, self.sequence) == (other.epoch, other.sequence)

    def __hash__(self) -> int:
        return hash((self.epoch, self.sequence))


def encode(positions: Mapping[int, Position], digest: bytes = b"") -> str:
    """Return the cursor of positions by partition, with a digest unless that is empty."""
    if len(positions) == 1:
        [(partition, position)] = positions.items()
        return _of_one(partition, position.epoch, position.sequence, position.partial, digest)
    return _text(_raw(positions, digest)[0])


def sequence_encoder(
    positions: Mapping[int, Position], partition: int, epoch: int, *, partial: bool = False, digest: bytes = b""
) -> Callable[[int], str]:
    """Return a function from a sequence of ``partition`` to the cursor with it; the other positions stay the same."""
    if not positions or (len(positions) == 1 and partition in positions):
        return lambda sequence: _of_one(partition, epoch, sequence, partial, digest)
    raw, index = _raw({**positions, partition: Position(epoch, 0, partial)}, digest, partition)
    before, after = bytes(raw[:index]), bytes(raw[index + 1 :])
    return lambda sequence: _text(before + _varint(sequence) + after)


@lru_cache(1_024)
def _of_one(partition: int, epoch: int, sequence: int, partial: bool, digest: bytes) -> str:
    """Return the cursor of one partition: a stream of one topic asks twice for that of each message."""
    return _text(_before_sequence(partition, epoch, partial, digest) + _varint(sequence))


@lru_cache(1_024)
def _before_sequence(partition: int, epoch: int, partial: bool, digest: bytes) -> bytes:
    raw, index = _raw({partition: Position(epoch, 0, partial)}, digest, partition)
    return bytes(raw[:index])


def name_of(subscription: str) -> str:
    """Return what names a subscription in the cursor of several."""
    return _text(blake2b(subscription.encode(), digest_size=5).digest())[:_NAME_LENGTH]


def combine(cursors: Iterable[str]) -> str:
    """Return the cursor of several subscriptions, each given as its name and its own cursor."""
    return ".".join((_COMBINED, *cursors))


def split(text: str) -> dict[str, str]:
    """Return the cursors of several subscriptions by their names; raise UnreadableCursor."""
    version, *parts = text.split(".", _MOST_COMBINED + 1)
    if version != _COMBINED or len(parts) > _MOST_COMBINED or not all(map(_PART.fullmatch, parts)):
        raise UnreadableCursor("not a cursor of several subscriptions")
    return {part[:_NAME_LENGTH]: part[_NAME_LENGTH:] for part in parts}


def _raw(positions: Mapping[int, Position], digest: bytes, marked: int = -1) -> tuple[bytearray, int]:
    """Return a cursor's bytes and the index of the ``marked`` partition's sequence in them."""
    by_epoch: dict[int, list[tuple[int, Position]]] = {}
    for partition, position in sorted(positions.items()):
        by_epoch.setdefault(position.epoch, []).append((partition, position))
    raw, index = bytearray([_WITH_DIGEST if digest else _VERSION]) + digest, 0
    for epoch, members in by_epoch.items():
        raw += epoch.to_bytes(4, "big")
        raw.append(len(members))
        for partition, position in members:
            raw.append(partition | _PARTIAL * position.partial)
            if partition == marked:
                index = len(raw)
            raw += _varint(position.sequence)
    return raw, index


def _text(raw: bytes | bytearray) -> str:
    return b2a_base64(raw, newline=False).rstrip(b"=").translate(_URL_SAFE).decode("ascii")


def decode(text: str) -> dict[int, Position]:
    """Return the positions in a cursor; raise UnreadableCursor."""
    return decode_with_digest(text)[0]


def decode_with_digest(text: str) -> tuple[dict[int, Position], bytes]:
    """Return the positions in a cursor and its digest, empty if it has none; raise UnreadableCursor."""
    if not text or len(text) > MAX_LENGTH:
        raise UnreadableCursor("empty or too long")
    try:
        raw = b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
        start = 1 + DIGEST_LENGTH * (raw[0] == _WITH_DIGEST)
        if raw[0] not in (_VERSION, _WITH_DIGEST) or len(raw) < start:
            raise UnreadableCursor("unknown version")
        return _parse(raw, start), raw[1:start]
    except (ValueError, IndexError) as error:
        raise UnreadableCursor(str(error)) from None


def _parse(raw: bytes, at: int) -> dict[int, Position]:
    positions: dict[int, Position] = {}
    while at < len(raw):
        epoch = int.from_bytes(raw[at : at + 4], "big")
        members = raw[at + 4]
        at += 5
        for _ in range(members):
            partial, partition = divmod(raw[at], _PARTIAL)
            if partial > 1 or partition >= PARTITIONS:
                raise UnreadableCursor("no such partition")
            sequence, at = _read_varint(raw, at + 1)
            positions[partition] = Position(epoch, sequence, bool(partial))
    return positions


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _read_varint(raw: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = raw[at]
        at += 1
        number |= (byte & 0x7F) << shift
        shift += 7
        if number >> 63 or (shift > 63 and byte >= 0x80):
            raise UnreadableCursor("a sequence of more than 63 bits")
        if byte < 0x80:
            return number, at
