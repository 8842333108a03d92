"""Eight tabs of the dashboard over HTTP/1.1: one connection, and every tab shows what the server has."""

from __future__ import annotations

import json
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from support.dashboard import PIZZA, open_page, post
from support.stack import Stack
from support.waiting import until

TABS = 8
_ROWS = """() => Object.fromEntries([...document.querySelectorAll("#rows tbody tr")].map((row) => [
  row.dataset.scope === "all" ? "" : row.dataset.key,
  row.querySelector('[data-column="sum"]')?.dataset.value,
]))"""


def sums(server: Stack, topic: str) -> dict[str, str]:
    frame = server.stats(topic, "?window=15m")
    at = frame["columns"].index("sum")
    return {row[0] or "": json.dumps(row[at]).removesuffix(".0") for row in frame["data"] if row[1] == "rating"}


def check(pages: list[Page], server: Stack, topic: str, last: int) -> None:
    """Wait until every tab is live, shows all rows of the server and its newest event, on one connection."""
    for page in pages:
        expect(page.locator("#connection")).to_have_attribute("data-state", "open")
        expect(page.locator("#offset")).to_have_text(str(last))
        until(lambda page=page: page.evaluate(_ROWS) == sums(server, topic))  # type: ignore[misc]
        page.locator("#events").scroll_into_view_if_needed()
        expect(page.locator("#tail tbody tr").first).to_have_attribute("data-offset", str(last))
    assert until(lambda: server.metric("pushsvc_streams") == 1)


@pytest.mark.parametrize("share", ["worker", "lock"])
def test_tabs_of_the_dashboard_share_a_connection(browser: Browser, own_server: Stack, share: str) -> None:
    context: BrowserContext = browser.new_context(locale="en-US", reduced_motion="reduce")  # draws seldom
    faults: list[Any] = []
    context.on("weberror", lambda error: faults.append(error.error))
    if share == "lock":
        context.add_init_script("delete globalThis.SharedWorker")
    last = post(own_server, "feedback", PIZZA)
    pages = []
    for _ in range(TABS):
        pages.append(context.new_page())
        open_page(pages[-1], own_server, "#topic=feedback&window=15m&field=rating")
    check(pages, own_server, "feedback", last)

    # The first tab leads, if a tab leads at all.
    pages.pop(0).close()
    last = post(own_server, "feedback", {"key": "pie", "rating": 7})
    check(pages, own_server, "feedback", last)

    own_server.restart_web()
    last = post(own_server, "feedback", {"key": "soup", "rating": 8})
    check(pages, own_server, "feedback", last)

    post(own_server, "other", {"key": "tea", "rating": 1})  # every tab learns of it
    assert until(lambda: own_server.metric("pushsvc_streams") == 1)
    context.close()
    assert until(lambda: own_server.metric("pushsvc_streams") == 0)
    assert faults == []


def test_twenty_tabs_with_topics_of_their_own_share_a_connection(browser: Browser, own_server: Stack) -> None:
    """The tab that leads is closed, and the server killed: each tab goes on with its topic."""
    context = browser.new_context(locale="en-US", reduced_motion="reduce")
    context.add_init_script("delete globalThis.SharedWorker")
    topics = [f"shop-{n}" for n in range(20)]
    pages = []
    for topic in topics:
        post(own_server, topic, PIZZA)
        pages.append(context.new_page())
        open_page(pages[-1], own_server, f"#topic={topic}&window=15m&field=rating")

    def check_all() -> None:
        for topic, page in zip(topics, pages, strict=True):
            last = post(own_server, topic, {"key": "pie", "rating": 7})
            expect(page.locator("#offset")).to_have_text(str(last))
            until(lambda page=page, topic=topic: page.evaluate(_ROWS) == sums(own_server, topic))  # type: ignore[misc]
        assert until(lambda: own_server.metric("pushsvc_streams") == 1)

    check_all()
    pages.pop(0).close()
    topics.pop(0)
    check_all()
    own_server.restart_web()
    check_all()
    context.close()
    assert until(lambda: own_server.metric("pushsvc_streams") == 0)
