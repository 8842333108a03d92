"""Twenty tabs with the JavaScript client over HTTP/1.1: one connection, and every tab has the server's state."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext

from support.site_proxy import SiteProxy
from support.stack import Stack
from support.tabs import FOLLOW, check, open_tab, publish, state, wait_begun, wait_seen
from support.waiting import until

TABS = 20
pytestmark = pytest.mark.parametrize("share", [True, "lock"], ids=["worker", "lock"])


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(ignore_https_errors=True)
    yield context
    context.close()


def test_all_tabs_share_a_connection_and_survive_leader_and_server(
    context: BrowserContext, own_server: Stack, topic: str, share: Any
) -> None:
    survive(context, own_server, own_server.url, topic, share, own_server.restart_web)


def test_they_do_behind_a_proxy_with_http_2(
    context: BrowserContext, stack: Stack, tmp_path: Any, topic: str, share: Any
) -> None:
    behind = ("--trusted-proxy", "127.0.0.1/32")
    stack.start_aggregator()
    stack.start_web(*behind)

    def restart() -> None:
        stack.stop("web", signal.SIGKILL)
        until(lambda: not stack.listening())
        stack.start_web(*behind)

    with SiteProxy("nginx", tmp_path, [stack.port]) as site:
        survive(context, stack, site.url, topic, share, restart)
        context.close()


def survive(
    context: BrowserContext, server: Stack, url: str, topic: str, share: Any, restart: Callable[[], None]
) -> None:
    """Open twenty tabs, close the one that leads, kill the server, and reload half of the tabs: one connection, and
    all of them have the state of the server."""
    publish(server, topic, [0])
    pages = [open_tab(context, url, topic, share) for _ in range(TABS)]
    wait_begun(pages)
    assert server.metric("pushsvc_streams") == 1
    publish(server, topic, [1, 2, 3])
    wait_seen(pages, [1, 2, 3])
    check(pages, server, topic)

    # The first tab leads, if a tab leads at all.
    pages.pop(0).close()
    publish(server, topic, [4, 5])
    wait_seen(pages, [1, 2, 3, 4, 5])
    check(pages, server, topic)
    assert until(lambda: server.metric("pushsvc_streams") == 1)

    restart()
    publish(server, topic, [6, 7])
    wait_seen(pages, list(range(1, 8)))
    check(pages, server, topic)

    half = len(pages) // 2
    for page in pages[:half]:
        page.reload()
        page.evaluate(FOLLOW, [topic, share])
    wait_begun(pages)
    publish(server, topic, [8])
    wait_seen(pages[:half], [8])
    wait_seen(pages[half:], list(range(1, 9)))
    check(pages, server, topic)
    assert until(lambda: server.metric("pushsvc_streams") == 1)


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
    wait_begun(pages)
    publish(own_server, topic, [1])
    wait_seen(pages, [1])
    assert own_server.metric("pushsvc_streams") == 1


def test_a_connection_that_is_closed_listens_to_the_page_no_longer(
    context: BrowserContext, own_server: Stack, topic: str, share: Any
) -> None:
    counts = """() => {
      window.listening = 0;
      for (const target of [window, document]) {
        const add = target.addEventListener;
        target.addEventListener = function (type, listener, { signal }) {
          listening++;
          signal.addEventListener("abort", () => listening--);
          add.call(this, type, listener, { signal });
        };
      }
    }"""
    publish(own_server, topic, [0])
    page = open_tab(context, own_server.url, topic, share, counts)
    wait_begun([page])
    assert page.evaluate("listening") == 2
    page.evaluate("push.close()")
    assert page.evaluate("listening") == 0
    assert until(lambda: own_server.metric("pushsvc_streams") == 0)
