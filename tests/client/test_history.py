"""The history of a topic in Python, and as a file."""

from __future__ import annotations

import csv
import json
import os
import pty
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from socket import create_server, socket

import pytest

from pushsvc.client import Client, ClientError
from support.stack import Stack
from support.waiting import DEADLINE

EVENTS = [{"key": "ab"[n % 2], "time": f"2026-01-01T00:00:{n:02}Z", "n": n, "note": f"note {n}"} for n in range(25)]


@pytest.fixture
def filled(shared_server: Stack, topic: str) -> str:
    with Client(shared_server.url) as client:
        client.publish(topic, EVENTS, batch_size=7)
    return topic


def test_events_are_iterated_as_often_as_wanted(shared_server: Stack, filled: str) -> None:
    with Client(shared_server.url) as client:
        history = client.history(filled, key="b", where=["n>3", "note~NOTE 1"])
        assert [event["n"] for event in history] == [event["n"] for event in history] == [11, 13, 15, 17, 19]
        with pytest.raises(ClientError, match="where"):
            list(client.history(filled, where="n"))


def test_a_data_frame_has_the_times_as_index(shared_server: Stack, filled: str) -> None:
    with Client(shared_server.url) as client:
        table = client.history(filled).df()
        assert (len(table), str(table.index.tz), table.index.name) == (25, "UTC", "time")
        assert table["n"].resample("10s").sum().tolist() == [45, 145, 110]
        assert table["$offset"].tolist() == list(range(1, 26))
        empty = client.history(filled, key="nobody").df()
        assert (len(empty), empty.index.name) == (0, "time")


def test_an_answer_that_is_cut_is_an_error(topic: str) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
    with create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor() as threads:
        answered = threads.submit(answer_once, listener, head + b'8\r\n{"n":1}\n\r\n8\r\n{"n')
        events = iter(Client(f"http://127.0.0.1:{listener.getsockname()[1]}").history(topic))
        assert next(events) == {"n": 1}
        with pytest.raises(ClientError, match="was cut"):
            next(events)
        answered.result()


def answer_once(listener: socket, data: bytes) -> None:
    peer, _ = listener.accept()
    with peer:
        peer.recv(65_536)
        peer.sendall(data)


def export(server: Stack, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PUSHSVC_")}
    return subprocess.run(
        [sys.executable, "-m", "pushsvc", "export", *arguments, "--url", server.url], text=True, cwd=folder,
        capture_output=True, timeout=DEADLINE, env=environment,
    )  # fmt: skip


def test_a_file_has_all_selected_events(shared_server: Stack, filled: str, tmp_path: Path) -> None:
    assert export(shared_server, tmp_path, filled, "all.csv").stderr == ""
    with (tmp_path / "all.csv").open(newline="") as file:
        assert [int(row["n"]) for row in csv.DictReader(file)] == list(range(25))
    done = export(shared_server, tmp_path, filled, "--key", "a", "--where", "n<9", "--since", "2026-01-01T00:00:04Z")
    assert [json.loads(line)["n"] for line in done.stdout.splitlines()] == [4, 6, 8]


def test_a_failed_export_leaves_the_old_file(shared_server: Stack, filled: str, tmp_path: Path) -> None:
    (tmp_path / "all.csv").write_text("old")
    refused = export(shared_server, tmp_path, filled, "all.csv", "--where", "n")
    assert (refused.returncode, "is not a field" in refused.stderr) == (1, True)
    assert [path.name for path in tmp_path.iterdir()] == ["all.csv"]
    assert (tmp_path / "all.csv").read_text() == "old"
    assert "cannot write" in export(shared_server, tmp_path, filled, "no/such/folder.csv").stderr


def test_a_parquet_file_has_a_type_for_each_column(shared_server: Stack, topic: str, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed: the extra parquet")
    events: list[dict[str, object]] = [
        {"key": "a", "time": "2026-01-01T00:00:00.25Z", "whole": 2**62, "part": 1, "mixed": 1, "yes": True, "t": "é"},
        {"time": "2026-01-01T00:00:01Z", "id": "i", "part": 0.5, "mixed": "1", "nested": {"a": [1, None]}, "no": None},
        {"whole": -1, "yes": False, "mixed": True, "nested": "plain", "late": 2**63},
    ]  # fmt: skip
    with Client(shared_server.url) as client:
        client.publish(topic, events)
        rows = list(client.history(topic))
    done = export(shared_server, tmp_path, topic, "all.parquet")
    assert (done.returncode, done.stderr) == (0, "")
    table = parquet.read_table(tmp_path / "all.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["all.parquet"]
    assert {name: str(table.schema.field(name).type) for name in table.column_names} == {
        "$offset": "int64", "time": "timestamp[ms, tz=UTC]", "type": "string", "id": "string", "key": "string",
        "whole": "int64", "part": "double", "mixed": "string", "yes": "bool", "t": "string", "nested": "string",
        "no": "string", "late": "double",
    }  # fmt: skip
    found = table.to_pylist()
    assert [row["time"].timestamp() for row in found] == [
        pytest.approx(datetime.fromisoformat(str(row["time"])).timestamp()) for row in rows
    ]
    assert [row["$offset"] for row in found] == [1, 2, 3]
    assert [row["whole"] for row in found] == [2**62, None, -1]
    assert [row["part"] for row in found] == [1.0, 0.5, None]
    assert [row["mixed"] for row in found] == ["1", "1", "true"]
    assert [row["nested"] for row in found] == [None, '{"a": [1, null]}', "plain"]
    assert [row["late"] for row in found] == [None, None, 2.0**63]


def test_a_parquet_file_of_no_events_has_the_attributes(shared_server: Stack, topic: str, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed: the extra parquet")
    export(shared_server, tmp_path, topic, "none.parquet")
    assert parquet.read_table(tmp_path / "none.parquet").column_names == ["$offset", "time", "type", "id", "key"]


def test_a_parquet_file_needs_a_name_and_pyarrow(shared_server: Stack, filled: str, tmp_path: Path) -> None:
    assert "name a file" in export(shared_server, tmp_path, filled, "--format", "parquet").stderr
    (tmp_path / "pyarrow.py").write_text("raise ImportError")
    refused = export(shared_server, tmp_path, filled, "all.parquet")
    assert (refused.returncode, "pushsvc[parquet]" in refused.stderr) == (1, True)


def test_the_value_of_an_indexed_field_is_a_parameter(shared_server: Stack, filled: str, tmp_path: Path) -> None:
    assert "n: not supported here" in export(shared_server, tmp_path, filled, "--by", "n=1").stderr
    assert "such as user=u42" in export(shared_server, tmp_path, filled, "--by", "n").stderr


@pytest.mark.parametrize("name", ["all.csv", "all.ndjson", "all.parquet"])
def test_a_terminal_shows_how_far_the_export_is(shared_server: Stack, filled: str, tmp_path: Path, name: str) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed: the extra parquet")
    terminal, screen = pty.openpty()
    text = b""
    with os.fdopen(terminal, "rb", buffering=0) as shown:
        command = [sys.executable, "-m", "pushsvc", "export", filled, name, "--url", shared_server.url]
        environment = {**os.environ, "COLUMNS": "120", "TERM": "xterm"}
        with subprocess.Popen(command, stderr=screen, cwd=tmp_path, env=environment) as process:
            os.close(screen)
            with suppress(OSError):  # the other end is closed, and everything was read
                while piece := shown.read(65_536):
                    text += piece
        assert process.returncode == 0
    assert b"100%" in text
    assert b"25 events" in text
