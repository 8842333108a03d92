"""What readers of a window are told."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import orjson
from numpy.typing import NDArray

from pushsvc.clock import format_time
from pushsvc.stats.arrays import Floats, Index, Ints
from pushsvc.stats.rows import CLOSED, Rows

Table = list[tuple[Any, ...]]
Texts = NDArray[np.object_]

SLICE = 2_048
"""Rows that are read or encoded at a time: a millisecond or two of work."""


@dataclass(slots=True)
class Frame:
    """What to tell the readers of a window.

    It is exact over the log up to ``offset`` and the event times in [``start``, ``end``) ms; both are None where a
    window of the last events has none. ``truncated`` tells that ``start`` moved up for lack of room. ``since`` is when
    the topic began, ``cadence`` the ms until the next update may come. ``body`` is a JSON object of ``data`` (rows in
    the order of ``columns``), ``gone`` ([key, field], and ``by`` of a topic with several groupings) and ``partial``
    (keys whose rows may not say all; only if there are any); ``parts`` are its pieces without the braces. ``ending``
    tells that a row of a key is said to be zero.
    """

    topic: str
    window: str
    kind: Literal["snapshot", "update"]
    start: int | None
    end: int | None
    offset: int
    since: int
    cadence: int
    columns: tuple[str, ...]
    ending: bool
    parts: Sequence[bytes] = field(repr=False)
    truncated: bool = False

    @property
    def size(self) -> int:
        """Bytes of the body, about."""
        return sum(map(len, self.parts))

    @property
    def body(self) -> bytes:
        return b"{%b}" % b"".join(self.parts)

    @property
    def rows(self) -> Table:
        return [tuple(row) for row in orjson.loads(self.body)["data"]]

    @property
    def gone(self) -> Table:
        return [tuple(row) for row in orjson.loads(self.body)["gone"]]

    def to_json(self, at: int) -> bytes:
        """Return the frame as one JSON object without newlines; ``at`` is the server's time in ms."""
        head = orjson.dumps(
            {
                "topic": self.topic,
                "window": self.window,
                "from": None if self.start is None else format_time(self.start),
                "to": None if self.end is None else format_time(self.end),
                **({"truncated": True} if self.truncated else {}),
                "offset": self.offset,
                "since": format_time(self.since),
                "at": at,
                "cadence_ms": self.cadence,
                "columns": self.columns,
            }
        )
        return b"".join([head[:-1], b",", *self.parts, b"}"])  # a copy of all, and it may be large: there is but one


Encode = Callable[[slice], "Pieces"]


class Pieces:
    """Some rows as JSON, to be divided among the frames that have them.

    ``heads`` [n] are how rows begin, such as ``["key","field"``; then come ``starts`` [n], the count and the rate, and
    the figures [m, v] of the rows that are ``valued``, what is not finite as null; and ``ends`` [n], if there are any.
    ``others`` are columns [n] of anything among the figures, each with its place, in order; rows without values have
    the same in them.
    """

    def __init__(
        self,
        heads: Sequence[bytes],
        starts: Sequence[bytes],
        figures: Floats,
        valued: NDArray[np.bool_],
        ends: Sequence[bytes] | None = None,
        others: Sequence[tuple[int, list[Any]]] = (),
    ) -> None:
        # Row by row: a head, a start, the figures, an end, to be joined by commas.
        self._width = width = 3 if ends is None else 4
        close = b"]" if ends is None else b""
        self._pieces: list[bytes] = [b",".join([b"null"] * len(figures)) + close] * (width * len(heads))
        self._pieces[0::width] = heads
        self._pieces[1::width] = starts
        if ends is not None:
            self._pieces[3::width] = [b"%b]" % end for end in ends]
        places = np.flatnonzero(valued)
        if others:
            self._set_mixed(figures, places, np.flatnonzero(~valued), others, close)
        elif len(places):
            # One encoding for many rows, divided where they end: no figure has a bracket in it.
            encoded = orjson.dumps(np.ascontiguousarray(figures.T), option=orjson.OPT_SERIALIZE_NUMPY)
            self._set(places, encoded[2:-1].split(b",[") if close else encoded[2:-2].split(b"],["))

    def _set_mixed(
        self, figures: Floats, valued: Ints, empty: Ints, others: Sequence[tuple[int, list[Any]]], close: bytes
    ) -> None:
        nothing = np.full((len(figures), min(1, len(empty))), np.nan)
        for rows, numbers in ((valued, figures), (empty[:1], nothing)):
            columns = numbers.tolist()
            for place, column in others:
                columns.insert(place, [column[row] for row in rows.tolist()])
            texts = [orjson.dumps(row)[1:-1] + close for row in zip(*columns, strict=True)]
            if numbers is figures:
                self._set(valued, texts)
            else:
                self._set(empty, texts * len(empty))

    def _set(self, places: Ints, texts: Sequence[bytes]) -> None:
        """Set the figures of rows."""
        if self._width * len(places) == len(self._pieces):
            self._pieces[2 :: self._width] = texts
            return
        for place, text in zip((self._width * places + 2).tolist(), texts, strict=True):
            self._pieces[place] = text

    def join(self, first: int = 0, last: int | None = None) -> bytes:
        """Return the rows ``first`` … ``last - 1``, between commas."""
        return b",".join(self._pieces[self._width * first : None if last is None else self._width * last])


