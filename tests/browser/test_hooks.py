"""The hooks of examples/hooks in components of React and Vue, bundled by esbuild as in an application."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from support.stack import Stack
from support.waiting import until

ROOT = Path(__file__).parents[2]
MODULES = ROOT / "tests/clients/js/node_modules"
CLIENT = ROOT / "src/pushsvc/web/static/client.js"
COMPONENTS = {"react": "react.jsx", "vue": "vue.js"}
PAGE = "<!doctype html><html><body></body><script type=module src=page.js></script></html>"
RENDERED = "name => [...document.querySelectorAll(name)].map(found => JSON.parse(found.textContent))"


@pytest.fixture(params=["worker", "bundle"])
def client(request: pytest.FixtureRequest) -> list[str]:
    """Options of esbuild by which the page loads the client from the server, which can be a SharedWorker, or has it."""
    if request.param == "bundle":
        return [f"--alias:@pushsvc/client={CLIENT}"]
    return ["--alias:@pushsvc/client=/client.js", "--external:/client.js"]


@pytest.fixture(params=COMPONENTS)
def board(request: pytest.FixtureRequest, page: Page, client: list[str], own_server: Stack, tmp_path: Path) -> Page:
    """A page of the server that has ``show(topic, window)`` and ``hide()``."""
    bundler = MODULES / "esbuild/bin/esbuild"
    if not (bundler.exists() and (MODULES / request.param).exists()):
        pytest.skip(f"esbuild or {request.param} is missing: make .venv/node.done installs them")
    script = tmp_path / "page.js"
    source = Path(__file__).parent / "hooks" / COMPONENTS[request.param]
    options = ["--bundle", "--format=esm", "--jsx=automatic", f"--alias:examples={ROOT / 'examples'}", *client]
    environment = os.environ | {"NODE_PATH": str(MODULES)}
    subprocess.run([str(bundler), str(source), *options, f"--outfile={script}"], env=environment, check=True)
    page.route("**/board", lambda route: route.fulfill(body=PAGE, content_type="text/html"))
    page.route("**/page.js", lambda route: route.fulfill(path=script, content_type="text/javascript"))
    page.goto(f"{own_server.url}/board")
    return page


def show(board: Page, topic: str, window: str) -> None:
    board.evaluate("([topic, window]) => show(topic, window)", [topic, window])


def rendered(board: Page, name: str) -> list[Any]:
    """Return what the elements of that name show, in a fixed order."""
    found: list[Any] = board.evaluate(RENDERED, name)
    return sorted(found, key=json.dumps)


def seen(board: Page) -> list[Any]:
    """Return the numbers of the events that the component saw, and what else happened to its subscription."""
    found: list[Any] = rendered(board, "b")[0]
    return found


def wanted(server: Stack, topic: str, window: str) -> tuple[list[Any], list[Any]]:
    """Return the rows and the newest events of the server, in the form and order of ``rendered``."""
    last = server.get(f"/v1/topics/{topic}").json()["last_offset"]
    frame = server.stats(topic, f"?window={window}&at_least={last}")
    count, total = (frame["columns"].index(name) for name in ("count", "sum"))
    rows = [[row[0], row[1], row[count], row[total]] for row in frame["data"]]
    events = server.get(f"/v1/topics/job.{topic}/latest", Accept="application/json").json()["events"]
    return sorted(rows, key=json.dumps), sorted(([event["key"], event["n"]] for event in events), key=json.dumps)


def check(board: Page, server: Stack, topic: str, window: str) -> None:
    """Wait until the component shows the state of the server."""
    rows, latest = wanted(server, topic, window)
    assert rows
    assert latest
    until(lambda: rendered(board, "p") == rows and rendered(board, "i") == latest)


def publish(server: Stack, topic: str, *numbers: int) -> None:
    assert server.post(topic, [{"key": "abc"[n % 3], "n": n} for n in numbers]).status == 202
    assert server.post(f"job.{topic}", [{"key": "xyz"[n % 3], "n": n} for n in numbers]).status == 202


def test_component_shows_the_state_of_the_server(board: Page, own_server: Stack, topic: str) -> None:
    other = f"{topic}-other"
    publish(own_server, topic, 1)
    publish(own_server, other, 10, 20, 30)
    show(board, topic, "15m")
    check(board, own_server, topic, "15m")
    publish(own_server, topic, 2, 3, 4)
    until(lambda: seen(board) == [2, 3, 4])
    check(board, own_server, topic, "15m")

    show(board, other, "15m")
    check(board, own_server, other, "15m")
    publish(own_server, topic, 5)
    publish(own_server, other, 40)
    until(lambda: seen(board) == [2, 3, 4, 40])
    check(board, own_server, other, "15m")

    show(board, other, "5m")
    check(board, own_server, other, "5m")
    assert board.evaluate("globalThis.mixed") is False
    assert own_server.metric("pushsvc_streams") == 1

    board.evaluate("hide()")
    until(lambda: own_server.metric("pushsvc_streams") == 0)
    assert board.locator("body").inner_text() == ""


def test_component_sees_every_event_while_it_renders_anew(board: Page, own_server: Stack, topic: str) -> None:
    publish(own_server, topic, 0)
    show(board, topic, "15m")
    check(board, own_server, topic, "15m")
    for number in range(1, 201):
        publish(own_server, topic, number)
    until(lambda: len(seen(board)) == 200)
    assert seen(board) == list(range(1, 201))
    check(board, own_server, topic, "15m")


@pytest.mark.parametrize("name", ["react.js", "vue.js"])
def test_the_file_to_copy_has_twenty_lines_at_most(name: str) -> None:
    assert len((ROOT / "examples/hooks" / name).read_text().splitlines()) <= 20
