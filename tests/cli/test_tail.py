"""``pushsvc tail`` as its users run it, and the tables of statistics on a terminal."""

from __future__ import annotations

import json
import logging
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from click.testing import CliRunner
from rich.console import Console, RenderableType

from pushsvc.cli.main import program
from pushsvc.cli.tail import StatisticsTables, StatisticsView, selection
from pushsvc.cli.terminal import VisibleFormatter
from support.stack import Stack
from support.waiting import DEADLINE, until

COLUMNS = ["key", "field", "count", "top", "last", "approximate"]


def tail(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pushsvc", "tail", *arguments]


def run(server: Stack, *arguments: str) -> list[dict[str, Any]]:
    """Return the lines that a tail with a limit prints."""
    done = subprocess.run(tail(*arguments, "--url", server.url), capture_output=True, timeout=DEADLINE)
    assert (done.returncode, done.stderr) == (0, b"")
    return [json.loads(line) for line in done.stdout.splitlines()]


@contextmanager
def running(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Yield a running tail, whose standard error is the file ``errors``."""
    with (folder / "errors").open("wb") as errors:
        # The tests may run in the background of a shell, which lets its jobs ignore SIGINT.
        heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        process = subprocess.Popen(tail(*arguments), stdout=subprocess.PIPE, stderr=errors, preexec_fn=heed)
    with process:
        try:
            yield process
        finally:
            process.kill()


def next_event(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    assert process.stdout is not None
    event: dict[str, Any] = json.loads(process.stdout.readline())
    return event


# Selecting


def test_a_pattern_selects_topics_and_a_limit_ends_it(shared_server: Stack, topic: str) -> None:
    for name in ("orders.new", "orders.new.eu", "other"):
        shared_server.post(f"{topic}.{name}", [{"name": name}])
    found = run(shared_server, f"{topic}.orders.>", "--after", "earliest", "--limit", "2")
    assert {event["name"] for event in found} == {"orders.new", "orders.new.eu"}
    [one] = run(shared_server, f"{topic}.*.new", "--after", "earliest", "--limit", "1")
    assert one["$topic"] == f"{topic}.orders.new"


def test_keys_are_alternatives_and_conditions_must_all_hold(shared_server: Stack, topic: str) -> None:
    events = [{"key": key, "x": x} for x in (1, 2, 3) for key in ("a", "b", "c")]
    shared_server.post(topic, [*events, {"x": 3}, {"key": "a", "x": 9, "last": True}])
    selected = ("--key", "a", "--key", "", "--where", "x>1", "--where", "x!=2")
    found = run(shared_server, topic, *selected, "--after", "earliest", "--limit", "3")
    assert [(event.get("key"), event["x"]) for event in found] == [("a", 3), (None, 3), ("a", 9)]


@pytest.mark.parametrize(
    "condition",
    ["x=1", "x!=1", "x<2", "x>=1", 'x="1"', "x<b", "x=true", "key=a", "key!=a", "type!=message", "$offset!=2"],
)
def test_a_condition_selects_what_it_selects_in_the_history(shared_server: Stack, topic: str, condition: str) -> None:
    values: list[Any] = [1, 2, 1.0, "1", "a", True, None, [1]]
    shared_server.post(topic, [{"key": "a", "x": value} for value in values])
    path = f"/v1/topics/{topic}/events"
    every = shared_server.get(path).json()["events"]
    selected = shared_server.get(f"{path}?{urlencode({'where': condition})}").json()["events"]
    assert list(filter(selection((), [condition]), every)) == selected


def test_a_window_selects_statistics_and_the_server_selects_their_keys(shared_server: Stack, topic: str) -> None:
    shared_server.post(f"{topic}.a", [{"key": "soup", "x": 1}, {"key": "pizza", "x": 2}])
    until(lambda: shared_server.stats(f"{topic}.a")["offset"] == 2)
    until(lambda: "stale" not in shared_server.stats(f"{topic}.a", "?window=5m"))
    [frame] = run(shared_server, f"{topic}.*", "--window", "5m", "--key", "soup", "--limit", "1")
    assert (frame["topic"], frame["window"]) == (f"{topic}.a", "5m")
    assert {row[0] for row in frame["data"]} == {"soup"}
    frames = run(shared_server, f"{topic}.a", "--stats", "--window", "*", "--limit", "3")
    assert {frame["window"] for frame in frames} == {"1m", "5m", "15m"}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["t", "--stats", "--where", "x<1"], 2, "Error: --where selects events"),
        (["t", "--where", "x"], 1, "Error: where: 'x' is not a field, one of = != < <= > >= ~, and a value, or in(…)"),
        (["t", "--where", "x<true"], 1, "Error: where: 'x<true': true and false have no order"),
        (["a.>.b"], 1, "Error: 'a.>.b' is not a topic or pattern"),
        (["t", "--limit", "0"], 2, "Invalid value for '--limit'"),
    ],
)
def test_what_cannot_be_selected_is_an_error(arguments: list[str], code: int, message: str) -> None:
    result = CliRunner().invoke(program, ["tail", *arguments])
    assert result.exit_code == code, result.output
    assert message in result.output.splitlines()[-1]


# Waiting and ending


def test_tail_waits_for_the_server_and_continues_after_the_last_event(
    own_server: Stack, topic: str, tmp_path: Path
) -> None:
    own_server.post(topic, [{"n": 1}])
    with running(tmp_path, topic, "--after", "earliest", "--url", own_server.url) as process:
        assert next_event(process)["n"] == 1
        own_server.stop("web")
        errors = tmp_path / "errors"
        until(lambda: errors.read_text().endswith("\n"))
        own_server.start_web()
        own_server.post(topic, [{"n": 2}])
        assert next_event(process)["n"] == 2
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE) == 0
        assert process.stdout is not None
        assert process.stdout.read() == b""
    begin, end = errors.read_text().splitlines()
    assert begin.startswith(f"pushsvc: waiting: {own_server.url} ")
    assert end == "pushsvc: connected again"


def test_tail_ends_as_soon_as_its_reader_ends(shared_server: Stack, topic: str) -> None:
    shared_server.post(topic, [{"n": n} for n in range(3)])
    command = shlex.join(tail(topic, "--after", "earliest", "--url", shared_server.url))
    script = f"{command} | head -n 2; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, timeout=DEADLINE)
    *events, status = done.stdout.splitlines()
    assert [json.loads(event)["n"] for event in events] == [0, 1]
    assert (status, done.stderr) == (b"0", b"")


# Tables


def cells(renderable: RenderableType) -> list[list[str]]:
    console = Console(width=120, record=True, file=StringIO())
    console.print(renderable)
    lines = [line.split("│")[1:-1] for line in console.export_text().splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in line] for line in lines]


def test_the_table_shows_values_of_every_type() -> None:
    view = StatisticsView()
    rows = [
        [None, "v", 3, [["[/b]", 2], [True, 1]], "[red]", False],
        ["a", "v", 1, [], 2.5, True],
        ["a", None, 1, None, None, False],
    ]
    view.apply("snapshot", {"topic": "t", "window": "1m", "to": "now", "columns": COLUMNS, "data": rows})
    assert cells(view.table()) == [
        ["all", "v", "3", "[/b] (2), true (1)", "[red]", "false"],
        ["a", "events", "1", "", "", "false"],
        ["a", "v", "1", "", "2.5", "true"],
    ]


HOSTILE = "\x1b]52;c;eA==\x07\x9b2J\u202e[/x][link=a]:bomb:\n"
SHOWN = r"\u001b]52;c;eA==\u0007\u009b2J\u202e[/x][link=a]:bomb:\u000a"


def test_the_table_shows_control_characters_and_markup_as_text() -> None:
    tables = StatisticsTables()
    frame = {"topic": HOSTILE, "window": HOSTILE, "to": HOSTILE, "columns": ["key", "field", HOSTILE]}
    tables.apply("snapshot", frame | {"data": [[HOSTILE, HOSTILE, [[HOSTILE, 1]]], [HOSTILE, None, HOSTILE]]})
    console = Console(width=1_000, file=StringIO(), force_terminal=True, color_system=None)
    with console.capture() as shown:
        console.print(tables.render())
    text = shown.get()
    assert text.count(SHOWN) == 3 + 1 + 3 + 2
    plain = re.sub("\x1b\\[[0-9;]*m", "", text)  # the styles of the table itself
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", plain)


def test_printed_events_are_the_same_json_without_control_characters(shared_server: Stack, topic: str) -> None:
    shared_server.post(topic, {"key": "\x9b2J", "text": HOSTILE + "\x7f"})
    command = tail(topic, "--after", "earliest", "--limit", "1", "--url", shared_server.url)
    line = subprocess.run(command, capture_output=True, timeout=DEADLINE, check=True).stdout.decode()
    assert re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", line) is None
    event = json.loads(line)
    assert (event["key"], event["text"]) == ("\x9b2J", HOSTILE + "\x7f")


def test_logs_and_errors_have_no_control_characters() -> None:
    record = logging.LogRecord("pushsvc", logging.ERROR, "", 0, "%s\nnext", ("a\x1b[2J",), None)
    assert VisibleFormatter("pushsvc: %(message)s").format(record) == "pushsvc: a\\u001b[2J\nnext"
    done = CliRunner().invoke(program, ["tail", "a\x1b[2Jb"])
    assert done.exit_code == 1
    assert "\x1b" not in done.output


def test_every_topic_and_window_has_a_table_of_its_own() -> None:
    tables = StatisticsTables()
    assert cells(tables.render()) == []
    for topic, window, count in (("a.y", "1m", 1), ("a.x", "1m", 2), ("a.x", "5m", 3), ("b", "1m", 4)):
        frame = {"topic": topic, "window": window, "to": "now", "columns": ["key", "field", "count"]}
        tables.apply("snapshot", frame | {"data": [[None, None, count]]})
    tables.apply("heartbeat", {"at": 1})
    assert [row[2] for row in cells(tables.render())] == ["2", "3", "1", "4"]
    tables.apply("reset", {"topic": "a.*", "reason": "broker-restarted"})
    assert [row[2] for row in cells(tables.render())] == ["4"]
