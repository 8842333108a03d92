"""The JavaScript client in Node and Deno, against a running server and through a network that is cut."""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest

from support.proxy import Last, Proxy
from support.stack import Stack
from support.waiting import DEADLINE, until

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "src/pushsvc/web/static/client.js"
FOLLOW = Path(__file__).parent / "js" / "follow.js"

PAGE = """
import { connect, PushError, type Row } from "@pushsvc/client";

const push = connect("/", { token: async (refused) => (refused ? "new" : "old"), onState: (state) => state.length });
push.events("orders", (event) => event.$offset + 1);
push.events("orders", { key: ["u1", "u2"] }, (event, name) => name === "event" && event.$offset + 1);
const stats = push.stats("flights", { window: "1m" });
const rows: Row[] = stats.value;
const end: () => void = stats.subscribe(({ name, data }) => name === "error" && data instanceof PushError);
const mean: unknown = stats.get("a", "n")?.mean;
// @ts-expect-error: there is no such call
push.everything("orders");
// @ts-expect-error: events have no state
const none: Row[] = push.events("orders").value;
end();
console.log(rows, mean, none);
"""


def node() -> list[str]:
    found = shutil.which("node")
    if found is None:
        pytest.skip("Node is not installed")
    return [found]


def deno() -> list[str]:
    found = FOLLOW.parent / "node_modules/@deno/linux-x64-glibc/deno"
    if not found.exists():
        pytest.skip("tests/clients/js/node_modules has no Deno: make .venv/node.done installs it on Linux")
    return [str(found), "run", "--no-prompt", "--no-config", "--no-lock", "--allow-net", "--allow-read"]


class Follower:
    def __init__(self, runtime: list[str], url: str, topic: str, token: str = "") -> None:
        command = [*runtime, str(FOLLOW), str(SCRIPT), url, topic, *([token] if token else [])]
        environment = os.environ | {"DENO_NO_UPDATE_CHECK": "1"}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )  # fmt: skip

    def ask(self, line: str = "") -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, "the client ended"
        found: dict[str, Any] = json.loads(answer)
        return found

    def close(self) -> None:
        self.process.kill()
        self.process.wait(DEADLINE)


Follow = Callable[..., Follower]


@pytest.fixture(params=[node, deno], ids=["node", "deno"])
def follow(request: pytest.FixtureRequest) -> Iterator[Follow]:
    started: list[Follower] = []
    runtime = request.param()

    def start(*arguments: str) -> Follower:
        started.append(Follower(runtime, *arguments))
        return started[-1]

    yield start
    for follower in started:
        follower.close()


def rows_of(server: Stack, topic: str) -> list[list[Any]]:
    frame = server.stats(topic, "?window=15m")
    columns = frame["columns"]
    count, total = columns.index("count"), columns.index("sum")
    return [[row[0], row[1], row[count], row[total]] for row in frame["data"]]


def key_of(row: list[Any]) -> tuple[str, ...]:
    return tuple(str(value) for value in row)


