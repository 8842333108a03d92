"""What readers of a window are told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from pushsvc.clock import format_time
from pushsvc.stats.moments import Floats, Index

Table = list[tuple[Any, ...]]

_SLICE = 1_024


@dataclass(frozen=True)
class Frame:
    """What to tell the readers of a window.

    It is exact over the log up to ``offset`` and the event times in [``start``, ``end``) ms. ``since`` is when the
    topic began, ``cadence`` the ms until the next update may come. ``body`` is a JSON object of ``data`` (rows in the
    order of ``columns``), ``gone`` ([key, field], and ``by`` of a topic with several groupings) and ``partial`` (keys
    whose rows may not say all; only if there are any). ``ending`` tells that a row of a key is said to be zero.
    """

    topic: str
    window: str
    kind: Literal["snapshot", "update"]
    start: int
    end: int
    offset: int
    since: int
    cadence: int
    columns: tuple[str, ...]
    ending: bool
    body: bytes = field(repr=False)

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
                "from": format_time(self.start),
                "to": format_time(self.end),
                "offset": self.offset,
                "since": format_time(self.since),
                "at": at,
                "cadence_ms": self.cadence,
                "columns": self.columns,
            }
        )
        return head[:-1] + b"," + self.body[1:]


def rows_to_json(names: Sequence[list[str | None]], count: Index, figures: Floats) -> bytes:
    """Return rows as JSON: key, field, count, figures [m, n] and what it is by, what is not finite as null."""
    keys, fields, *by = names
    parts = []
    for start in range(0, len(keys), _SLICE):  # objects made a few at a time stay in the processor's cache
        part = slice(start, start + _SLICE)
        numbers = [count[part].tolist(), *figures[:, part].tolist()]
        rows = zip(keys[part], fields[part], *numbers, *(one[part] for one in by), strict=True)
        parts.append(orjson.dumps(list(rows))[1:-1])
    return b"[%b]" % b",".join(parts)
