"""The card of the groups of components that read a topic."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect

from pushsvc.broker.broker import Broker
from support.components import Site
from support.dashboard import open_page
from support.stack import Stack
from support.waiting import until

HOSTILE = "<img src=x onerror=alert(1)>"
APP = """
    @on("orders", type=["message", "bad"], group="billing", start="beginning", retries=50, backoff=30.0)
    def handle(event, ctx):
        ctx.state["n"] = 1
        if event.type == "bad":
            raise RuntimeError
"""


def test_a_topic_has_its_groups_with_what_they_did(
    page: Page, own_server: Stack, broker: Broker, tmp_path: Path
) -> None:
    site = Site(own_server, broker, tmp_path)
    site.app(APP)
    events = [{"key": "a", "n": 1}, {"key": "b", "n": 1}, {"key": "b", "type": "bad"}, {"type": HOSTILE}]
    own_server.post("orders", events)
    open_page(page, own_server, "#topic=orders")
    expect(page.locator("#rows tbody tr")).not_to_have_count(0)
    expect(page.locator("#components")).to_be_hidden()

    site.work()
    group = page.locator("#components-list li")

    def handled() -> bool:
        groups = own_server.get("/v1/components?topic=orders").json()["groups"]
        return [(one["totals"]["handled"], one["topics"][0]["parked"]) for one in groups] == [(2, 1)]

    until(handled)
    page.reload()  # without a group it asks rarely
    expect(group.locator(".state")).to_have_text("1 held back")
    expect(page.locator("#components-state")).to_have_text("1 behind")
    expect(group.locator("b")).to_have_text("billing")
    expect(group).to_contain_text(f"2 handled · 1 failed attempt · 2 keys with state · unknown types: {HOSTILE} 1×")
    expect(group).to_contain_text(re.compile(r"\d+ events/s"))
    assert page.locator("#components img").count() == 0

    page.locator("#events").scroll_into_view_if_needed()
    page.locator("#tail tbody tr[data-offset='3'] .open").click()
    expect(page.locator("#tail .life")).to_contain_text("billing: failed 1×, is tried again")

    own_server.stop("worker")
    own_server.post("orders", [{"key": "a", "n": 2}] * 3)
    expect(group.locator(".state")).to_have_text("3 behind")
    expect(page.locator("#components-state")).to_have_text("1 behind")
    page.evaluate("location.hash = '#topic=other'")
    expect(page.locator("#components")).to_be_hidden()


@pytest.mark.parametrize("status", [403, 503])
def test_who_may_not_read_the_groups_is_not_asked_again(page: Page, own_server: Stack, status: int) -> None:
    asked = 0

    def refuse(route: Route) -> None:
        nonlocal asked
        asked += 1
        route.fulfill(status=status, json={"title": "Refused"})

    page.route("**/v1/components*", refuse)
    page.clock.install()
    own_server.post("orders", [{"key": "a", "n": 1}])
    open_page(page, own_server, "#topic=orders")
    until(lambda: asked == 1)
    page.clock.run_for(120_000)
    if status == 403:
        assert asked == 1
    else:
        until(lambda: asked > 1)
    expect(page.locator("#components")).to_be_hidden()