def test_the_file_stays_small_and_its_types_compile(tmp_path: Path) -> None:
    assert len(gzip.compress(SCRIPT.read_bytes(), 9)) <= 6_144
    compiler = FOLLOW.parent / "node_modules/typescript/bin/tsc"
    node = shutil.which("node")
    if node is None or not compiler.exists():
        pytest.skip("Node or tests/clients/js/node_modules is missing: make .venv/node.done installs them")
    package = tmp_path / "node_modules" / "@pushsvc" / "client"
    shutil.copytree(ROOT / "clients/js", package)
    shutil.copy(SCRIPT, package)
    (tmp_path / "page.ts").write_text(PAGE)
    options = ["--strict", "--target", "es2022", "--module", "nodenext", "--lib", "es2022,dom", "--noEmit"]
    run = subprocess.run([node, str(compiler), *options, "page.ts"], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout


def test_the_npm_package_is_installed_in_an_empty_folder(tmp_path: Path) -> None:
    if (npm := shutil.which("npm")) is None:
        pytest.skip("npm is not installed")
    clone, empty = tmp_path / "clone", tmp_path / "empty"
    shutil.copytree(ROOT / "clients/js", clone / "clients/js")
    (clone / "src").symlink_to(ROOT / "src")
    empty.mkdir()
    (empty / "package.json").write_text("{}")
    quiet = ["--offline", "--no-audit", "--no-fund", "--loglevel=error"]

    def run(*command: str | Path, at: Path) -> str:
        ran = subprocess.run(command, cwd=at, capture_output=True, text=True, timeout=DEADLINE)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    run(npm, "pack", "./clients/js", "--pack-destination", empty, at=clone)
    assert not (clone / "clients/js/client.js").exists()
    [package] = empty.glob("*.tgz")
    run(npm, "install", package, *quiet, at=empty)
    installed = empty / "node_modules/@pushsvc/client"
    assert {each.name for each in installed.iterdir()} == {"client.d.ts", "client.js", "package.json"}
    (empty / "page.mjs").write_text('import { connect } from "@pushsvc/client"; console.log(typeof connect);')
    assert run(*node(), "page.mjs", at=empty) == "function\n"


def test_states_equal_those_of_the_server(shared_server: Stack, topic: str, follow: Follow) -> None:
    shared_server.post(topic, [{"key": "a", "n": 1}, {"key": "b", "n": 2}])
    shared_server.post(f"job.{topic}", [{"key": "x", "n": 1}, {"key": "y", "n": 2}])
    client = follow(shared_server.url, topic)
    until(lambda: len(client.ask()["latest"]) == 2 and client.ask()["one"] == 1)
    shared_server.post(topic, [{"key": "a", "n": 3}, {"key": "c", "n": 4}])
    shared_server.post(f"job.{topic}", [{"key": "x", "n": 5}, {"key": "y", "type": "deleted"}])
    until(lambda: client.ask()["seen"] == [3, 4] and client.ask()["latest"] == [["x", 5]])
    until(lambda: sorted(client.ask()["rows"], key=key_of) == sorted(rows_of(shared_server, topic), key=key_of))
    found = client.ask()
    assert found["unfiltered"] == [3, 4]
    assert found["one"] == 2
    assert found["same"] is True
    assert found["state"] == "open"
    # What the server refuses ends alone: the others go on.
    status, detail = found["error"]
    assert status == 400
    assert "7m" in detail


def test_rows_of_several_groupings_do_not_replace_each_other(stack: Stack, follow: Follow) -> None:
    stack.configure('[topics.">"]\nwindows = ["15m"]\nkey = ["kind", "key"]\n')
    stack.start_aggregator()
    stack.start_web()
    stack.post("orders", [{"key": "a", "kind": "a", "n": 1}, {"key": "b", "kind": "a", "n": 2}])
    client = follow(stack.url, "orders")
    until(lambda: client.ask()["seen"] == [] and len(client.ask()["rows"]) > 2)
    stack.post("orders", [{"key": "a", "kind": "b", "n": 4}])
    # All, and two keys of either grouping, each as events and as n.
    until(lambda: len(client.ask()["rows"]) == 10)
    until(lambda: sorted(client.ask()["rows"], key=key_of) == sorted(rows_of(stack, "orders"), key=key_of))


def test_nothing_is_missing_or_repeated_through_cuts(shared_server: Stack, topic: str, follow: Follow) -> None:
    chance = random.Random(3)
    proxy = Proxy(("127.0.0.1", shared_server.port))
    left = chance.randrange(500, 3_000)

    def cut(data: bytes) -> bytes:
        nonlocal left
        if len(data) <= left:
            left -= len(data)
            return data
        part, left = left, chance.randrange(1_000, 8_000)
        return Last(data[:part])

    try:
        client = follow(f"http://127.0.0.1:{proxy.port}/", topic)
        until(lambda: (found := client.ask())["error"] and found["state"] == "open")
        shared_server.post(topic, {"n": -1})
        until(lambda: client.ask()["seen"] == [-1])  # from here on it has a position
        sent = [-1]
        proxy.downward = cut
        for round in range(6):
            numbers = list(range(round * 20, round * 20 + 20))
            shared_server.post(topic, [{"key": chance.choice("abc"), "n": n} for n in numbers])
            shared_server.post(f"job.{topic}", {"key": chance.choice("xyz"), "n": round})
            sent += numbers
        until(lambda: client.ask()["seen"] == sent)
        until(lambda: sorted(client.ask()["rows"], key=key_of) == sorted(rows_of(shared_server, topic), key=key_of))
        events = shared_server.get(f"/v1/topics/job.{topic}/latest", Accept="application/json").json()["events"]
        wanted = sorted([event["key"], event["n"]] for event in events)
        until(lambda: sorted(client.ask()["latest"]) == wanted)
        assert client.ask()["told"] == []
        assert len(proxy.ended) > 3
    finally:
        proxy.close()


def guarded(stack: Stack) -> None:
    """Start a server that asks for tokens."""
    stack.environment = {"PUSHSVC_JWT_KEY": "k" * 64}
    stack.start_aggregator()
    stack.start_web()


def token_of(topic: str, subject: str) -> str:
    grants = {"subscribe": [topic, f"job.{topic}"], "publish": [topic]}
    return jwt.encode({"exp": time.time() + 600, "sub": subject, "pushsvc": grants}, "k" * 64, "HS256")


def publish(stack: Stack, topic: str, token: str, number: int) -> None:
    headers = {"Authorization": f"Bearer {token}", "Content_Type": "application/json"}
    assert stack.request("POST", f"/v1/topics/{topic}/events", b'{"n":%d}' % number, **headers).status == 202


def is_open(client: Follower) -> bool:
    """Return whether the stream is open without the subscription that the server refuses."""
    found = client.ask()
    return bool(found["state"] == "open" and found["error"])


def test_of_subscriptions_that_are_too_long_together_the_newest_end(
    shared_server: Stack, topic: str, follow: Follow
) -> None:
    client = follow(shared_server.url, topic)
    until(lambda: is_open(client))
    client.ask("many")
    until(lambda: any(client.ask()["many"]) and client.ask()["state"] == "open")
    shared_server.post(topic, {"n": 1})
    until(lambda: client.ask()["seen"] == [1])
    ends = client.ask()["many"]
    assert ends == sorted(ends, key=bool)
    assert set(ends) == {None, 414}


def test_a_refused_token_is_asked_for_anew(stack: Stack, topic: str, follow: Follow) -> None:
    guarded(stack)
    token = token_of(topic, "u42")
    client = follow(stack.url, topic, f"{token}x {token}")
    until(lambda: is_open(client))
    publish(stack, topic, token, 1)
    until(lambda: client.ask()["seen"] == [1])
    assert client.ask()["calls"] == [False, True]


def test_a_token_that_cannot_be_told_is_asked_for_again(stack: Stack, topic: str, follow: Follow) -> None:
    guarded(stack)
    token = token_of(topic, "u42")
    client = follow(stack.url, topic, f"fail page {token}x page {token}")
    until(lambda: is_open(client))
    publish(stack, topic, token, 1)
    until(lambda: client.ask()["seen"] == [1])
    # Deno sends the page as a header, which the server refuses; the others do not.
    calls = client.ask()["calls"]
    assert (calls[:2], calls[3:]) == ([False, False], [True, True])


def test_a_token_of_another_subject_begins_anew(stack: Stack, topic: str, follow: Follow) -> None:
    guarded(stack)
    first, second = token_of(topic, "u1"), token_of(topic, "u2")
    client = follow(stack.url, topic, f"{first} {second}")
    until(lambda: is_open(client))
    publish(stack, topic, first, 1)
    until(lambda: client.ask()["seen"] == [1] and client.ask()["rows"])
    stack.environment = {"PUSHSVC_JWT_KEY": "other" * 20}
    stack.restart_web()  # refuses both
    stack.environment = {"PUSHSVC_JWT_KEY": "k" * 64}
    until(lambda: client.ask()["told"] == ["reset"])
    assert client.ask()["rows"] == []
