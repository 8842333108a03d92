"""The blocks of code in README and docs: what can run does, of the rest the form is checked.

Commands of curl have tests beside this one, docs/python.md in tests/client, JavaScript in tests/browser.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import jwt
import pandas as pd
import pytest
from flask import Flask, Request, abort

from pushsvc import Push, jobs
from pushsvc.clean import Rules
from pushsvc.cli.main import program
from pushsvc.client import Client
from pushsvc.config import load
from pushsvc.extension.push import EXTENSION
from support.stack import Stack
from support.waiting import DEADLINE, until

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").glob("*/README.md")])
KEY = "a key of thirty-two characters, or more"


def blocks(language: str, *names: str) -> list[tuple[str, str]]:
    """Return the blocks of a language as (place, text), of all documents or of the named ones."""
    found = []
    for path in DOCUMENTS:
        name = str(path.relative_to(ROOT))
        text = path.read_text()
        for match in re.finditer(rf"^( *)```{language}\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE):
            if not names or name in names:
                found.append((f"{name}:{text[: match.start()].count(chr(10)) + 1}", match[2]))
    return found


def each(language: str, *names: str) -> Callable[[Any], Any]:
    found = blocks(language, *names)
    return pytest.mark.parametrize("text", [text for _, text in found], ids=[place for place, _ in found])


@each("json")
def test_json_can_be_parsed(text: str) -> None:
    json.loads(re.sub(r"\[…\]|…(?=[,\]}])|, …", lambda match: "[]" if match[0] == "[…]" else "", text).split("\n\n")[0])


@each("python")
def test_python_can_be_compiled(text: str) -> None:
    compile(text, "block", "exec")


@each("js")
def test_javascript_can_be_parsed(text: str, tmp_path: Path) -> None:
    if shutil.which("node") is None:
        pytest.skip("needs node")
    (tmp_path / "block.mjs").write_text(text)
    ran = subprocess.run(["node", "--check", tmp_path / "block.mjs"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


@each("toml")
def test_settings_can_be_loaded(text: str, tmp_path: Path) -> None:
    text = text.replace('"whsec_…"', f'"whsec_{"QUJD" * 10}"').replace("push.pem", "/dev/null")
    path = tmp_path / "block.toml"
    path.write_text(text)
    if "rules" in tomllib.loads(text):
        assert len(Rules.read(path)) > 0
    else:
        load({}, path)


@each("sh")
def test_commands_have_their_options(text: str) -> None:
    parsed = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True)
    assert parsed.returncode == 0, parsed.stderr
    for line in text.replace("\\\n", " ").splitlines():
        for command in re.findall(r"(?:^|[|(;&] *)((?:uvx )?pushsvc [^|)&;]*)", line):
            parse(shlex.split(command.split(" > ")[0], comments=True)[1:])


def parse(words: list[str]) -> None:
    """Check that a command of the program exists and knows its options."""
    command: click.Command = program
    while isinstance(command, click.Group) and not words[0].startswith("-"):
        command = command.commands[words.pop(0)]
    command.make_parser(click.Context(command, resilient_parsing=True)).parse_args(words)


def test_the_token_of_the_readme_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUSHSVC_JWT_KEY", KEY)
    [text] = [text for _, text in blocks("python", "README.md") if "jwt.encode" in text]
    world: dict[str, Any] = {"jwt": jwt, "os": os, "time": time}
    exec(text, world)
    assert jwt.decode(world["token"], KEY, ["HS256"])["sub"] == "u42"


def test_the_commands_for_tokens_run_as_written(stack: Stack) -> None:
    """One block makes a key and starts the server, the next mints a token and publishes with it."""
    [start] = [text for _, text in blocks("sh", "README.md") if "openssl" in text]
    [publish] = [text for _, text in blocks("sh", "README.md") if "token mint" in text]
    key, serve = start.splitlines()
    assert serve.startswith("pushsvc serve --host ")
    stack.environment = {"PUSHSVC_JWT_KEY": KEY}
    stack.start_web()
    assert stack.get("/v1/topics/feedback/events").status == 401
    ran = subprocess.run(
        ["bash", "-e", "-c", f"{key}\ntest ${{#PUSHSVC_JWT_KEY}} = 64\nexport PUSHSVC_JWT_KEY='{KEY}'\n"
         + publish.replace("curl ", "curl -sS --fail-with-body ").replace("http://127.0.0.1:8000", stack.url)],
        capture_output=True, text=True, timeout=DEADLINE,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["accepted"] == 1


def test_components_are_registered(tmp_path: Path) -> None:
    """The two blocks of docs/components.md are one module, that of the README another."""
    for name in ("docs/components.md", "README.md"):
        text = "\n".join(text for _, text in blocks("python", name) if "@on" in text)
        (tmp_path / "block.py").write_text(text)
        ran = subprocess.run([sys.executable, "-c", "import block; block.bill"], cwd=tmp_path, capture_output=True)
        assert ran.returncode == 0, ran.stderr.decode()


def test_the_extension_is_used_as_written(redis_url: str, prefix: str) -> None:
    """The blocks of docs/flask.md, in their order, in one application with a login."""
    user = SimpleNamespace(is_authenticated=True, is_staff=True, id="u42")
    app = Flask("block")
    app.config.update(PUSHSVC_REDIS=redis_url, PUSHSVC_PREFIX=prefix)
    world: dict[str, Any] = {"app": app, "abort": abort, "current_user": user, "rows": [1, 2], "event": {"total": 1}}
    _, allowed, published, worked = (text for _, text in blocks("python", "docs/flask.md"))
    world["push"] = Push(app)
    exec(re.sub(r"from flask_login .*\n", "", allowed), world)
    assert world["may"]("publish", "orders", None)
    user.is_staff = False
    assert world["may"]("subscribe", "orders", "u42")
    assert not world["may"]("subscribe", "orders", "u43")
    try:
        with app.app_context():
            exec(published.replace("wait=True", "wait=True, timeout=60") + worked, world)
            assert world["push"].flush(DEADLINE)
    finally:
        app.extensions[EXTENSION].server.stop()
    assert world["receipt"]["accepted"] == 1


def test_the_application_of_the_readme_shows_customers_their_own_orders(
    redis_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its login is that of the test: a header names the user."""
    flask_login = pytest.importorskip("flask_login")
    monkeypatch.setenv("PUSHSVC_REDIS", redis_url)
    monkeypatch.setenv("PUSHSVC_PREFIX", prefix)
    [text] = [text for _, text in blocks("python", "README.md") if "flask_login" in text]
    world: dict[str, Any] = {"__name__": __name__}
    exec(text, world)

    @world["login"].request_loader
    def user_of(request: Request) -> Any:
        user = flask_login.UserMixin()
        user.id = request.headers.get("Authorization")
        return user if user.id else None

    client = world["app"].test_client()
    events, ann = "/push/v1/topics/orders/events", {"Authorization": "ann"}
    try:
        assert [client.post("/orders").status_code, client.get(events).status_code] == [401, 401]
        assert client.post("/orders", headers=ann).status_code == 204
        with world["app"].app_context():
            assert world["push"].flush(DEADLINE)
        assert client.get(events, headers=ann).status_code == 403
        assert client.get(f"{events}?key=bob", headers=ann).status_code == 403
        [event] = client.get(f"{events}?key=ann", headers=ann).json["events"]
        assert (event["type"], event["key"], event["total"]) == ("created", "ann", 12.5)
    finally:
        world["app"].extensions[EXTENSION].server.stop()


