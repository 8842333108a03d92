"""Positions in the logs, as the opaque text that travels in SSE ids.

A position is, per partition, an epoch (32 bits) and a sequence. Partitions that share an epoch share its bytes, so
that all 64 partitions of one Redis fit in 600 bytes::

    version (1 byte) { epoch (4 bytes) n (1 byte) n × { partition (1 byte) sequence (varint) } } …   in base64url
"""

from __future__ import annotations

from base64 import b64decode
from binascii import b2a_base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pushsvc.topic import PARTITIONS

MAX_LENGTH = 600
_VERSION = 1
_URL_SAFE = bytes.maketrans(b"+/", b"-_")


class UnreadableCursor(ValueError):
    """The text is not a cursor of ours; the answer to it is a reset, never an error."""


@dataclass(frozen=True, slots=True)
class Position:
    """Everything of a partition up to and including ``sequence`` has been seen, in the life called ``epoch``."""

    epoch: int
    sequence: int


def encode(positions: Mapping[int, Position]) -> str:
    """Return the cursor of ``partition -> position``."""
    return _text(_raw(positions)[0])


def sequence_encoder(positions: Mapping[int, Position], partition: int, epoch: int) -> Callable[[int], str]:
    """Return what encodes positions of which that of one partition moves: called with its sequence."""
    raw, place = _raw({**positions, partition: Position(epoch, 0)}, partition)
    before, behind = bytes(raw[:place]), bytes(raw[place + 1 :])
    return lambda sequence: _text(before + _varint(sequence) + behind)


def _raw(positions: Mapping[int, Position], marked: int = -1) -> tuple[bytearray, int]:
    """Return a cursor's bytes, and where the sequence of the ``marked`` partition stands in them."""
    by_epoch: dict[int, list[tuple[int, int]]] = {}
    for partition, position in sorted(positions.items()):
        by_epoch.setdefault(position.epoch, []).append((partition, position.sequence))
    raw, place = bytearray([_VERSION]), 0
    for epoch, members in by_epoch.items():
        raw += epoch.to_bytes(4, "big")
        raw.append(len(members))
        for partition, sequence in members:
            raw.append(partition)
            if partition == marked:
                place = len(raw)
            raw += _varint(sequence)
    return raw, place


def _text(raw: bytes | bytearray) -> str:
    return b2a_base64(raw, newline=False).rstrip(b"=").translate(_URL_SAFE).decode("ascii")


def decode(text: str) -> dict[int, Position]:
    """Return the positions in a cursor; raise UnreadableCursor."""
    if not text or len(text) > MAX_LENGTH:
        raise UnreadableCursor("empty or too long")
    try:
        raw = b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
        return _parse(raw)
    except (ValueError, IndexError) as error:
        raise UnreadableCursor(str(error)) from None


def _parse(raw: bytes) -> dict[int, Position]:
    if raw[0] != _VERSION:
        raise UnreadableCursor("another version")
    positions: dict[int, Position] = {}
    at = 1
    while at < len(raw):
        epoch = int.from_bytes(raw[at : at + 4], "big")
        members = raw[at + 4]
        at += 5
        for _ in range(members):
            partition = raw[at]
            if partition >= PARTITIONS:
                raise UnreadableCursor("no such partition")
            sequence, at = _read_varint(raw, at + 1)
            positions[partition] = Position(epoch, sequence)
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
        if byte < 0x80:
            return number, at
        shift += 7
        if shift > 63:
            raise UnreadableCursor("a sequence of more than 63 bits")
