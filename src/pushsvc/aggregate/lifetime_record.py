"""The record of a window ``all``: its rows by their names, so that it outlives other settings and other programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from pushsvc.pause import Pause, no_pause
from pushsvc.stats.arrays import Ints
from pushsvc.stats.cells import CellAccount, CellLedger
from pushsvc.stats.engine import Engine
from pushsvc.stats.lifetime import LifetimeWindow
from pushsvc.stats.panes.partials import RowPartial
from pushsvc.stats.rows import ALL_KEYS, COUNT, OTHER, TopicRows
from pushsvc.stats.serialize import InvalidState

VERSION = 1  # to be raised when the layout or the meaning of a member changes
_ROWS_AT_ONCE = 500
_PAIR, _ARRAY = b"\x92", b"\xdd"  # prefixes in MessagePack; the length of the array has four bytes


class LifetimeHead(msgspec.Struct, frozen=True, kw_only=True):
    """What a record covers: the events of a topic up to ``offset``, except those with the offsets ``lost``.

    ``created`` and ``deleted`` identify the topic. Counting began ``after`` an offset; -1: events were lost since then.
    ``groupings`` have rows; with ``quantiles`` they have buckets. ``least`` and ``greatest`` are event times (ms).
    ``approximate`` names what is not exact. ``included`` are pairs of offsets: of an event, and of a later
    correction that was counted with the event.
    """

    created: int
    deleted: int
    offset: int
    after: int
    lost: list[tuple[int, int]]
    groupings: list[str]
    quantiles: bool
    approximate: list[str]
    included: list[tuple[int, int]]
    least: int | None
    greatest: int | None


class LifetimeRow(msgspec.Struct, frozen=True, array_like=True):
    """A row. ``partial``: earlier events of its key may be under ``__other__``."""

    key: str | None
    field: str | None
    by: str | None
    partial: bool
    state: RowPartial


class EncodedRows(msgspec.Struct, frozen=True, array_like=True):
    """``count`` rows in parts of any size, and the times of their events."""

    count: int
    parts: list[bytes]
    least: int | None
    greatest: int | None


class NoRoom(Exception):
    """The rows of a record do not fit into this process now."""


def encode_rows(engine: Engine, table: TopicRows, pause: Pause = no_pause) -> EncodedRows:
    """Return the rows of a topic."""
    encode = msgspec.msgpack.Encoder().encode
    (extent,) = engine.time_ranges(0, [table])
    rows = engine.rows.of_topic(table)
    rows = rows[(engine.counts(0, rows) != 0) | (engine.rows.key[rows] == ALL_KEYS)]
    parts = []
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        chosen = rows[start : start + _ROWS_AT_ONCE]
        parts.append(b"".join(map(encode, _rows_of(engine, table, chosen, extent.start))))
        pause()
    return EncodedRows(len(rows), parts, extent.start, None if extent.end is None else extent.end - 1)


def encode_record(head: LifetimeHead, encoded: Sequence[EncodedRows]) -> list[bytes]:
    """Return a record in parts of any size."""
    count = sum(one.count for one in encoded)
    parts = [part for one in encoded for part in one.parts]
    return [_PAIR + msgspec.msgpack.encode(head) + _ARRAY + count.to_bytes(4, "big"), *parts]


def _rows_of(engine: Engine, table: TopicRows, rows: Ints, least: int | None) -> Iterator[LifetimeRow]:
    partial = set() if least is None else set(table.partial_keys(rows, least))
    for row, state in zip(rows.tolist(), engine.partials(0, rows), strict=True):
        key, field = table.name(row)
        yield LifetimeRow(key, field, table.grouping_of(row), key in partial, state)


def decode_record(data: bytes) -> tuple[LifetimeHead, list[LifetimeRow]]:
    """Return what ``encode_record`` was given; raise InvalidState."""
    try:
        found: tuple[LifetimeHead, list[LifetimeRow]] = msgspec.msgpack.decode(
            data, type=tuple[LifetimeHead, list[LifetimeRow]]
        )
    except (msgspec.MsgspecError, ValueError, TypeError) as error:
        raise InvalidState(f"not a record: {error}") from None
    return found


def load_rows(
    head: LifetimeHead, rows: Sequence[LifetimeRow], engine: Engine, table: TopicRows, groupings: Sequence[str],
    pause: Pause = no_pause,
) -> None:  # fmt: skip
    """Put the rows of a record into the empty rows of a topic with ``groupings``. Raise NoRoom.

    Rows of other groupings, and of fields beyond the limit, are left out; those of keys beyond it are ``__other__``.
    """
    # Here no key may lose its rows for lack of room: it would never get them back.
    cells, engine.rows.cells = engine.rows.cells, CellAccount(CellLedger(), 1)
    _load_all(head, rows, engine, table, groupings, pause)
    if not cells.admits(engine.rows.open_count):
        raise NoRoom(f"{engine.rows.open_count} rows are more than this process has room for")
    cells.draw(engine.rows.open_count - 1)  # the row of counts is there already
    cells.pledge(table.pledged - table.groupings)
    engine.rows.cells = cells


def _load_all(
    head: LifetimeHead, rows: Sequence[LifetimeRow], engine: Engine, table: TopicRows, groupings: Sequence[str],
    pause: Pause,
) -> None:  # fmt: skip
    window = engine.lifetime
    if head.least is not None and head.greatest is not None:
        window.widen(table, head.least, head.greatest)
    by_name: dict[tuple[str | None, str | None], list[LifetimeRow]] = {}
    for row in rows:
        by_name.setdefault((row.by, row.field), []).append(row)
    # The counts of a key come before its numbers: a key needs a row that counts its events.
    for (by, field), own in sorted(by_name.items(), key=lambda item: (item[0][1] is not None, item[0][0] or "")):
        number = COUNT if field is None else table.field(field)
        if number is None or (by is not None and by not in groupings):
            continue
        grouping = None if by is None else groupings.index(by)
        for start in range(0, len(own), _ROWS_AT_ONCE):
            _load(window, table, number, grouping, own[start : start + _ROWS_AT_ONCE])
            pause()
    if head.greatest is not None and any(row.key == OTHER and row.state.count for row in rows):
        table.record_folded(head.greatest)


def _load(
    window: LifetimeWindow, table: TopicRows, field: int, grouping: int | None, rows: Sequence[LifetimeRow]
) -> None:
    if grouping is None:
        keys = np.full(len(rows), ALL_KEYS)
    else:
        keys = table.key_numbers([row.key for row in rows], grouping)
        table.mark_partial(keys[[row.partial for row in rows]])
    window.load(table.rows(field, keys).astype(np.int64), [row.state for row in rows])
