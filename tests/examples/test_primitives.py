"""Each script of examples/primitives, against a real server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.ports import free_port
from support.stack import Stack
from support.waiting import until

FOLDER = Path(__file__).parents[2] / "examples/primitives"


def run(name: str, *arguments: str) -> list[str]:
    command = [sys.executable, str(FOLDER / f"{name}.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_command_of_the_readme_runs_all_of_them() -> None:
    environment = os.environ | {"PORT": str(free_port())}
    command = [sys.executable, str(FOLDER / "run.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment)
    assert done.returncode == 0, done.stderr
    scripts = {path.stem for path in FOLDER.glob("*.py")} - {"run"}
    assert {
        line.split()[2].removesuffix(".py") for line in done.stdout.splitlines() if line.startswith("$ ")
    } == scripts


def test_a_socket(shared_server: Stack, topic: str) -> None:
    event = {"key": "kitchen", "celsius": 21.5}
    assert "'accepted': 1" in run("publish_socket", shared_server.url, topic, json.dumps(event))[0]
    (seen,) = run("watch_socket", shared_server.url, topic, "1")
    assert event.items() <= json.loads(seen).items()


def test_a_watching_socket_survives_its_server(stack: Stack, topic: str) -> None:
    stack.start_web()
    stack.post(topic, {"key": "a", "n": 1})
    command = [sys.executable, str(FOLDER / "watch_socket.py"), stack.url, topic, "3"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        seen = [json.loads(process.stdout.readline())["n"]]
        stack.restart_web()
        for number in (2, 3):
            stack.post(topic, {"key": "a", "n": number})
        seen += [json.loads(line)["n"] for line in process.stdout]
    assert seen == [1, 2, 3]


def test_http(shared_server: Stack, topic: str) -> None:
    assert len(run("publish_http", shared_server.url, topic, "3")) == 3
    shared_server.stats(topic, "?at_least=3")
    (means,) = run("watch_http", shared_server.url, topic, "1")
    assert json.loads(means) == {"kitchen": pytest.approx(20.29850274744189)}


def test_threads(shared_server: Stack, topic: str) -> None:
    assert run("publish_threads", shared_server.url, topic, "40")[0].startswith("40 events in ")
    seen = run("watch_threads", shared_server.url, "40", topic)
    assert sorted(int(line.split()[1]) for line in seen) == list(range(1, 41))
    assert {line.split()[2] for line in seen} == {"kitchen", "hall", "cellar", "attic"}


def test_processes(shared_server: Stack, topic: str) -> None:
    assert run("publish_processes", shared_server.url, topic, "2") == ["48 events of 2 rooms"]
    until(lambda: shared_server.get(f"/v1/topics/{topic}").json()["last_offset"] == 48)
    offsets = [int(line.split()[0]) for line in run("watch_processes", shared_server.url, topic, "20")]
    assert offsets == list(range(1, 21)), "in the order of the topic, though two processes compute"


@pytest.mark.parametrize("name", ["publish_socket", "publish_http"])
def test_a_refusal_is_shown(shared_server: Stack, name: str) -> None:
    last = '{"x": 1}' if name == "publish_socket" else "1"
    command = [sys.executable, str(FOLDER / f"{name}.py"), shared_server.url, ".bad", last]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "topic" in done.stderr
    assert "Traceback" not in done.stderr
