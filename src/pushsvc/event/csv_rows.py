"""Reads CSV (RFC 4180 with a header line) as the values of events."""

import csv
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import BytesIO, TextIOWrapper
from typing import Any

from pushsvc.errors import Fault, InvalidBatch, InvalidParameter, TooLarge
from pushsvc.event.model import ATTRIBUTES, Limits
from pushsvc.event.strictjson import UnusableValue
from pushsvc.event.validator import InvalidEvent
from pushsvc.pause import Pause, no_pause

_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?", re.ASCII)
_LONGEST_NUMBER = 400
_LIMITS = Limits()
# For each member of the event: its name, the index of its cell, and a function that reads the cell.
_Plan = list[tuple[str, int, Callable[[str], Any]]]


def read(
    body: bytes, columns: Mapping[str, str], limits: Limits = _LIMITS, pause: Pause = no_pause
) -> Iterator[tuple[int, Any]]:
    """Yield the first line of each row and its event or an InvalidEvent; ``columns`` maps attributes to columns. A cell
    that is a JSON number is a number; an empty cell is absent. Raise InvalidParameter, InvalidBatch and TooLarge."""
    _check_text(body)
    lines = _Lines(body, limits.values)
    reader = csv.reader(iter(lines), strict=True)
    header: list[str] | None = None
    plan: _Plan = []
    values = 0
    while True:
        line = lines.begin_row(reader.line_num + 1)
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise InvalidBatch([Fault(line, None, f"not CSV: {error}")]) from None
        if cells is None:
            return
        if not cells:
            pause()
            continue
        if header is None:
            if len(cells) > limits.names:
                detail = f"{len(cells)} columns, at most {limits.names} are allowed"
                raise InvalidBatch([Fault(line, None, detail)])
            header, plan = cells, _plan(cells, columns, line)
        elif len(cells) != len(header):
            found = "1 cell" if len(cells) == 1 else f"{len(cells)} cells"
            yield line, InvalidEvent(None, f"{found}, but the header has {len(header)}")
        else:
            event = {name: read_cell(cells[at]) for name, at, read_cell in plan if cells[at]}
            values += len(event)
            if values > limits.request_values:
                raise TooLarge(f"more than {limits.request_values} values in one request: send several requests")
            yield line, event


class _Lines:
    """The lines of a body. Raises InvalidBatch for a row with more than ``most`` commas: the csv module makes all cells
    of a row at once."""

    def __init__(self, body: bytes, most: int) -> None:
        # newline="" keeps the line ends: the csv module must not split at U+2028 or inside quotes.
        self._lines = TextIOWrapper(BytesIO(body), "utf-8", newline="")
        self._most = most
        self._first = self._commas = 0

    def begin_row(self, line: int) -> int:
        """Count the commas of the row that begins at ``line``; return ``line``."""
        self._first, self._commas = line, 0
        return line

    def __iter__(self) -> Iterator[str]:
        for line in self._lines:
            self._commas += line.count(",")
            if self._commas > self._most:
                raise InvalidBatch([Fault(self._first, None, f"more than {self._most} commas in one row")])
            yield line


def _plan(header: Sequence[str], columns: Mapping[str, str], line: int) -> _Plan:
    counts = Counter(header)
    for column in header:
        if not column:
            raise InvalidBatch([Fault(line, None, "a column has no name: the first line must name all columns")])
        if counts[column] > 1:
            raise InvalidBatch([Fault(line, column, "two columns have this name")])
    plan: _Plan = []
    for attribute, column in columns.items():
        if column not in header:
            raise InvalidParameter(attribute, f"there is no column {column!r}; the columns are {_listed(header)}")
        plan.append((attribute, header.index(column), cell_value if attribute == "time" else str))
    served = set(columns.values())
    data = [(column, at) for at, column in enumerate(header) if column not in served]
    for column, _ in data:
        if column in ATTRIBUTES:
            advice = "rename it" if column in columns else f"add ?{column}={column}, or rename it"
            detail = f"a column of data must not have the name of an attribute: {advice}"
            raise InvalidBatch([Fault(line, column, detail)])
    return plan + [(column, at, cell_value) for column, at in data]


def _listed(header: Sequence[str]) -> str:
    listed = ", ".join(map(repr, header[:20]))
    if len(header) == 1 and ";" in header[0]:
        return f"{listed} (columns are separated by commas, not semicolons)"
    return listed


def cell_value(cell: str) -> Any:
    """Return the number that a cell is, or its text."""
    match = _NUMBER.fullmatch(cell)
    if match is None:
        return cell
    if len(cell) > _LONGEST_NUMBER:
        return UnusableValue(f"a number of {len(cell)} characters")
    if match.lastindex is None:
        return int(cell)
    value = float(cell)
    return value if math.isfinite(value) else UnusableValue(f"{cell[:40]} is too large for a number")


def _check_text(body: bytes) -> None:
    try:
        body.decode("utf-8")
    except UnicodeDecodeError as error:
        line = body.count(b"\n", 0, error.start) + 1
        raise InvalidBatch([Fault(line, None, "not UTF-8")]) from None
