"""The command line, mostly with real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pushsvc import __version__
from pushsvc.cli.main import program
from pushsvc.cli.tail import StatisticsView
from pushsvc.supervisor.folders import private_folder
from support.stack import Stack
from support.waiting import DEADLINE, until

pytestmark = pytest.mark.usefixtures("elsewhere")


def invoke(*arguments: str, stdin: str | None = None, **environment: str) -> Result:
    return CliRunner().invoke(program, arguments, input=stdin, env=environment)


def run(*arguments: str, stdin: bytes = b"", **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "pushsvc", *arguments],
        input=stdin,
        capture_output=True,
        timeout=DEADLINE,
        env=os.environ | environment,
    )


def test_help_lists_commands_and_variables() -> None:
    output = invoke("--help").output
    for command in ("serve", "web", "aggregator", "demo", "publish", "tail"):
        assert f"  {command} " in output
    assert "_web" not in output
    output = invoke("serve", "--help").output
    for variable in ("HOST", "PORT", "REDIS", "PREFIX", "DATA_DIR", "WORKERS", "AGGREGATORS", "CONFIG", "INSECURE",
                     "ALLOW_HOST", "ALLOW_ORIGIN", "DRAIN", "WAIT", "ACK"):  # fmt: skip
        assert f"PUSHSVC_{variable}" in output.replace("\n", "").replace(" ", "")


@pytest.mark.parametrize("option", ["-V", "--version"])
def test_the_version_is_printed(option: str) -> None:
    assert invoke(option).output == f"pushsvc, version {__version__}\n"


@pytest.mark.parametrize(
    ("shell", "registers"),
    [
        ("bash", "complete -o nosort -F _pushsvc_completion pushsvc"),
        ("zsh", "compdef _pushsvc_completion pushsvc"),
        ("fish", 'complete --no-files --command pushsvc --arguments "(_pushsvc_completion)"'),
    ],
)
def test_the_completion_of_a_shell_is_printed(shell: str, registers: str) -> None:
    done = run(_PUSHSVC_COMPLETE=f"{shell}_source")
    assert (done.returncode, done.stderr) == (0, b"")
    assert registers in done.stdout.decode()


def test_bash_completes_commands_and_options(tmp_path: Path) -> None:
    program = tmp_path / "pushsvc"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m pushsvc "$@"\n')
    program.chmod(0o755)
    script = """eval "$(_PUSHSVC_COMPLETE=bash_source pushsvc)"
    for COMP_LINE in "pushsvc ta" "pushsvc tail --w" "pushsvc _"; do
        COMP_WORDS=($COMP_LINE) COMPREPLY=()
        COMP_CWORD=$((${#COMP_WORDS[*]} - 1))
        _pushsvc_completion pushsvc
        echo "${COMPREPLY[*]}"
    done"""
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, timeout=DEADLINE, env=os.environ | {"PATH": path}
    )
    assert (done.stdout.decode().splitlines(), done.stderr) == (["tail", "--window --where", ""], b"")


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        (["--help"], {}),
        (["serve", "--help"], {}),
        ([], {"_PUSHSVC_COMPLETE": "bash_complete", "COMP_WORDS": "pushsvc serve --", "COMP_CWORD": "2"}),
    ],
)
def test_help_and_completion_import_nothing_heavy(arguments: list[str], environment: dict[str, str]) -> None:
    """A shell starts the program at every press of the tab key: numpy alone would take longer than all the rest."""
    done = run(*arguments, PYTHONPROFILEIMPORTTIME="1", **environment)
    assert b"--" in done.stdout
    imported = {line.split("|")[-1].strip().split(".")[0] for line in done.stderr.decode().splitlines()}
    assert "click" in imported
    assert not imported & {"numpy", "pandas", "msgspec", "orjson", "redis", "flask", "gevent", "rich"}


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "message"),
    [
        (["serve", "--host", "0.0.0.0"], {}, 1, "Error: refused to listen on 0.0.0.0: no credentials"),
        (["web", "--redis", "redis://localhost"], {"PUSHSVC_HOST": "::"}, 1, "Error: refused to listen on ::"),
        (["web"], {}, 1, "Error: pushsvc web shares a Redis"),
        (["aggregator"], {}, 1, "Error: pushsvc aggregator shares a Redis"),
        (["aggregator", "--metrics-port", "0", "--metrics-host", "::"], {}, 1, "Error: refused to listen on ::"),
        (["aggregator"], {"PUSHSVC_METRICS_PORT": "-1"}, 2, "Invalid value for '--metrics-port'"),
        (["serve", "--port", "x"], {}, 2, "Invalid value for '--port'"),
        (["serve"], {"PUSHSVC_PORT": "x"}, 2, "Invalid value for '--port' (env var: 'PUSHSVC_PORT')"),
        (["serve", "--ack", "disk"], {}, 2, "'disk' must be memory, fsync or replicas:N (N from 1 to 99)"),
        (["web"], {"PUSHSVC_ACK": "disk"}, 2, "Invalid value for '--ack' (env var: 'PUSHSVC_ACK')"),
        (["serve", "--config", "none.toml"], {}, 1, "Error: cannot read none.toml"),
        (["serve"], {"PUSHSVC_CONFIG": "none.toml"}, 1, "Error: cannot read none.toml"),
        (["demo", "nothing"], {}, 1, "Error: there is no demo 'nothing'; there are flights"),
        (["publish", "a b"], {}, 1, "Error: 'a b' is not a topic"),
        (["tail", "a b"], {}, 1, "Error: 'a b' is not a topic"),
        (["publish", "t", "--url", "nonsense"], {}, 1, "is not the address of a server"),
        (["publish", "t"], {"PUSHSVC_TOKEN": "two words"}, 1, "Error: PUSHSVC_TOKEN: a token has 1 to 8192 characters"),
        (["tail", "t"], {"PUSHSVC_TOKEN": "two words"}, 1, "Error: PUSHSVC_TOKEN: a token has 1 to 8192 characters"),
        (
            ["serve", "--redis", "http://localhost"],
            {},
            1,
            "Error: … is not the address of a Redis: the schemes are redis://",
        ),
    ],
)
def test_an_error_is_one_line(arguments: list[str], environment: dict[str, str], code: int, message: str) -> None:
    result = invoke(*arguments, **environment)
    assert result.exit_code == code, result.output
    assert message in result.output.splitlines()[-1]


def test_an_error_in_the_settings_file_names_file_line_and_key(tmp_path: Path) -> None:
    (tmp_path / "pushsvc.toml").write_text("[topics.a]\nwindws = ['1m']\n")
    result = invoke("serve")
    assert result.exit_code == 1
    assert "Error: pushsvc.toml:2: topics.a.windws: there is no such setting; did you mean window" in result.output


def test_tail_prints_published_events(shared_server: Stack, topic: str) -> None:
    rows = b"who,when,x\na,2026-01-01T00:00:00Z,1\nb,2026-01-01T00:00:30Z,2\n"
    done = run("publish", topic, "--key", "who", "--time", "when", stdin=rows, PUSHSVC_URL=shared_server.url)
    assert done.returncode == 0, done.stderr
    receipt = json.loads(done.stdout)
    assert (receipt["accepted"], receipt["first_offset"], receipt["last_offset"]) == (2, 1, 2)
    assert done.stderr == b""

    tail = [sys.executable, "-m", "pushsvc", "tail", topic, "--after", "earliest", "--url", shared_server.url]
    with subprocess.Popen(tail, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        events = [json.loads(process.stdout.readline()) for _ in range(2)]
        process.kill()
    assert [(event["key"], event["time"], event["x"]) for event in events] == [
        ("a", "2026-01-01T00:00:00.000Z", 1),
        ("b", "2026-01-01T00:00:30.000Z", 2),
    ]


def test_publish_stops_at_a_bad_event_or_skips_it(shared_server: Stack, topic: str, tmp_path: Path) -> None:
    file = tmp_path / "e.ndjson"
    file.write_text('{"x":1}\n{"$x":1}\n{"key":"%s"}\n{"x":2}\n' % ("k" * 300))
    done = run("publish", topic, str(file), "--url", shared_server.url)
    assert done.returncode == 1
    assert b"e.ndjson: line 2, field '$x'" in done.stderr
    assert json.loads(done.stdout)["accepted"] == 0

    done = run("publish", topic, str(file), "--skip", "--url", shared_server.url)
    assert done.returncode == 0, done.stderr
    assert b"line 2, field '$x'" in done.stderr
    assert b"line 3, field 'key'" in done.stderr
    receipt = json.loads(done.stdout)
    assert (receipt["accepted"], receipt["rejected"]) == (2, 2)


def test_publish_with_speed_replays_events_at_the_present(shared_server: Stack, topic: str) -> None:
    lines = b"".join(b'{"time":"2013-01-01T00:00:%02dZ","x":%d}\n' % (second, second) for second in range(0, 50, 10))
    begin = time.time()
    done = run("publish", topic, "--speed", "50", "--url", shared_server.url, stdin=lines)
    assert done.returncode == 0, done.stderr
    events = shared_server.get(f"/v1/topics/{topic}/events?format=json").json()["events"]
    assert [event["x"] for event in events] == [0, 10, 20, 30, 40]
    frame = shared_server.stats(topic, "?at_least=5")
    assert next(row[2] for row in frame["data"] if row[:2] == [None, None]) == 5
    assert time.time() - begin >= 0.8


def test_events_from_a_pipe_are_sent_as_they_arrive(shared_server: Stack, topic: str) -> None:
    publish = [sys.executable, "-m", "pushsvc", "publish", topic, "--url", shared_server.url]
    with subprocess.Popen(publish, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        for number in (1, 2, 3):
            process.stdin.write(b'{"x":%d}\n' % number)
            process.stdin.flush()
            expected = [*range(1, number + 1)]
            until(lambda wanted=expected: [e["x"] for e in history(shared_server, topic)] == wanted)  # type: ignore[misc]
        process.stdin.close()
        assert process.wait(DEADLINE) == 0


def history(shared_server: Stack, topic: str) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = shared_server.get(f"/v1/topics/{topic}/events?format=json").json()["events"]
    return events


def test_an_unreachable_server_is_named() -> None:
    result = run("tail", "t", "--url", "http://127.0.0.1:1")
    assert result.returncode == 1
    assert b"http://127.0.0.1:1 cannot be reached" in result.stderr
    assert b"Traceback" not in result.stderr


@pytest.mark.parametrize("clock", ["wall", "event"])
def test_the_demo_shows_flights_and_removes_its_files(tmp_path: Path, short_folder: Path, clock: str) -> None:
    folder = short_folder
    stack = Stack("", "pushsvc:", tmp_path)
    settings = tmp_path / "settings.toml"
    settings.write_text(f'certfile = "{tmp_path}/certificate.pem"\n')
    environment = os.environ | {"TMPDIR": str(folder), "PUSHSVC_CONFIG": str(settings)}
    command = ["demo", "--port", str(stack.port), "--clock", clock, "--rate", "200"]
    with (tmp_path / "output").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "pushsvc", *command], stdout=output, stderr=output, env=environment
        )
    try:
        until(stack.ready)
        until(lambda: stack.stats("flights")["offset"] > 100)
        rows = stack.stats("flights")["data"]
        assert {row[1] for row in rows} >= {None, "dep_delay", "arr_delay", "distance", "air_time"}
        assert {row[0] for row in rows} >= {None, "UA"}
        newest = stack.get("/v1/topics/flights/events?format=json&limit=1").json()["events"][0]
        assert newest["time"].startswith("2013-01-01") is (clock == "event")
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE) == 0
    text = (tmp_path / "output").read_text()
    assert f"pushsvc is ready: {stack.url}/" in text
    assert text.index("demo 1 has ended") < text.index("web 1 has ended") < text.index("embedded server has ended")
    assert "it ignores the certfile of the settings" in text
    assert "Traceback" not in text
    assert list(folder.iterdir()) == []


def test_the_demo_presents_the_token_of_the_environment(tmp_path: Path, short_folder: Path) -> None:
    """Its producer is a child, which gets no other variable of the program."""
    secret = "a secret of more than thirty-two bytes"
    minted = invoke("token", "mint", "--publish", "feedback", PUSHSVC_JWT_KEY=secret)
    stack = Stack("", "pushsvc:", tmp_path)
    environment = os.environ | {
        "TMPDIR": str(short_folder), "PUSHSVC_JWT_KEY": secret, "PUSHSVC_TOKEN": minted.stdout.strip(),
    }  # fmt: skip
    command = ["demo", "feedback", "--port", str(stack.port), "--rate", "200", "--anonymous-subscribe", "feedback"]
    with (tmp_path / "output").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "pushsvc", *command], stdout=output, stderr=output, env=environment
        )
    try:
        until(lambda: process.poll() is not None or (stack.ready() and stack.stats("feedback")["offset"] > 20))
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE) == 0, (tmp_path / "output").read_text()


def test_the_demo_publishes_to_a_running_server(shared_server: Stack) -> None:
    process = shared_server.start("demo", "demo", "feedback", "--url", shared_server.url, "--rate", "100")
    until(lambda: shared_server.stats("feedback")["offset"] > 20)
    process.send_signal(signal.SIGTERM)
    assert process.wait(DEADLINE) == 0


def test_folders_of_killed_processes_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "pushsvc-x-left" / "data").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    with private_folder("x", min_age=-1.0) as held:
        with private_folder("x", min_age=-1.0) as second:
            assert held.exists()
            assert second.stat().st_mode & 0o777 == 0o700
        assert {path.name for path in tmp_path.iterdir()} == {held.name, "other"}
    assert {path.name for path in tmp_path.iterdir()} == {"other"}


def test_the_table_follows_the_frames() -> None:
    state = StatisticsView()
    assert str(state.table().title) == "waiting"
    frame = {"topic": "t", "window": "1m", "to": "now", "columns": ["key", "field", "count"]}
    state.apply("snapshot", frame | {"data": [[None, None, 2], ["b", "x", 1], ["a", "x", 1]]})
    state.apply("update", frame | {"data": [["a", "x", 5]], "gone": [["b", "x"]]})
    assert state.rows == {(None, None): [None, None, 2], ("a", "x"): ["a", "x", 5]}
    assert state.table().row_count == 2
    state.apply("reset", {"topic": "t", "reason": "trimmed"})
    assert state.rows == {}
