"""Tabs that follow a topic with the JavaScript client, and what they must have."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import BrowserContext, Page

from support.stack import Stack
from support.waiting import until

FOLLOW = """async ([topic, share]) => {
  const { connect } = await import(new URL("client.js", location.href));
  window.seen = [];
  window.told = [];
  window.push = connect(".", { share, token: window.token ?? null });
  push.events(topic, {}, (event, name) => (name === "event" ? seen.push(event.n) : told.push(name)));
  window.stats = push.stats(topic, { window: "15m" });
  window.latest = push.latest(`job.${topic}`);
}"""
STATE = """() => ({
  seen, told, state: push.state,
  rows: stats.value.map(({ key, field, count, sum }) => JSON.stringify([key, field, count, sum])).sort(),
  latest: latest.value.map(({ key, n }) => [key, n]).sort(),
})"""


def open_tab(context: BrowserContext, url: str, topic: str, share: Any, first: str = "0") -> Page:
    """Open a tab that follows a topic. ``first`` is a script that it runs before."""
    page = context.new_page()
    page.goto(f"{url}/livez")
    page.evaluate(first)
    page.evaluate(FOLLOW, [topic, share])
    return page


def state(page: Page) -> dict[str, Any]:
    found: dict[str, Any] = page.evaluate(STATE)
    return found


def begun(page: Page) -> bool:
    """Return whether a tab is on the stream, and has a state."""
    found = state(page)
    return bool(found["state"] == "open" and found["latest"] and found["rows"])


def wait_begun(pages: list[Page]) -> None:
    for page in pages:
        until(lambda page=page: begun(page))  # type: ignore[misc]


def wait_seen(pages: list[Page], numbers: list[int]) -> None:
    """Wait until every tab has seen exactly these events, and was told nothing else."""
    for page in pages:
        until(lambda page=page: len(state(page)["seen"]) >= len(numbers))  # type: ignore[misc]
        assert (state(page)["seen"], state(page)["told"]) == (numbers, [])


def publish(server: Stack, topic: str, numbers: list[int]) -> None:
    assert server.post(topic, [{"key": "abc"[n % 3], "n": n} for n in numbers]).status == 202
    assert server.post(f"job.{topic}", {"key": "xyz"[numbers[-1] % 3], "n": numbers[-1]}).status == 202


def wanted(server: Stack, topic: str) -> tuple[list[str], list[list[Any]]]:
    """Return the rows and the newest events of the server, in the form of STATE."""
    frame = server.stats(topic, "?window=15m&at_least=" + str(last_offset(server, topic)))
    count, total = (frame["columns"].index(name) for name in ("count", "sum"))
    rows = [[row[0], row[1], row[count], row[total]] for row in frame["data"]]
    events = server.get(f"/v1/topics/job.{topic}/latest", Accept="application/json").json()["events"]
    return rows, sorted([event["key"], event["n"]] for event in events)


def last_offset(server: Stack, topic: str) -> int:
    return int(server.get(f"/v1/topics/{topic}").json()["last_offset"])


def check(pages: list[Page], server: Stack, topic: str) -> None:
    """Wait until every tab has the state of the server."""
    rows, latest = wanted(server, topic)
    texts = pages[0].evaluate("rows => rows.map(row => JSON.stringify(row)).sort()", rows)
    for page in pages:
        until(lambda page=page: state(page)["rows"] == texts and state(page)["latest"] == latest)
        assert state(page)["state"] == "open"
