"""`pushsvc publish --clean`: a dirty file as it arrives on a real server."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.stack import Stack

RULES = """
[[rules]]
rule = "text"
field = "dish"
case = "lower"
replace = { margarita = "margherita" }

[[rules]]
name = "a dish is named"
rule = "missing"
field = "dish"
otherwise = "refuse"

[[rules]]
rule = "type"
field = "rating"
type = "number"
decimal = ","
otherwise = "remove"

[[rules]]
rule = "range"
field = "rating"
min = 1
max = 5

[[rules]]
rule = "time"
field = "visited"
formats = ["%d.%m.%Y %H:%M", "ISO8601"]
zone = "Europe/Berlin"

[[rules]]
rule = "type"
field = "table"
type = "text"

[[rules]]
rule = "duplicates"
"""
DIRTY = """dish,rating,visited,table,guests,comment
Margarita ,"4,5",31.01.2026 19:00,007,2,"two
lines"
margherita,"4,5",2026-01-31T18:00:00Z,007,2,"two
lines"
,3,31.01.2026 19:10,12,1,
Soup,9,31.01.2026 19:20,12,3,too hot
 soup,x,31.01.2026 19:30,12,4.5,
"""


def run(folder: Path, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    (folder / "rules.toml").write_text(RULES)
    (folder / "dirty.csv").write_text(DIRTY)
    command = [sys.executable, "-m", "pushsvc", "publish", *arguments]
    return subprocess.run(command, cwd=folder, input=stdin, capture_output=True, timeout=120)


def history(stack: Stack, topic: str) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = stack.get(f"/v1/topics/{topic}/events?format=json").json()["events"]
    return events


def test_what_is_left_arrives_with_its_types(shared_server: Stack, topic: str, tmp_path: Path) -> None:
    columns = ["--key", "dish", "--time", "visited", "--clean", "rules.toml", "--refused", "refused.csv"]
    done = run(tmp_path, topic, "dirty.csv", "--url", shared_server.url, *columns)
    assert done.returncode == 0, done.stderr
    events = [
        {name: value for name, value in event.items() if name[0] != "$" and name != "type"}
        for event in history(shared_server, topic)
    ]
    assert events == [
        {"key": "margherita", "time": "2026-01-31T18:00:00.000Z", "rating": 4.5, "table": "007", "guests": 2,
         "comment": "two\nlines"},
        {"key": "soup", "time": "2026-01-31T18:30:00.000Z", "table": "12", "guests": 4.5},
    ]  # fmt: skip
    receipt = json.loads(done.stdout)
    assert receipt["accepted"] == 2
    assert {entry["rule"]: entry["rows"] for entry in receipt["cleaned"] if entry["refused"]} == {
        "a dish is named": [6], "range of rating": [7], "duplicates of all fields": [4],
    }  # fmt: skip
    with (tmp_path / "refused.csv").open(newline="") as file:
        refused = {row["line"]: (row["refused_by"], row["rating"]) for row in csv.DictReader(file)}
    assert refused == {
        "4": ("duplicates of all fields", "4,5"), "6": ("a dish is named", "3"), "7": ("range of rating", "9"),
    }  # fmt: skip
    assert b"5 rows read, 3 refused, 2 clean" in done.stderr


def test_a_dry_run_reports_and_publishes_nothing(shared_server: Stack, topic: str, tmp_path: Path) -> None:
    done = run(tmp_path, topic, "dirty.csv", "--url", shared_server.url, "--clean", "rules.toml", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["accepted"] == 0
    assert b"a dish is named" in done.stderr
    assert history(shared_server, topic) == []


@pytest.mark.parametrize("form", ["ndjson", "json"])
def test_json_keeps_its_types(shared_server: Stack, topic: str, tmp_path: Path, form: str) -> None:
    events = [{"dish": "Soup", "rating": 4, "visited": "2026-01-31", "table": 7, "tags": ["a"]}, {"dish": None}]
    lines = [json.dumps(event) for event in events]
    text = "\n".join(lines) if form == "ndjson" else f"[{','.join(lines)}]"
    rules = tmp_path / "two.toml"
    rules.write_text('[[rules]]\nrule = "missing"\nfield = "dish"\notherwise = "refuse"\n')
    options = ["--url", shared_server.url, "--clean", "two.toml"]
    done = run(tmp_path, topic, *options, stdin=text.encode())
    assert done.returncode == 0, done.stderr
    (found,) = history(shared_server, topic)
    assert {name: found[name] for name in events[0]} == events[0]
    assert json.loads(done.stdout)["cleaned"][0]["rows"] == [2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a,b\n1\n", b"line 2: 1 cells, but the header has 2"),
        (b"", b"the file is empty"),
        (b"a\n\xff\n", b"not CSV in UTF-8"),
        (b'{"a":1}\n{', b"line 2: "),
        (b"[3]", b"line 1: an event is an object"),
        (b"a\n1\n", b"rules.toml: rule 1 (text of dish): there is no column 'dish'; the columns are a"),
    ],
)
def test_what_is_no_table_or_does_not_fit_is_named(tmp_path: Path, text: bytes, message: bytes) -> None:
    done = run(tmp_path, "t", "--clean", "rules.toml", stdin=text)
    assert done.returncode == 1
    assert message in done.stderr
    assert b"Traceback" not in done.stderr


def test_options_of_cleaning_need_rules(tmp_path: Path) -> None:
    done = run(tmp_path, "t", "dirty.csv", "--dry-run")
    assert done.returncode == 2
    assert b"go with --clean" in done.stderr
