"""Streams and publishing across origins in a real browser: the lists of origins, with and without credentials."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from playwright.sync_api import Page

from support.stack import Stack
from support.waiting import until

MODULES = Path(__file__).parents[1] / "clients" / "js" / "node_modules"
FETCH_EVENT_SOURCE = MODULES / "@microsoft" / "fetch-event-source" / "lib" / "esm"
HTMX = (MODULES / "htmx.org" / "dist" / "htmx.js", MODULES / "htmx-ext-sse" / "sse.js")

BEARER_STREAM = """async ([module, url]) => {
  const {fetchEventSource} = await import(module);
  window.seen = [];
  fetchEventSource(url, {
    headers: {Authorization: "Bearer abc"},
    onmessage: message => { if (message.data) window.seen.push(JSON.parse(message.data).n); },
    onerror: error => { window.seen.push(String(error)); throw error; },
  }).catch(() => {});
}"""
EVENT_SOURCE = """([url]) => {
  window.seen = [];
  const source = new EventSource(url, {withCredentials: true});
  source.onmessage = message => window.seen.push(JSON.parse(message.data).n);
  source.onerror = () => { if (source.readyState === 2) window.seen.push("closed"); };
}"""
SEND = """async ([method, url, body, credentials]) => {
  try {
    const headers = {"Content-Type": "application/json", Authorization: "Bearer abc", "Idempotency-Key": "k"};
    const answer = await fetch(url, {method, headers, body, credentials});
    return [answer.status, answer.headers.get("X-Request-Id") !== null];
  } catch (error) {
    return error.name;
  }
}"""


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder that ``origin`` serves, with the scripts of the clients."""
    needed = (FETCH_EVENT_SOURCE, *HTMX)
    if not all(path.exists() for path in needed):
        pytest.skip("the JavaScript clients are not installed: make .venv/node.done")
    folder = tmp_path / "site"
    shutil.copytree(FETCH_EVENT_SOURCE, folder / "fes")
    index = (folder / "fes" / "index.js").read_text()
    (folder / "fes" / "index.js").write_text(index.replace("'./fetch'", "'./fetch.js'"))
    fetch = (folder / "fes" / "fetch.js").read_text()
    (folder / "fes" / "fetch.js").write_text(fetch.replace("'./parse'", "'./parse.js'"))
    for path in HTMX:
        shutil.copy(path, folder)
    (folder / "index.html").write_text("<!doctype html><title>page</title>")
    return folder


@pytest.fixture
def origin(site: Path) -> Iterator[str]:
    """The origin of a page: ``localhost`` is another site than ``127.0.0.1``, where the tests' servers are."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(site)))
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://localhost:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def seen(page: Page) -> Any:
    return page.evaluate("window.seen")


def wait_for(page: Page, stack: Stack, topic: str, number: int) -> None:
    """Publish until the page has seen an event: a stream shows those after its begin."""

    def shown() -> bool:
        stack.post(topic, {"n": number})
        return number in seen(page)

    until(shown, sleep=lambda _: page.wait_for_timeout(50))


@pytest.mark.parametrize("option", ["--allow-read-origin", "--allow-origin", "--allow-write-origin"])
def test_fetch_event_source_streams_with_a_bearer_token(
    page: Page, stack: Stack, topic: str, origin: str, option: str
) -> None:
    stack.start_web(option, origin)
    page.goto(origin)
    page.evaluate(BEARER_STREAM, [f"{origin}/fes/index.js", f"{stack.url}/v1/topics/{topic}/events"])
    wait_for(page, stack, topic, 1)


def test_event_source_streams_with_credentials(page: Page, stack: Stack, topic: str, origin: str) -> None:
    stack.start_web("--allow-read-origin", origin)
    page.goto(origin)
    page.evaluate(EVENT_SOURCE, [f"{stack.url}/v1/topics/{topic}/events"])
    wait_for(page, stack, topic, 1)


def test_a_page_that_is_not_listed_streams_nothing(page: Page, stack: Stack, topic: str, origin: str) -> None:
    stack.start_web("--allow-origin", "https://other.example")
    page.goto(origin)
    page.evaluate(EVENT_SOURCE, [f"{stack.url}/v1/topics/{topic}/events"])
    until(lambda: seen(page) == ["closed"], sleep=lambda _: page.wait_for_timeout(50))


def test_the_sse_extension_of_htmx_streams_with_credentials(
    page: Page, stack: Stack, topic: str, origin: str, site: Path
) -> None:
    stack.start_web("--allow-read-origin", origin)
    (site / "htmx.html").write_text(
        f"""<!doctype html><title>page</title><script src="htmx.js"></script><script src="sse.js"></script>
        <div hx-ext="sse" sse-connect="{stack.url}/v1/topics/{topic}/events" sse-swap="message">nothing</div>"""
    )
    page.goto(f"{origin}/htmx.html")

    def shown() -> bool:
        stack.post(topic, {"n": 17})
        return '"n":17' in (page.locator("div").text_content() or "")

    until(shown, sleep=lambda _: page.wait_for_timeout(50))


METHODS = [
    ("--allow-read-origin", [403, True], "TypeError"),  # a browser needs no permission to send a POST
    ("--allow-origin", [202, True], "TypeError"),
    ("--allow-write-origin", [202, True], [204, True]),
]


@pytest.mark.parametrize(("option", "posted", "deleted"), METHODS)
@pytest.mark.parametrize("credentials", ["omit", "include"])
def test_the_browser_sends_what_the_list_allows(
    page: Page, stack: Stack, topic: str, origin: str, option: str, posted: Any, deleted: Any, credentials: str
) -> None:
    stack.start_web(option, origin)
    page.goto(origin)
    path = f"{stack.url}/v1/topics/{topic}"
    assert page.evaluate(SEND, ["POST", f"{path}/events", '{"n":1}', credentials]) == posted
    assert page.evaluate(SEND, ["DELETE", path, None, credentials]) == deleted
