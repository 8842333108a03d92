"""The JSON text of a frame of statistics, decoded row by row: one call of a parser would stop the event loop."""

import re
from collections.abc import Iterator
from typing import Any

import orjson

from pushsvc.frame import Row
from pushsvc.pause import Pause

ROWS_A_SLICE = 100
_DATA, _GONE = b'"data":[', b',"gone":['
_LEVELS = 4  # values of a row nest less deeply: `top` is a list of lists


def _value(levels: int) -> str:
    """Return a pattern for what stands between two brackets."""
    inner = rf"|[\[{{]{_value(levels - 1)}[\]}}]" if levels else ""
    return rf'(?:[^][{{}}"]++|"[^"\\]*+(?:\\.[^"\\]*+)*+"{inner})*+'


_ROWS = re.compile(rf"(?:\[{_value(_LEVELS)}\],?+){{0,{ROWS_A_SLICE}}}+".encode(), re.DOTALL)


class FrameText:
    """The JSON text of a frame. ``head`` has everything but the rows of ``data`` and ``gone``, whose texts begin at
    two places. Raises ValueError if it was not written by an aggregator."""

    def __init__(self, text: bytes, pause: Pause) -> None:
        self._text = text
        self._data = text.index(_DATA) + len(_DATA)
        end = self._skip(self._data, pause)
        tail, self._gone = end + 1, None  # behind the closing bracket
        if text.startswith(_GONE, tail):
            self._gone = tail + len(_GONE)
            tail = self._skip(self._gone, pause) + 1
        self.head: dict[str, Any] = orjson.loads(b"%b]%b" % (text[: self._data], text[tail:]))

    def rows(self, pause: Pause) -> Iterator[list[Row]]:
        """Yield the rows in slices."""
        return self._slices(self._data, pause)

    def gone(self, pause: Pause) -> Iterator[list[Row]]:
        """Yield the ids of removed rows in slices."""
        return iter(()) if self._gone is None else self._slices(self._gone, pause)

    def _slices(self, at: int, pause: Pause) -> Iterator[list[Row]]:
        while (end := self._end(at, pause)) > at:
            yield orjson.loads(b"[%b]" % self._text[at:end].rstrip(b","))
            at = end

    def _skip(self, at: int, pause: Pause) -> int:
        """Return the place of the bracket that closes the list whose first row is at ``at``."""
        while (end := self._end(at, pause)) > at:
            at = end
        if self._text[at : at + 1] != b"]":
            raise ValueError("the rows of a frame do not end")
        return at

    def _end(self, at: int, pause: Pause) -> int:
        """Return where a slice of rows ends, after the comma that follows it; ``at`` without a row."""
        pause()
        found = _ROWS.match(self._text, at)
        return found.end() if found else at
