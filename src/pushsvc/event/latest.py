"""The newest event of each key: which events of an entry change it."""

from collections.abc import Collection, Iterator

import msgspec

from pushsvc.event.model import DEFAULT_TYPE, Event


class _Attributes(msgspec.Struct):
    key: str | None = None
    type: str | None = None


_attributes_of = msgspec.json.Decoder(_Attributes).decode


class LatestChange(msgspec.Struct, frozen=True):
    """The newest event of a key in an entry: its ``place``, from 0, and its stored form, None if it removes the key."""

    place: int
    line: bytes | None


def latest_changes(data: bytes, deletes: Collection[str]) -> dict[str, LatestChange]:
    """Return by key what the events of an entry, in their stored form, change. Types in ``deletes`` remove a key.

    Events without a key change nothing. The changes are in the order of their events.
    """
    changes: dict[str, LatestChange] = {}
    for place, line in enumerate(data.split(b"\n") if data else ()):
        key, type_ = _key_and_type(line)
        if key is not None:
            changes.pop(key, None)
            changes[key] = LatestChange(place, None if type_ in deletes else line)
    return changes


def latest_places(data: bytes, deletes: Collection[str]) -> list[str | int]:
    """Return the same as four values for each key: the key, the place of the event, and its first and last byte in the
    data, counted from 1; 0 and 0 if it removes the key."""
    found: dict[str, tuple[str, int, int, int]] = {}
    for place, (start, line) in enumerate(_lines(data)):
        key, type_ = _key_and_type(line)
        if key is not None:
            found[key] = (key, place, 0, 0) if type_ in deletes else (key, place, start + 1, start + len(line))
    return [value for values in found.values() for value in values]


def _lines(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the events of an entry, each with the index of its first byte."""
    start = 0
    for line in data.split(b"\n"):
        yield start, line
        start += len(line) + 1


def _key_and_type(line: bytes) -> tuple[str | None, str]:
    try:
        found = _attributes_of(line)
    except msgspec.MsgspecError:  # such as a lone surrogate, which is left to the parser of all readers
        event = Event.decode(line)
        return event.key, event.type
    return found.key, found.type or DEFAULT_TYPE
