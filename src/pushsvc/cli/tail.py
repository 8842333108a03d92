"""Prints streams on a terminal: events as JSON lines, statistics as live tables."""

import json
import os
import select
import stat
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import click
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pushsvc.cli.terminal import visible
from pushsvc.event.conditions import data_of, parse_condition
from pushsvc.frame import Row, RowId, apply_frame
from pushsvc.sse import Message
from pushsvc.topic import matches

_REFRESH_RATE = 8  # times a second that the tables are drawn

Selection = Callable[[Mapping[str, Any]], bool]  # returns whether an event, in its public form, is to be printed


def selection(keys: Collection[str], conditions: Sequence[str]) -> Selection:
    """Return the test for events with one of ``keys`` (all without keys; "" is no key) that meet all ``conditions``.

    Raise InvalidParameter for a text that is not a condition.
    """
    tests = [parse_condition(text) for text in conditions]

    def selects(event: Mapping[str, Any]) -> bool:
        data = data_of(event)
        return (not keys or event.get("key", "") in keys) and all(test(data) for test in tests)

    return selects


def print_events(messages: Iterator[Message], selects: Selection | None = None, limit: int | None = None) -> None:
    """Print the JSON of each selected message, at most ``limit``; resets and errors go to the standard error."""
    printed = 0
    while printed != limit and (message := next(messages, None)) is not None:
        if message.event in ("reset", "error"):
            click.echo(visible(message.data), err=True)
        elif message.event != "heartbeat" and (selects is None or selects(json.loads(message.data))):
            click.echo(visible(message.data))
            printed += 1


def show_stats(messages: Iterator[Message], limit: int | None = None) -> None:
    """Print the JSON of each frame, at most ``limit``; on a terminal, show tables that the frames update."""
    console = Console()
    if not console.is_terminal:
        print_events(messages, limit=limit)
        return
    tables = StatisticsTables()
    with Live(console=console, refresh_per_second=_REFRESH_RATE, get_renderable=tables.render):
        for message in islice(messages, limit):
            tables.apply(message.event, json.loads(message.data))


def end_with_reader() -> None:
    """End this process as soon as the reader of its output has ended, as ``head`` does after its last line.

    Without this the process would notice it at its next line, which may never come.
    """
    try:
        output = sys.stdout.fileno()
        is_pipe = stat.S_ISFIFO(os.fstat(output).st_mode)
    except (OSError, ValueError):
        return  # the output is not a file
    if is_pipe:
        threading.Thread(target=_exit_without_reader, args=(output,), daemon=True).start()


def _exit_without_reader(pipe: int) -> None:
    poll = select.poll()
    poll.register(pipe, 0)  # an error and a hang-up are reported in any case
    poll.poll()
    os._exit(0)  # nobody reads what a buffer might still hold


class StatisticsTables:
    """A table for each topic and window."""

    def __init__(self) -> None:
        self._views: dict[tuple[str, str], StatisticsView] = {}

    def apply(self, event: str, frame: dict[str, Any]) -> None:
        """Apply a message of a statistics stream. A reset concerns all windows of a topic or pattern."""
        if event in ("snapshot", "update"):
            self._views.setdefault((frame["topic"], frame["window"]), StatisticsView()).apply(event, frame)
        elif event == "reset":
            for (topic, _), view in self._views.items():
                if matches(frame["topic"], topic):
                    view.apply(event, frame)

    def render(self) -> Group:
        """Return the tables in the order of topics."""
        views = [view for _, view in sorted(self._views.items())]
        return Group(*(view.table() for view in views or [StatisticsView()]))


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
        table = Table(title=_plain(f"{frame['topic']}, {frame['window']} to {frame['to']}" if frame else "waiting"))
        for name in frame.get("columns", ()):
            table.add_column(_plain(name), justify="left" if name in ("key", "field") else "right")
        for row_id in sorted(self.rows, key=lambda row_id: tuple((name is not None, name or "") for name in row_id)):
            key, field, *values = self.rows[row_id]
            names = "all" if key is None else key, "events" if field is None else field
            table.add_row(*map(_plain, names), *(_plain(_text(value)) for value in values))
        return table


def _plain(text: str) -> Text:
    """Return text of events as it is: not as markup, without control characters."""
    return Text(visible(str(text)))


def _text(value: Any) -> str:
    """Return a number or a value as text, or values with the count of each."""
    if isinstance(value, list):
        return ", ".join(f"{_text(one)} ({count})" for one, count in value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:,.6g}" if isinstance(value, int | float) else str(value or "")
