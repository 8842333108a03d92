"""Reads a whole file as a table, cleans it by rules, and hands it on as events."""

from __future__ import annotations

import csv
import io
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import orjson
import pandas as pd
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from pushsvc.clean import Cleaned, InvalidRules, Rules, clean
from pushsvc.clean.rules import Time, Type
from pushsvc.cli.publish import EVENT_LIMITS, FORMATS, MAX_EVENTS, NO_FUTURE, EventSender, guess_format
from pushsvc.cli.terminal import visible
from pushsvc.errors import InvalidInput
from pushsvc.event import ParsedEvents, parse
from pushsvc.event.csv_rows import cell_value
from pushsvc.event.formats import CSV, JSON
from pushsvc_client.batches import BodyLimits, batches

_TEXTS = ("id", "key", "type")  # attributes that are text also where a cell of CSV looks like a number


def _console() -> Console:
    return Console(stderr=True)


def clean_file(file: str, kind: str | None, rules: str) -> Cleaned:
    """Return the events of a file, or of the standard input (``-``), after the rules in another file.

    Rows are labelled by their lines. Raise InvalidInput for a file that is no table, or rules that do not fit it.
    """
    body = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    media_type = FORMATS.get(kind or file.rpartition(".")[2].lower()) or guess_format(body)
    try:
        wanted = Rules.read(rules)
        with _console().status("cleaning") as status:
            table = _csv_table(body) if media_type == CSV else _json_table(body, lines=media_type != JSON)
            cleaned = clean(table, wanted, lambda title: status.update(f"cleaning: {visible(title)}"))
    except InvalidRules as error:
        raise InvalidInput(f"{rules}: {error}") from None
    if media_type == CSV:
        typed = {name for rule in wanted if isinstance(rule, Type | Time) for name in rule.fields}
        for name in cleaned.table.columns.difference(list(typed)):
            values = [cell_value(cell) if isinstance(cell, str) else cell for cell in cleaned.table[name]]
            cleaned.table[name] = pd.Series(values, index=cleaned.table.index, dtype=object)
    return cleaned


def _csv_table(body: bytes) -> pd.DataFrame:
    """Return CSV as texts, with empty cells as missing values."""
    try:
        reader = csv.reader(io.StringIO(body.decode("utf-8-sig"), newline=""), strict=True)
        header = next(reader, None)
        if header is None:
            raise InvalidInput("the file is empty: the first line must name the columns")
        rows, lines, begin = [], [], reader.line_num + 1
        for row in reader:
            if row:
                if len(row) != len(header):
                    raise InvalidInput(f"line {begin}: {len(row)} cells, but the header has {len(header)}")
                rows.append([cell or None for cell in row])
                lines.append(begin)
            begin = reader.line_num + 1
    except (csv.Error, UnicodeDecodeError) as error:
        raise InvalidInput(f"not CSV in UTF-8: {error}") from None
    return pd.DataFrame(rows, columns=header, index=lines, dtype=object)


def _json_table(body: bytes, *, lines: bool) -> pd.DataFrame:
    """Return JSON objects, one a line or those of an array, as rows."""
    texts = [(number, line) for number, line in enumerate(body.split(b"\n"), 1) if line.strip()] if lines else []
    events, labels = [], []
    try:
        for number, line in texts:
            labels.append(number)
            events.append(orjson.loads(line))
        if not lines:
            found = orjson.loads(body)
            events = found if isinstance(found, list) else [found]
            labels = list(range(1, len(events) + 1))
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"line {labels[-1]}: {error}" if labels else f"not JSON: {error}") from None
    for label, event in zip(labels, events, strict=True):
        if not isinstance(event, dict):
            raise InvalidInput(f"line {label}: an event is an object")
    return pd.DataFrame(events, index=labels, dtype=object)


def events_of(table: pd.DataFrame, columns: Mapping[str, str]) -> Iterator[ParsedEvents]:
    """Yield the rows of a clean table as events, in batches; ``columns`` maps attributes to columns.

    Missing values are left out.
    """
    attributes = {name: name for name in _TEXTS if name in table.columns} | dict(columns)
    texts = [attributes[name] for name in _TEXTS if attributes.get(name) in table.columns]
    table = table.assign(**{name: table[name].map(str, na_action="ignore") for name in texts})
    table = table.astype(object).where(table.notna(), math.nan)
    for one in batches(table, columns, "absent", BodyLimits(MAX_EVENTS)) if len(table) else ():
        parsed = parse(one.body, JSON, now=NO_FUTURE, limits=EVENT_LIMITS)
        parsed.lines = [int(table.index[one.first_row + line - 1]) for line in parsed.lines]
        parsed.faults = [
            replace(fault, line=int(table.index[one.first_row + fault.line - 1])) for fault in parsed.faults
        ]
        yield parsed


def publish_table(sender: EventSender, table: pd.DataFrame, columns: Mapping[str, str]) -> None:
    """Send the rows of a clean table, with a progress bar on a terminal. Raise as ``EventSender.send``."""
    console = _console()
    with Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("publishing", total=len(table))
        for batch in events_of(table, columns):
            sender.send(batch, lambda: progress.update(task, completed=sender.totals["accepted"]))


def show(cleaned: Cleaned) -> None:
    """Print what the rules did."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, side in (("rule", "left"), ("changed", "right"), ("refused", "right"), ("lines", "left")):
        table.add_column(name, justify=side)  # type: ignore[arg-type]
    for entry in cleaned.report:
        more = " …" if entry.refused > len(entry.rows) else ""
        lines = ", ".join(map(str, entry.rows)) + more
        table.add_row(Text(visible(entry.rule)), f"{entry.changed:,}", f"{entry.refused:,}", lines)
    console = _console()
    console.print(table)
    read = len(cleaned.table) + len(cleaned.refused)
    console.print(f"{read:,} rows read, {len(cleaned.refused):,} refused, {len(cleaned.table):,} clean")
