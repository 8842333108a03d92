"""The examples of Flask applications, in a browser."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from support.sites import Site, needs
from support.waiting import until

ROOT = Path(__file__).parents[2]
MODULES = ROOT / "tests/clients/js/node_modules"
SCRIPTS = {"htmx.min.js": MODULES / "htmx.org/dist/htmx.min.js", "sse.js": MODULES / "htmx-ext-sse/sse.js"}

Run = Callable[..., Site]


@pytest.fixture
def site(tmp_path: Path, redis_url: str, prefix: str) -> Iterator[Site]:
    site = Site(tmp_path, redis_url, prefix)
    yield site
    site.end()


@pytest.fixture
def run(site: Site, redis_url: str, prefix: str) -> Run:
    """Return a function that runs an example under a server."""

    def start(name: str, server: str) -> Site:
        (site.folder / "shop.py").write_text((ROOT / "examples/flask_apps" / f"{name}.py").read_text())
        site.run(server, PUSHSVC_REDIS=redis_url, PUSHSVC_PREFIX=prefix)
        return site

    return start


def sign_in(browser: Browser, url: str, name: str) -> Page:
    page = browser.new_context().new_page()
    page.goto(url)
    page.locator("input[name=name]").fill(name)
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator("#orders")).to_be_attached()
    return page


def order(page: Page, dish: str) -> None:
    page.locator("input[name=dish]").fill(dish)
    with page.expect_response("**/orders") as answer:
        page.get_by_role("button", name="Order").click()
    assert answer.value.status == 204


@pytest.mark.parametrize("server", ["flask", "serve"])
def test_the_first_application_of_the_docs_runs_as_written(
    site: Site, page: Page, redis_url: str, prefix: str, server: str
) -> None:
    """The page of docs/flask.md, and its module for the JavaScript client on the same page."""
    text = (ROOT / "docs/flask.md").read_text()
    module, script = (
        re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)[0] for language in ("python", "html")
    )
    (site.folder / "shop.py").write_text(module.replace("<ul id", script + "<ul id"))
    site.run(server, PUSHSVC_REDIS=redis_url, PUSHSVC_PREFIX=prefix)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    with page.expect_response("**/push/v1/topics/orders/events"):
        page.goto(site.url)

    def logged() -> list[str]:  # the client begins in a worker, which nothing on the page tells
        assert site.request("POST", "/orders").status == 204
        page.wait_for_timeout(10)
        return said

    until(lambda: "12.5" in logged())
    expect(page.locator("li").first).to_have_text("12.5")


@pytest.mark.parametrize("server", ["flask", "gevent"])
def test_customers_see_their_own_orders_and_staff_sees_all(run: Run, browser: Browser, server: str) -> None:
    needs("flask_login")
    shop = run("shop", server)
    events = "/push/v1/topics/orders/events"
    assert shop.get(events).status == 401
    ann, bob, staff = (sign_in(browser, shop.url, name) for name in ("ann", "bob", "staff"))
    assert ann.request.get(shop.url + events + "?key=bob").status == 403
    assert ann.request.get(shop.url + events).status == 403
    assert ann.request.post(shop.url + events, data={"dish": "free", "key": "ann"}).status == 403
    order(bob, "soup")
    order(ann, "pizza")
    expect(ann.locator("#orders li")).to_have_text(["ann: pizza"])
    expect(bob.locator("#orders li")).to_have_text(["bob: soup"])
    expect(staff.locator("#orders li")).to_have_text(["bob: soup", "ann: pizza"])
    for page in (ann, bob, staff):
        page.context.close()


def test_htmx_shows_the_cart_in_every_tab(run: Run, page: Page) -> None:
    for script in SCRIPTS.values():
        if not script.exists():
            pytest.skip(f"{script.parent.name} is missing: npm install it in tests/clients/js")

    def answer(route: Route) -> None:
        route.fulfill(path=SCRIPTS[route.request.url.rsplit("/", 1)[1]], content_type="text/javascript")

    site = run("cart", "flask")
    page.context.route("https://cdn.jsdelivr.net/**", answer)
    other = page.context.new_page()
    for tab in (page, other):
        with tab.expect_response("**/push/v1/topics/cart/events?*"):
            tab.goto(site.url)
    page.locator("input[name=dish]").fill("<b>soup</b>")
    page.get_by_role("button", name="Add").click()
    for tab in (page, other):
        expect(tab.locator("li")).to_have_text(["1 x <b>soup</b>"])
    assert site.get("/push/v1/topics/cart/events?data=html").status == 401


def test_a_progress_bar_follows_the_job(run: Run, page: Page) -> None:
    site = run("report", "flask")
    page.goto(site.url)
    page.get_by_role("button", name="Make the report").click()
    expect(page.locator("#state")).to_have_text("done")
    assert page.locator("#bar").evaluate("bar => [bar.value, bar.max]") == [50, 50]
    assert site.get("/push/v1/stream?events=job.*&format=sse").status == 401
