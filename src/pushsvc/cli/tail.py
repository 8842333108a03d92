"""Prints streams on a terminal: events as JSON lines, statistics as a live table."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import click
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from pushsvc.frame import Row, RowId, apply_frame
from pushsvc.sse import Message

_REFRESH_RATE = 8  # times a second that the table is drawn


def print_events(messages: Iterator[Message]) -> None:
    """Print the JSON of each message; resets and errors go to the standard error."""
    for message in messages:
        click.echo(message.data, err=message.event in ("reset", "error"))


def show_stats(messages: Iterator[Message]) -> None:
    """Print the JSON of each frame; on a terminal, show a table that the frames update."""
    console = Console()
    if not console.is_terminal:
        print_events(messages)
        return
    view = StatisticsView()
    with Live(console=console, refresh_per_second=_REFRESH_RATE, get_renderable=view.table):
        for message in messages:
            view.apply(message.event, json.loads(message.data))


class StatisticsView:
    """The rows of one window as a table."""

    def __init__(self) -> None:
        self.rows: dict[RowId, Row] = {}
        self._frame: dict[str, Any] = {}

    def apply(self, event: str, frame: dict[str, Any]) -> None:
        """Apply a message of a statistics stream."""
        apply_frame(self.rows, event, frame)
        if event in ("snapshot", "update"):
            self._frame = frame

    def table(self) -> Table:
        """Return the table: totals first, then the keys in the order of their names."""
        frame = self._frame
        table = Table(title=f"{frame['topic']}, {frame['window']} to {frame['to']}" if frame else "waiting")
        for name in frame.get("columns", ()):
            table.add_column(name, justify="left" if name in ("key", "field") else "right")
        for row_id in sorted(self.rows, key=lambda row_id: tuple((name is not None, name or "") for name in row_id)):
            key, field, *values = self.rows[row_id]
            names = "all" if key is None else key, "events" if field is None else field
            table.add_row(*names, *(_text(value) for value in values))
        return table


def _text(value: Any) -> str:
    """Return a number or a value as text, or values with the count of each."""
    if isinstance(value, list):
        return ", ".join(f"{_text(one)} ({count})" for one, count in value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:,.6g}" if isinstance(value, int | float) else escape(value or "")