def divide(ranges: Iterable[tuple[int, int]], size: int, encode: Encode) -> Iterator[list[bytes]]:
    """Yield a JSON array, in parts, for each range of rows of which there are ``size``, in order and without overlap.

    Few rows are encoded at a time, whether that is a part of a range or many ranges, so that no step takes long.
    """
    pieces, base, limit = None, 0, 0
    for first, last in ranges:
        if last - first > SLICE:
            parts = [b"["]
            for at in range(first, last, SLICE):
                parts += (encode(slice(at, min(at + SLICE, last))).join(), b",")
            yield [*parts[:-1], b"]"]
            continue
        if pieces is None or last > limit:
            base, limit = first, min(first + SLICE, size)
            pieces = encode(slice(base, limit))
        yield [b"[%b]" % pieces.join(first - base, last - base)]


class Heads:
    """How rows begin as JSON, ``["key","field"``, and with several groupings what they end with; made once each."""

    def __init__(self, rows: Rows, ends: bool) -> None:
        self._rows = rows
        self._born: Index = np.zeros(0, np.int32)
        self._heads: Texts = np.zeros(0, object)
        self._ends: Texts | None = np.zeros(0, object) if ends else None

    def of(self, rows: Ints) -> list[bytes]:
        self._learn(rows)
        return _picked(self._heads, rows)

    def ends_of(self, rows: Ints) -> list[bytes] | None:
        """Return ``"grouping"``; None where there is but one."""
        self._learn(rows)
        return None if self._ends is None else _picked(self._ends, rows)

    def _learn(self, rows: Ints) -> None:
        more = len(self._rows.born) - len(self._born)
        if more > 0:
            self._born = np.pad(self._born, (0, more), constant_values=CLOSED)
            self._heads = np.pad(self._heads, (0, more))
            if self._ends is not None:
                self._ends = np.pad(self._ends, (0, more))
        unknown = rows[self._born[rows] != self._rows.born[rows]]
        self._born[unknown] = self._rows.born[unknown]
        for row in unknown.tolist():
            owner = self._rows.owner(row)
            self._heads[row] = orjson.dumps(owner.name(row))[:-1]
            if self._ends is not None:
                self._ends[row] = orjson.dumps(owner.by(row))


def counts_to_json(count: Index, seconds: float | None) -> list[bytes]:
    """Return count and rate of rows, as they stand in a row; no rate for a window without a length."""
    values, places = np.unique(count, return_inverse=True)
    rates = (values / seconds).tolist() if seconds else [None] * len(values)
    texts = [b"%d,%b" % (value, orjson.dumps(rate)) for value, rate in zip(values.tolist(), rates, strict=True)]
    return _picked(np.array(texts, object), places)


def _picked(texts: Texts, places: Ints) -> list[bytes]:
    """Return some of many texts; numpy picks them faster than a loop does."""
    picked: list[bytes] = texts[places].tolist()
    return picked
