"""What axe-core finds on the dashboard in each of its states, and the size of its targets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Page, Route, ViewportSize, expect

from pushsvc.broker.broker import Broker
from support.components import Site
from support.dashboard import PIZZA, keep_stream_in_tab, open_page, post
from support.stack import Stack
from support.waiting import until

_AXE = Path(__file__).parents[1] / "clients/js/node_modules/axe-core/axe.min.js"
_RUN = """async () => {
  const found = await axe.run(document, {resultTypes: ["violations"], rules: {"target-size": {enabled: true}}});
  return found.violations.map(({id, nodes}) => `${id}: ${nodes.map((node) => node.html).join(" | ")}`);
}"""
_SMALL = """() => [...document.querySelectorAll("a, button, input, select, td, [role=option]")]
  .filter((node) => node.checkVisibility())
  .map((node) => [node.outerHTML, node.getBoundingClientRect()])
  .filter(([, {width, height}]) => width < 24 || height < 24)
  .map(([html]) => html)"""
_SIZES: list[ViewportSize] = [{"width": 1280, "height": 900}, {"width": 390, "height": 844}]


@pytest.fixture
def source() -> str:
    if not _AXE.exists():
        pytest.skip("axe-core is not installed: make .venv/node.done")
    return _AXE.read_text()


def _checked(page: Page, source: str, scheme: Literal["light", "dark"], size: ViewportSize) -> Callable[[str], None]:
    """Let a page look as given; return what checks it in a state."""
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    page.set_viewport_size(size)

    def check(state: str) -> None:
        # The page's policy forbids scripts of others; the debugger's protocol is not bound by it.
        page.evaluate(f"() => {{ if (!window.axe) {{ {source} }} }}")
        assert page.evaluate(_RUN) == [], state
        assert page.evaluate(_SMALL) == [], state

    return check


@pytest.mark.parametrize("size", _SIZES, ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in_any_state(
    page: Page, own_server: Stack, source: str, scheme: Literal["light", "dark"], size: ViewportSize
) -> None:
    check = _checked(page, source, scheme, size)
    keep_stream_in_tab(page)
    open_page(page, own_server)
    expect(page.locator("#welcome")).to_be_visible()
    check("empty server")

    post(own_server, "feedback", [*PIZZA, {"key": "cake", "rating": 123456789}])
    post(own_server, "other", PIZZA)
    expect(page.locator("#rows tbody tr")).to_have_count(4)
    check("live")
    page.locator("#compare").select_option(label="soup")
    expect(page.locator("#legend li")).to_have_count(2)
    page.locator("#chart").focus()
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#chart .readout")).to_be_visible()
    for name, by in (("low", None), ("each", "key")):
        rule = json.dumps({"topic": "feedback", "when": "min(rating, 15m) < 3", "by": by}).encode()
        own_server.request("PUT", f"/v1/alerts/{name}", rule, **{"Content-Type": "application/json"})
    page.reload()
    expect(page.locator("#alerts-list .raised")).to_have_count(3)
    page.locator("#alerts-past summary").click()
    check("several keys and alerts")
    page.locator("#topic").click()
    expect(page.locator("#topic-list li")).to_have_count(3)  # the alerts have one of their own
    check("open list")
    page.locator("#topic").fill("nothing")
    expect(page.locator("#topic-box [role=status]")).to_contain_text("No topic contains")
    check("nothing found")
    page.keyboard.press("Escape")

    cell = page.locator('tr[data-key="soup"] td[data-column="mean"]')
    cell.focus()
    page.keyboard.press("Enter")
    expect(cell).to_have_attribute("aria-selected", "true")
    check("table focused")
    page.locator("#filter").fill("nothing")
    expect(page.locator("#more")).to_contain_text("No key contains")
    check("no key found")
    page.locator("#filter").fill("")

    page.evaluate("dispatchEvent(new Event('pagehide'))")
    expect(page.locator("#connection")).to_have_text("Paused")
    check("paused")
    page.evaluate("dispatchEvent(new Event('pageshow'))")
    expect(page.locator("#connection")).to_have_text("Live")

    def refuse(route: Route) -> None:
        route.fulfill(status=404)

    page.route("**/v1/**", refuse)
    own_server.stop("web")
    expect(page.locator("#connection")).to_have_text("Disconnected")
    check("disconnected")
    page.locator("#topic").click()
    expect(page.locator("#topic-box [role=status]")).to_have_text("The server cannot list its topics now.")
    check("error")


@pytest.mark.parametrize("size", _SIZES, ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in_the_panel_of_events(
    page: Page, own_server: Stack, source: str, scheme: Literal["light", "dark"], size: ViewportSize
) -> None:
    check = _checked(page, source, scheme, size)
    open_page(page, own_server)
    post(own_server, "feedback", PIZZA)

    def is_shown() -> bool:
        # What appears above may move it out of sight again.
        page.locator("#events").scroll_into_view_if_needed()
        return page.locator("#tail tbody tr").count() == 3

    until(is_shown)
    page.locator("#tail .open").first.click()
    expect(page.locator("#tail .life")).to_contain_text("Stored")
    check("event open")
    page.locator("#tail .key").first.click()
    expect(page.locator("#events-title")).to_have_text("Timeline of soup")
    check("timeline")
    page.locator("#events-text").fill("nothing")
    expect(page.locator("#events-none")).to_have_text("No event matches.")
    check("no event found")


@pytest.mark.parametrize("size", _SIZES, ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in_the_card_of_components(
    page: Page, own_server: Stack, broker: Broker, tmp_path: Path, source: str, scheme: Literal["light", "dark"],
    size: ViewportSize,
) -> None:  # fmt: skip
    check = _checked(page, source, scheme, size)
    site = Site(own_server, broker, tmp_path)
    site.app("""
        @on("orders", type="bad", start="beginning", retries=50, backoff=30.0)
        def failing(event, ctx):
            raise RuntimeError

        @on("orders", start="beginning")
        def counting(event, ctx):
            ctx.state["n"] = 1
    """)
    own_server.post("orders", [{"key": "a", "type": "bad"}, {"key": "b", "type": "other"}])
    site.work()
    until(lambda: len(own_server.get("/v1/components?topic=orders").json()["groups"]) == 2)
    open_page(page, own_server, "#topic=orders")
    expect(page.locator("#components-list li")).to_have_count(2)
    check("components")
