"""The frames of windows, and their rows as JSON."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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

ROWS_AT_ONCE = 2_048  # rows that are encoded at a time: a millisecond or two of work


@dataclass(slots=True)
class Frame:
    """An update or a snapshot of a window.

    It is exact over the log up to ``offset`` and the event times in [``start``, ``end``) ms; both are None for a window
    of the last events that has none. ``body`` is a JSON object of ``data`` (rows in the order of ``columns``), ``gone``
    ([key, field], and ``by`` with several groupings) and, if there are any, ``partial`` (keys whose rows may lack
    events).
    """

    topic: str
    window: str
    kind: Literal["snapshot", "update"]
    start: int | None
    end: int | None
    offset: int
    since: int  # ms of the topic's creation
    cadence: int  # ms until the next update may follow
    columns: tuple[str, ...]
    ending: bool  # a row of a key is zero
    parts: Sequence[bytes] = field(repr=False)  # of the body, without its braces
    truncated: bool = False  # ``start`` was moved up for lack of room
    notes: Mapping[str, Any] = field(default_factory=dict)  # further members

    @property
    def size(self) -> int:
        """The bytes of the body, about."""
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

    def to_json(self, at: int, *, pending: bool = False) -> bytes:
        """Return the frame as one JSON object without newlines; ``at`` is the server's time (ms). ``pending``: an event
        was corrected, and the frame counts it as it was."""
        head = orjson.dumps(
            {
                "topic": self.topic,
                "window": self.window,
                "from": None if self.start is None else format_time(self.start),
                "to": None if self.end is None else format_time(self.end),
                **({"truncated": True} if self.truncated else {}),
                **({"pending": True} if pending else {}),
                **self.notes,
                "offset": self.offset,
                "since": format_time(self.since),
                "at": at,
                "cadence_ms": self.cadence,
                "columns": self.columns,
            }
        )
        return b"".join([head[:-1], b",", *self.parts, b"}"])  # the only copy: the parts may be large


EncodeRows = Callable[[slice], "JsonRows"]


class JsonRows:
    """Rows as JSON, which are divided among the frames of several topics.

    names: how each row [n] begins, such as ``["key","field"``
    counts: its count and rate
    numbers: columns of statistics [m, v] of the rows that are ``valued``, null if not finite
    groupings: the last column, for topics with several
    others: columns [n] of other values among the statistics, each with its place, in order; the same for all rows that
        are not ``valued``
    """

    def __init__(
        self, names: Sequence[bytes], counts: Sequence[bytes], numbers: Floats, valued: NDArray[np.bool_],
        groupings: Sequence[bytes] | None = None, others: Sequence[tuple[int, list[Any]]] = (),
    ) -> None:  # fmt: skip
        # Row by row: name, counts, numbers and grouping, to be joined by commas.
        self._width = width = 3 if groupings is None else 4
        close = b"]" if groupings is None else b""
        self._pieces: list[bytes] = [b",".join([b"null"] * len(numbers)) + close] * (width * len(names))
        self._pieces[0::width] = names
        self._pieces[1::width] = counts
        if groupings is not None:
            self._pieces[3::width] = [b"%b]" % grouping for grouping in groupings]
        places = np.flatnonzero(valued)
        if others:
            self._set_mixed(numbers, places, np.flatnonzero(~valued), others, close)
        elif len(places):
            # One encoding for many rows, split at the brackets: no number contains one.
            encoded = orjson.dumps(np.ascontiguousarray(numbers.T), option=orjson.OPT_SERIALIZE_NUMPY)
            self._set(places, encoded[2:-1].split(b",[") if close else encoded[2:-2].split(b"],["))

    def _set_mixed(
        self, numbers: Floats, valued: Ints, empty: Ints, others: Sequence[tuple[int, list[Any]]], close: bytes
    ) -> None:
        nothing = np.full((len(numbers), min(1, len(empty))), np.nan)
        for rows, chosen in ((valued, numbers), (empty[:1], nothing)):
            columns = chosen.tolist()
            for place, column in others:
                columns.insert(place, [column[row] for row in rows.tolist()])
            texts = [orjson.dumps(row)[1:-1] + close for row in zip(*columns, strict=True)]
            if chosen is numbers:
                self._set(valued, texts)
            else:
                self._set(empty, texts * len(empty))

    def _set(self, places: Ints, texts: Sequence[bytes]) -> None:
        """Set the statistics of rows."""
        if self._width * len(places) == len(self._pieces):
            self._pieces[2 :: self._width] = texts
            return
        for place, text in zip((self._width * places + 2).tolist(), texts, strict=True):
            self._pieces[place] = text

    def join(self, first: int = 0, last: int | None = None) -> bytes:
        """Return the rows ``first`` … ``last - 1``, separated by commas."""
        return b",".join(self._pieces[self._width * first : None if last is None else self._width * last])


def encode_ranges(
    ranges: Iterable[tuple[int, int]], size: int, encode: EncodeRows, at_once: int = ROWS_AT_ONCE
) -> Iterator[list[bytes]]:
    """Yield the JSON array of each range of rows, in parts. The ranges are in order, without overlap, within ``size``.
    At most ``at_once`` are encoded at a time, part of a range or many ranges, so that no step takes long."""
    pieces, base, limit = None, 0, 0
    for first, last in ranges:
        if last - first > at_once:
            parts = [b"["]
            for at in range(first, last, at_once):
                parts += (encode(slice(at, min(at + at_once, last))).join(), b",")
            yield [*parts[:-1], b"]"]
            continue
        if pieces is None or last > limit:
            base, limit = first, min(first + at_once, size)
            pieces = encode(slice(base, limit))
        yield [b"[%b]" % pieces.join(first - base, last - base)]


class RowNames:
    """The names of rows as JSON, ``["key","field"``, and their groupings if there are ``several``; encoded once."""

    def __init__(self, rows: Rows, *, several: bool) -> None:
        self._rows = rows
        self._generation: Index = np.zeros(0, np.int32)
        self._names: Texts = np.zeros(0, object)
        self._groupings: Texts | None = np.zeros(0, object) if several else None

    def of(self, rows: Ints) -> list[bytes]:
        self._learn(rows)
        return _picked(self._names, rows)

    def groupings_of(self, rows: Ints) -> list[bytes] | None:
        """Return the groupings as JSON strings; None if there is only one."""
        self._learn(rows)
        return None if self._groupings is None else _picked(self._groupings, rows)

    def _learn(self, rows: Ints) -> None:
        more = len(self._rows.generation) - len(self._generation)
        if more > 0:
            self._generation = np.pad(self._generation, (0, more), constant_values=CLOSED)
            self._names = np.pad(self._names, (0, more))
            if self._groupings is not None:
                self._groupings = np.pad(self._groupings, (0, more))
        unknown = rows[self._generation[rows] != self._rows.generation[rows]]
        self._generation[unknown] = self._rows.generation[unknown]
        for row in unknown.tolist():
            owner = self._rows.owner(row)
            self._names[row] = orjson.dumps(owner.name(row))[:-1]
            if self._groupings is not None:
                self._groupings[row] = orjson.dumps(owner.grouping_of(row))


def counts_to_json(count: Index, seconds: float | None) -> list[bytes]:
    """Return the JSON of count and rate of rows; the rate is null for a window without a length."""
    values, places = np.unique(count, return_inverse=True)
    rates = (values / seconds).tolist() if seconds else [None] * len(values)
    texts = [b"%d,%b" % (value, orjson.dumps(rate)) for value, rate in zip(values.tolist(), rates, strict=True)]
    return _picked(np.array(texts, object), places)


def _picked(texts: Texts, places: Ints) -> list[bytes]:
    """Return the texts at ``places``; numpy is faster than a loop."""
    picked: list[bytes] = texts[places].tolist()
    return picked
