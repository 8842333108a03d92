"""Twenty tabs with the JavaScript client over HTTP/1.1: one connection, and every tab has the server's state."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from support.site_proxy import SiteProxy
from support.stack import Stack
from support.waiting import until

TABS = 20
FOLLOW = """async ([topic, share]) => {
  const { connect } = await import(new URL("client.js", location.href));
  window.seen = [];
  window.told = [];
  window.push = connect(".", { share });
  push.events(topic, {}, (event, name) => (name === "event" ? seen.push(event.n) : told.push(name)));
  window.stats = push.stats(topic, { window: "15m" });
  window.latest = push.latest(`job.${topic}`);
}"""
STATE = """() => ({
  seen, told, state: push.state,
  rows: stats.value.map(({ key, field, count, sum }) => JSON.stringify([key, field, count, sum])).sort(),
  latest: latest.value.map(({ key, n }) => [key, n]).sort(),
})"""

pytestmark = pytest.mark.parametrize("share", [True, "lock"], ids=["worker", "lock"])


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(ignore_https_errors=True)
    yield context
    context.close()


def open_tab(context: BrowserContext, url: str, topic: str, share: Any) -> Page:
    page = context.new_page()
    page.goto(f"{url}/livez")
    page.evaluate(FOLLOW, [topic, share])
    return page


def state(page: Page) -> dict[str, Any]:
    found: dict[str, Any] = page.evaluate(STATE)
    return found


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


def test_all_tabs_share_a_connection_and_survive_leader_and_server(
    context: BrowserContext, own_server: Stack, topic: str, share: Any
) -> None:
    publish(own_server, topic, [0])
    pages = [open_tab(context, own_server.url, topic, share) for _ in range(TABS)]
    for page in pages:
        until(lambda page=page: state(page)["state"] == "open" and state(page)["latest"])
    assert own_server.metric("pushsvc_streams") == 1
    publish(own_server, topic, [1, 2, 3])
    for page in pages:
        until(lambda page=page: state(page)["seen"] == [1, 2, 3])
    check(pages, own_server, topic)

    # The first tab leads, if a tab leads at all.
    pages.pop(0).close()
    publish(own_server, topic, [4, 5])
    for page in pages:
        until(lambda page=page: state(page)["seen"] == [1, 2, 3, 4, 5])
    check(pages, own_server, topic)
    assert until(lambda: own_server.metric("pushsvc_streams") == 1)

    own_server.restart_web()
    publish(own_server, topic, [6, 7])
    for page in pages:
        until(lambda page=page: state(page)["seen"] == list(range(1, 8)))
    check(pages, own_server, topic)

    half = len(pages) // 2
    for place in range(half):
        pages[place].reload()
        pages[place].evaluate(FOLLOW, [topic, share])
    for page in pages:
        until(lambda page=page: state(page)["state"] == "open" and state(page)["latest"])
    publish(own_server, topic, [8])
    for page in pages[:half]:
        until(lambda page=page: state(page)["seen"] == [8])
    for page in pages[half:]:
        until(lambda page=page: state(page)["seen"] == list(range(1, 9)))
        assert state(page)["told"] == []
    check(pages, own_server, topic)
    assert until(lambda: own_server.metric("pushsvc_streams") == 1)


def test_tabs_share_behind_a_proxy_with_http_2(
    context: BrowserContext, stack: Stack, tmp_path: Any, topic: str, share: Any
) -> None:
    stack.start_aggregator()
    stack.start_web("--trusted-proxy", "127.0.0.1/32")
    publish(stack, topic, [0])
    with SiteProxy("nginx", tmp_path, [stack.port]) as site:
        pages = [open_tab(context, site.url, topic, share) for _ in range(8)]
        for page in pages:
            until(lambda page=page: state(page)["state"] == "open" and state(page)["latest"])
        publish(stack, topic, [1, 2])
        for page in pages:
            until(lambda page=page: state(page)["seen"] == [1, 2])
        check(pages, stack, topic)
        assert stack.metric("pushsvc_streams") == 1
        context.close()


def test_the_last_tab_takes_the_stream_with_it(
    context: BrowserContext, own_server: Stack, topic: str, share: Any
) -> None:
    publish(own_server, topic, [0])
    page = open_tab(context, own_server.url, topic, share)
    until(lambda: state(page)["state"] == "open")
    assert own_server.metric("pushsvc_streams") == 1
    page.close()
    assert until(lambda: own_server.metric("pushsvc_streams") == 0)


def test_tabs_share_where_a_policy_forbids_workers(
    context: BrowserContext, own_server: Stack, topic: str, share: Any
) -> None:
    publish(own_server, topic, [0])
    policy = "default-src 'none'; script-src 'self'; connect-src 'self'; worker-src 'none'"
    context.route("**/livez", lambda route: route.fulfill(body="ok", headers={"Content-Security-Policy": policy}))
    pages = [open_tab(context, own_server.url, topic, share) for _ in range(3)]
    for page in pages:
        until(lambda page=page: state(page)["state"] == "open" and state(page)["latest"])
    publish(own_server, topic, [1])
    for page in pages:
        until(lambda page=page: state(page)["seen"] == [1])
    assert own_server.metric("pushsvc_streams") == 1
