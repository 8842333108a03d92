"""Tokens that clients present: the Python client, and the commands ``publish`` and ``tail``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jwt
import pytest

from pushsvc.client import Client, ClientError
from support.stack import Stack
from support.waiting import DEADLINE

SECRET = "a secret of more than thirty-two bytes"


def token(seconds: float = 600, topic: str = "t") -> str:
    claims = {"exp": time.time() + seconds, "sub": "u42", "pushsvc": {"publish": [topic], "subscribe": [topic]}}
    return jwt.encode(claims, SECRET, "HS256")


@pytest.fixture
def server(stack: Stack) -> Stack:
    """A server that wants tokens."""
    stack.environment["PUSHSVC_JWT_KEY"] = SECRET
    stack.start_web()
    return stack


def test_a_token_is_presented_for_publish_and_streams(server: Stack) -> None:
    with Client(server.url, token=token()) as client:
        assert client.publish("t", {"x": 1})["first_offset"] == 1
        assert json.loads(next(client.events("t", last_id="earliest")).data)["x"] == 1
    with Client(server.url) as client, pytest.raises(ClientError, match="401") as caught:
        client.publish("t", {"x": 2})
    assert (caught.value.reply, caught.value.temporary) == (401, False)


def test_another_token_is_asked_for_when_one_is_refused(server: Stack) -> None:
    given: list[str] = []

    def fresh() -> str:
        given.append(token(-600 if not given else 600))
        return given[-1]

    with Client(server.url, token=fresh) as client:
        assert client.publish("t", [{"x": 1}, {"x": 2}])["last_offset"] == 2  # stored once
        assert len(given) == 2
        assert json.loads(next(client.events("t", last_id="earliest")).data)["x"] == 1
        assert len(given) == 2, "a token that is accepted is kept"


@pytest.mark.parametrize("wrong", ["", "two words", "a line\r\nX-Other: 1", "ü", "x" * 8_193])
def test_what_cannot_be_a_token_is_refused_without_showing_it(wrong: str) -> None:
    with pytest.raises(ValueError, match="a token has") as caught:
        Client("http://127.0.0.1:1", token=wrong)
    assert not wrong or wrong not in str(caught.value)


def test_a_token_that_stays_refused_is_an_error(server: Stack) -> None:
    asked = []

    def expired() -> str:
        asked.append(1)
        return token(-600)

    for given in (token(-600), expired):
        with Client(server.url, token=given) as client, pytest.raises(ClientError, match="401") as caught:
            next(client.events("t"))
        assert "eyJ" not in str(caught.value)
    assert len(asked) == 2


def run(server: Stack, *arguments: str, events: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PUSHSVC_")} | variables
    return subprocess.run(
        [sys.executable, "-m", "pushsvc", *arguments, "--url", server.url], input=events, text=True,
        capture_output=True, timeout=DEADLINE, env=environment,
    )  # fmt: skip


def test_commands_present_the_token_of_the_environment_or_of_a_file(server: Stack, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(token() + "\n")
    sent = run(server, "publish", "t", events='{"x": 1}\n', PUSHSVC_TOKEN=token())
    assert json.loads(sent.stdout)["accepted"] == 1, sent.stderr
    read = run(server, "tail", "t", "--after", "earliest", "--limit", "1", "--token-file", str(file))
    assert json.loads(read.stdout)["x"] == 1, read.stderr
    refused = run(server, "publish", "t", events='{"x": 2}\n', PUSHSVC_TOKEN=token(-600))
    assert (refused.returncode, "401" in refused.stderr, "eyJ" in refused.stderr) == (1, True, False)


def test_a_file_with_more_than_a_token_is_named_in_one_line(server: Stack, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(token() + "\nand more\n")
    for command in ("publish", "export", "tail"):
        refused = run(server, command, "t", "--token-file", str(file), events='{"x": 1}\n')
        assert (refused.returncode, "eyJ" in refused.stderr) == (1, False)
        assert f"Error: {file}: a token has 1 to 8192 characters" in refused.stderr
        assert "Traceback" not in refused.stderr


def test_the_demo_publishes_with_a_token(server: Stack, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(token(topic="feedback"))
    server.start("demo", "demo", "feedback", "--url", server.url, "--token-file", str(file))
    with Client(server.url, token=token(topic="feedback")) as client:
        assert "rating" in json.loads(next(client.events("feedback", last_id="earliest")).data)
