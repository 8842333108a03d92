"""What a page of a real browser may publish by ``fetch`` and ``navigator.sendBeacon``, which send text/plain."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from playwright.sync_api import Page

from support.stack import Stack
from support.waiting import until

FETCH = """async ([url, value]) => {
  try {
    const answer = await fetch(url, {method: "POST", body: JSON.stringify(value)});
    return answer.status;
  } catch (error) {
    return String(error.name);
  }
}"""
# What sends the request without reading the answer, as a page of another site would. The browser rejects the answers,
# because they are for pages of the server's own origin.
BLIND = """async ([url, value]) => {
  await fetch(url, {method: "POST", mode: "no-cors", body: JSON.stringify(value)}).catch(() => {});
  const form = new URLSearchParams(); form.set(JSON.stringify(value), "");
  await fetch(url, {method: "POST", mode: "no-cors", body: form}).catch(() => {});
  return navigator.sendBeacon(url, JSON.stringify(value));
}"""
BEACON = "([url, value]) => navigator.sendBeacon(url, JSON.stringify(value))"


class EmptyPage(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def other_port() -> Iterator[str]:
    """Serve an empty page on another port of loopback; yield its origin."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), EmptyPage)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def stored(server: Stack, topic: str) -> list[Any]:
    return [event.get("n") for event in server.get(f"/v1/topics/{topic}/events").json()["events"]]


def test_a_page_of_the_server_publishes_without_a_content_type(page: Page, server: Stack, topic: str) -> None:
    page.goto(f"{server.url}/livez")
    path = f"/v1/topics/{topic}/events"
    assert page.evaluate(FETCH, [path, {"n": 1}]) == 202
    assert page.evaluate(FETCH, [path, [{"n": 2}, {"n": 3}]]) == 202
    assert page.evaluate(BEACON, [path, {"n": 4}])
    until(lambda: stored(server, topic) == [1, 2, 3, 4])


def test_a_page_of_another_port_stores_nothing(page: Page, server: Stack, topic: str) -> None:
    url = f"{server.url}/v1/topics/{topic}/events"
    with other_port() as origin:
        page.goto(origin)
        assert page.evaluate(FETCH, [url, {"n": 1}]) == "TypeError"
        ended: list[str] = []
        page.on("requestfailed", lambda request: ended.append(request.method))
        page.on("requestfinished", lambda request: ended.append(request.method))
        assert page.evaluate(BLIND, [url, {"n": 2}])
        until(lambda: len(ended) == 3, sleep=lambda _: page.wait_for_timeout(50), seconds=20)
    assert set(ended) == {"POST"}
    assert stored(server, topic) == []


@pytest.mark.parametrize("send", [FETCH, BEACON])
def test_a_page_of_an_allowed_origin_publishes(page: Page, stack: Stack, topic: str, send: str) -> None:
    with other_port() as origin:
        stack.start_web("--allow-origin", origin)
        page.goto(origin)
        assert page.evaluate(send, [f"{stack.url}/v1/topics/{topic}/events", {"n": 1}]) in (202, True)
        until(lambda: stored(stack, topic) == [1])
