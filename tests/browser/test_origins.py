"""Streams and publishing across origins in a real browser: the lists of origins, with and without credentials."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import jwt
import pytest
from playwright.sync_api import Page

from support.stack import Stack
from support.waiting import until

MODULES = Path(__file__).parents[1] / "clients" / "js" / "node_modules"
FETCH_EVENT_SOURCE = MODULES / "@microsoft" / "fetch-event-source" / "lib" / "esm"
HTMX = (MODULES / "htmx.org" / "dist" / "htmx.js", MODULES / "htmx-ext-sse" / "sse.js")

SECRET = "a secret of thirty-two characters"
BEARER_STREAM = """async ([module, url, token]) => {
  const {fetchEventSource} = await import(module);
  window.seen = [];
  fetchEventSource(url, {
    headers: {Authorization: `Bearer ${token}`},
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
SEND = """async ([method, url, body, credentials, token]) => {
  try {
    const headers = {"Content-Type": "application/json", "Idempotency-Key": "k"};
    if (token) headers.Authorization = `Bearer ${token}`;
    const answer = await fetch(url, {method, headers, body, credentials});
    return [answer.status, answer.headers.get("X-Request-Id") !== null];
  } catch (error) {
    return error.name;
  }
}"""


class Handler(SimpleHTTPRequestHandler):
    """Serves files. The query is the value of our cookie."""

    def end_headers(self) -> None:
        if "?" in self.path:
            value = self.path.partition("?")[2]
            self.send_header("Set-Cookie", f"__Host-pushsvc={value}; Path=/; Secure; HttpOnly; SameSite=None")
        super().end_headers()

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


def token(*publish: str, subscribe: str = ">", manage: str = ">") -> str:
    grants = {"publish": publish, "subscribe": [subscribe], "manage": [manage]}
    return jwt.encode({"sub": "ann", "exp": int(time.time()) + 600, "pushsvc": grants}, SECRET, "HS256")


def start(stack: Stack, *options: str) -> None:
    """Start a server that asks for tokens."""
    stack.configure(f'jwt_key = "{SECRET}"\n')
    stack.start_web(*options)


def sign_in(page: Page, near: str) -> None:
    """Open a page which gives the browser the cookie, as a backend on another port of the host would."""
    page.goto(f"{near}/?{token('>')}")
    assert page.context.cookies()[0]["name"] == "__Host-pushsvc"


def publish(stack: Stack, topic: str, number: int) -> None:
    sent = {"Authorization": f"Bearer {token('>')}", "Content_Type": "application/json"}
    body = f'{{"n":{number}}}'.encode()
    assert stack.request("POST", f"/v1/topics/{topic}/events", body, **sent).status == 202


@pytest.fixture
def near(origin: str) -> str:
    """The same page on another port of the server's host: another origin of the same site, so it has its cookies."""
    return origin.replace("localhost", "127.0.0.1")


def seen(page: Page) -> Any:
    return page.evaluate("window.seen")


def wait_for(page: Page, stack: Stack, topic: str, number: int) -> None:
    """Publish until the page has seen an event: a stream shows those after its begin."""

    def shown() -> bool:
        publish(stack, topic, number)
        return number in seen(page)

    until(shown, sleep=lambda _: page.wait_for_timeout(50))


@pytest.mark.parametrize("option", ["--allow-read-origin", "--allow-origin", "--allow-write-origin"])
def test_fetch_event_source_streams_with_a_bearer_token(
    page: Page, stack: Stack, topic: str, origin: str, option: str
) -> None:
    start(stack, option, origin)
    page.goto(origin)
    page.evaluate(BEARER_STREAM, [f"{origin}/fes/index.js", f"{stack.url}/v1/topics/{topic}/events", token()])
    wait_for(page, stack, topic, 1)


def test_event_source_streams_with_credentials(page: Page, stack: Stack, topic: str, near: str) -> None:
    start(stack, "--allow-read-origin", near)
    sign_in(page, near)
    page.evaluate(EVENT_SOURCE, [f"{stack.url}/v1/topics/{topic}/events"])
    wait_for(page, stack, topic, 1)


def test_a_page_that_is_not_listed_streams_nothing(page: Page, stack: Stack, topic: str, near: str) -> None:
    start(stack, "--allow-origin", "https://other.example")
    sign_in(page, near)
    page.evaluate(EVENT_SOURCE, [f"{stack.url}/v1/topics/{topic}/events"])
    until(lambda: seen(page) == ["closed"], sleep=lambda _: page.wait_for_timeout(50))


def test_the_sse_extension_of_htmx_streams_with_credentials(
    page: Page, stack: Stack, topic: str, near: str, site: Path
) -> None:
    start(stack, "--allow-read-origin", near)
    sign_in(page, near)
    (site / "htmx.html").write_text(
        f"""<!doctype html><title>page</title><script src="htmx.js"></script><script src="sse.js"></script>
        <div hx-ext="sse" sse-connect="{stack.url}/v1/topics/{topic}/events" sse-swap="message">nothing</div>"""
    )
    page.goto(f"{near}/htmx.html")

    def shown() -> bool:
        publish(stack, topic, 17)
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
    start(stack, option, origin)
    page.goto(origin)
    path = f"{stack.url}/v1/topics/{topic}"
    assert page.evaluate(SEND, ["POST", f"{path}/events", '{"n":1}', credentials, token(">")]) == posted
    assert page.evaluate(SEND, ["DELETE", path, None, credentials, token(">")]) == deleted


def test_the_cookie_publishes_for_pages_of_the_same_site_only(
    page: Page, stack: Stack, topic: str, origin: str, near: str
) -> None:
    """Both origins are listed. A browser that blocks cookies of other sites does not even send it: 401."""
    start(stack, "--allow-origin", origin, "--allow-origin", near)
    sign_in(page, near)
    sent = ["POST", f"{stack.url}/v1/topics/{topic}/events", '{"n":1}', "include", ""]
    assert page.evaluate(SEND, sent) == [202, True]
    page.goto(origin)
    assert page.evaluate(SEND, sent) in ([401, True], [403, True])