def test_the_first_application_of_the_readme_publishes(redis_url: str, prefix: str) -> None:
    app = Flask("block")
    app.config.update(PUSHSVC_REDIS=redis_url, PUSHSVC_PREFIX=prefix)
    [text] = [text for _, text in blocks("python", "README.md") if "# from pushsvc import Push" in text]
    exec(text, {"app": app, "Push": Push, "current_user": SimpleNamespace(id="u42")})
    try:
        app.test_client().post("/orders")
        events = "/push/v1/topics/orders/events"
        [event] = until(lambda: app.test_client().get(events).json["events"])
        assert (event["key"], event["total"]) == ("u42", 12.5)
    finally:
        app.extensions[EXTENSION].server.stop()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # the job that is cancelled
def test_jobs_run_as_written(shared_server: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sales = pd.DataFrame({"shop": list("abab"), "amount": [1.0, 2, 3, 5], "user": list("xyzx")})
    sales.to_csv("sales.csv", index=False)
    pd.DataFrame({"text": ["short", "much longer"]}).to_csv("comments.csv", index=False)
    world: dict[str, Any] = {"cleaned": lambda table: table, "threading": threading}
    counted, run, stated, cancelled = (text for _, text in blocks("python", "docs/jobs.md"))
    exec(counted.replace("http://localhost:8000", shared_server.url), world)
    assert len(world["table"]) > 0
    with Client(shared_server.url) as world["client"]:
        for text in (run, stated, cancelled):
            before = set(threading.enumerate())
            exec(text, world)
            for thread in set(threading.enumerate()) - before:
                thread.join()
    assert isinstance(world["job"], jobs.Job)


def test_rules_clean_a_table_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rules.toml").write_text(blocks("toml", "docs/cleaning.md")[0][1])
    frame = pd.DataFrame({"dish": ["Margarita", "n/a", "soup"], "rating": [4, 5, 55]})
    [text] = [text for _, text in blocks("python", "docs/cleaning.md")]
    world: dict[str, Any] = {"frame": frame}
    exec(text, world)
    assert world["cleaned"].table["dish"].tolist() == ["margherita"]
    assert len(world["cleaned"].refused) == 2


def test_statistics_are_those_of_pandas_as_written(shared_server: Stack, topic: str) -> None:
    events = [{"key": key, "rating": n} for n, key in enumerate("abcab")]
    last = shared_server.post(topic, events).json()["last_offset"]
    with Client(shared_server.url) as client:
        world: dict[str, Any] = {"events": client.history(topic).df().reset_index()}
    frame = shared_server.stats(topic, f"?window=15m&at_least={last}")
    counted = {row[0]: row[2:] for row in frame["data"] if row[1] == "rating" and row[0] is not None}
    world["frame"] = {**frame, "from": pd.Timestamp(frame["from"]), "to": pd.Timestamp(frame["to"])}
    first = blocks("python", "docs/statistics.md")[0][1].splitlines()
    exec(first[0], world)
    expected = eval(first[1], world)
    at = [frame["columns"].index(name) - 2 for name in expected.columns]
    assert {key: [counted[key][place] for place in at[:5]] for key in counted} == {
        key: [float(value) for value in row[:5]]
        for key, row in zip(expected.index, expected.values.tolist(), strict=True)
    }
