"""Streams on a terminal: events as lines, statistics as a table that moves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import click
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from pushsvc.sse import Message

_PER_SECOND = 8


def follow_events(messages: Iterator[Message]) -> None:
    """Print each event's JSON; a reset goes to the error output."""
    for message in messages:
        click.echo(message.data, err=message.event in ("reset", "error"))


def follow_stats(messages: Iterator[Message]) -> None:
    """Print each frame's JSON, or on a terminal the state that the frames add up to."""
    console = Console()
    if not console.is_terminal:
        follow_events(messages)
        return
    state = Statistics()
    with Live(console=console, refresh_per_second=_PER_SECOND, get_renderable=state.table):
        for message in messages:
            state.apply(message.event, json.loads(message.data))


class Statistics:
    """The rows of one window, kept up to date by its frames."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str | None, ...], list[Any]] = {}
        self._frame: dict[str, Any] = {}

    def apply(self, event: str, frame: dict[str, Any]) -> None:
        """Take in a snapshot, an update or a reset."""
        if event in ("snapshot", "reset"):
            self.rows.clear()
        if event in ("snapshot", "update"):
            self._frame = frame
            by = frame["columns"].index("by") if "by" in frame["columns"] else None
            for row in frame["data"]:
                self.rows[(row[0], row[1]) if by is None else (row[0], row[1], row[by])] = row
            for place in frame.get("gone", ()):
                self.rows.pop(tuple(place), None)

    def table(self) -> Table:
        """Return what is to be seen: totals first, then the keys by name."""
        frame = self._frame
        table = Table(title=f"{frame['topic']}, {frame['window']} to {frame['to']}" if frame else "waiting")
        for name in frame.get("columns", ()):
            table.add_column(name, justify="left" if name in ("key", "field") else "right")
        for place in sorted(self.rows, key=lambda place: tuple((name is not None, name or "") for name in place)):
            key, field, *values = self.rows[place]
            shown = "all" if key is None else key, "events" if field is None else field
            table.add_row(*shown, *(_shown(value) for value in values))
        return table


def _shown(value: Any) -> str:
    """Return a number, a value, or values with how often each occurred."""
    if isinstance(value, list):
        return ", ".join(f"{_shown(one)} ({count})" for one, count in value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:,.6g}" if isinstance(value, int | float) else escape(value or "")
