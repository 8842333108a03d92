"""Twenty streams of a page behind the proxies of deploy/: over HTTP/2 they share one connection."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from support.site_proxy import SiteProxy
from support.waiting import until

OPEN = """([path, count]) => {
  window.seen = Array.from({length: count}, () => []);
  window.streams = seen.map(list => {
    const stream = new EventSource(path);
    stream.onmessage = message => list.push(JSON.parse(message.data).n);
    return stream;
  });
}"""


@pytest.mark.parametrize("kind", ["nginx", "caddy"])
def test_twenty_streams_of_a_page_share_a_connection(browser, stack, tmp_path, topic, kind):
    stack.start_web("--trusted-proxy", "127.0.0.1/32")
    with SiteProxy(kind, tmp_path, [stack.port]) as site:
        context = browser.new_context(ignore_https_errors=True)
        page = context.new_page()
        page.goto(f"{site.url}/docs")  # a page without streams of its own
        page.evaluate(OPEN, [f"v1/topics/{topic}/events", 20])
        # Over HTTP/1.1 the seventh would never be opened.
        until(lambda: page.evaluate("streams.every(stream => stream.readyState === EventSource.OPEN)"))
        protocols = page.evaluate(
            "() => performance.getEntriesByType('resource').concat(performance.getEntriesByType('navigation'))"
            ".map(entry => entry.nextHopProtocol)"
        )
        assert set(protocols) <= {"h2", "h3"}, protocols
        for number in range(3):
            assert stack.post(topic, {"n": number}).status == 202
        until(lambda: page.evaluate("seen.every(list => list.length === 3)"))
        assert page.evaluate("seen") == [[0, 1, 2]] * 20
        assert until(lambda: stack.metric("pushsvc_streams") == 20)
        context.close()


@pytest.mark.parametrize("kind", ["nginx", "caddy"])
def test_the_dashboard_works_below_a_prefix(browser, stack, tmp_path, topic, kind):
    stack.start_web("--trusted-proxy", "127.0.0.1/32")
    stack.start_aggregator()
    assert stack.post(topic, {"n": 7}).status == 202
    with SiteProxy(kind, tmp_path, [stack.port]) as site:
        context = browser.new_context(ignore_https_errors=True, locale="en-US")
        page = context.new_page()
        failed = []
        page.on("response", lambda answer: failed.append(answer.url) if answer.status >= 400 else None)
        page.goto(f"{site.url}/")
        expect(page.locator("#topic")).to_have_value(topic)
        expect(page.locator("#connection")).to_have_attribute("data-state", "open")
        expect(page.locator("#offset")).to_have_text("1")
        assert failed == []
        context.close()
