"""The whole history of a topic as one answer: made while it is sent, so that its length does not matter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import orjson

from pushsvc.errors import InvalidParameter, Unavailable
from pushsvc.table import EventLines
from pushsvc.web.context import Context
from pushsvc.web.history import HistoryFilter, PageRequest, read_page
from pushsvc.web.long_requests import Requester

_PIECE = 1_000  # events that are read, made and sent at a time


class _Rows:
    """Gives each event to a function; ``made`` is what it returned."""

    def __init__(self, make: Callable[[Mapping[str, Any]], bytes | None]) -> None:
        self._make = make
        self.made: list[bytes] = []

    def add(self, event: Mapping[str, Any]) -> int:
        made = self._make(event)
        if made is None:
            return 0
        self.made.append(made)
        return len(made)

    def reverse(self) -> None:
        self.made.reverse()


class Export:
    """The events that a topic has now and that a filter selects, the oldest first.

    Each piece waits for a seat among the long requests, and gives it back before it is sent: a client that reads
    slowly keeps nobody from reading.
    """

    def __init__(self, context: Context, topic: str, selected: HistoryFilter, client: Requester) -> None:
        self._context = context
        self._topic = topic
        self._selected = selected
        self._client = client
        newest = context.broker.read_back(topic, "+", budget=1).entries
        self._through = newest[0].sequence if newest else None

    def lines(self) -> Iterator[bytes]:
        """Yield JSON objects, each in a line."""
        return self._pieces(_PIECE, lambda event: orjson.dumps(event, option=orjson.OPT_APPEND_NEWLINE))

    def table(self, *, safe: bool) -> Iterator[bytes]:
        """Yield a table as CSV. The log is read twice: the first line names the fields of all events."""
        table, most = EventLines(safe=safe), self._context.limits.names

        def note(event: Mapping[str, Any]) -> None:
            table.note(event)
            if len(table.columns) > most:
                raise InvalidParameter("limit", f"these events have more than {most} columns: ask for format=ndjson")

        for _ in self._pieces(self._context.scan.events, note):
            pass
        yield table.header()
        yield from self._pieces(_PIECE, table.line)

    def _pieces(self, size: int, make: Callable[[Mapping[str, Any]], bytes | None]) -> Iterator[bytes]:
        after: str | None = None
        while self._through is not None:
            rows, wanted = _Rows(make), PageRequest(size, after, through=self._through)
            with self._context.long.reading(self._client) as pause:
                page = read_page(
                    self._context.broker, self._topic, self._selected, wanted, self._context.scan, rows, pause
                )
            if page.first_kept is not None:  # the connection is cut: the client must not take this for all
                raise Unavailable(f"events before offset {page.first_kept} were trimmed before they were read")
            if rows.made:
                yield b"".join(rows.made)
            if page.newer is None:
                return
            after = page.newer
