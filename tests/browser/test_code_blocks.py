"""The JavaScript of README and docs works as it is written, on a page of the server."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, Route, expect

from support.stack import Stack
from support.waiting import until

ROOT = Path(__file__).parents[2]
IMPORT = 'import { connect } from "/client.js";'


def block_of(document: str, text: str) -> str:
    """Return the only block of JavaScript that has a text."""
    blocks = re.findall(r"^```js\n(.*?)^```", (ROOT / document).read_text(), re.DOTALL | re.MULTILINE)
    [found] = [block for block in blocks if text in block]
    return str(found)


def open_empty_page(page: Page, server: Stack, body: str = "") -> list[Any]:
    """Open a page without scripts of its own; return what will be said on its console."""
    said: list[Any] = []
    page.on("console", lambda message: said.append([each.json_value() for each in message.args]))
    page.route("**/empty", lambda route: route.fulfill(content_type="text/html", body=body))
    page.goto(f"{server.url}/empty")
    return said


def run(page: Page, block: str) -> None:
    page.evaluate(f"async () => {{ {block} }}")


def test_table_of_the_readme_follows_the_statistics(page: Page, shared_server: Stack, topic: str) -> None:
    shared_server.post(topic, {"key": "LH400", "delay": 4})
    open_empty_page(page, shared_server, "<pre></pre>")
    run(page, block_of("README.md", "EventSource").replace("/flights/", f"/{topic}/"))
    expect(page.locator("pre")).to_contain_text("LH400,delay,1,")
    shared_server.post(topic, {"key": "LH400", "delay": 6})
    expect(page.locator("pre")).to_contain_text("LH400,delay,2,")


def test_page_publishes_and_watches(page: Page, shared_server: Stack, topic: str) -> None:
    said = open_empty_page(page, shared_server)
    run(page, block_of("docs/protocol.md", "sendBeacon").replace("/feedback/", f"/{topic}/"))
    until(lambda: shared_server.get(f"/v1/topics/{topic}").json()["last_offset"] == 2)
    run(page, block_of("docs/protocol.md", "EventSource").replace("/feedback/", f"/{topic}/"))

    def counts() -> set[int]:
        page.wait_for_timeout(10)
        return {row[2] for [rows] in said for row in rows if row[:2] == ["pizza", "rating"]}

    until(lambda: 2 in counts())
    shared_server.post(topic, {"key": "pizza", "rating": 1})
    until(lambda: 3 in counts())


def test_javascript_client_is_used_as_written(page: Page, own_server: Stack) -> None:
    said = open_empty_page(page, own_server, "<i></i>")
    first, second = (block_of("docs/javascript.md", text) for text in (IMPORT, "/my-token"))
    page.evaluate("() => { globalThis.drawn = []; globalThis.draw = (rows) => drawn.push(rows); }")
    own_server.post("flights", {"key": "LH400", "delay": 3})
    own_server.post("job.42", {"key": "done", "n": 7})
    read = "globalThis.read = () => [flights.get('LH400', 'delay')?.mean, job.value?.length, topics.value?.length]"
    loaded = first.replace(IMPORT, 'const { connect } = await import("/client.js");')
    run(page, f"{loaded}; globalThis.connect = connect; {read}")
    until(lambda: page.evaluate("() => read()") == [3, 1, 2])
    own_server.post("orders", {"key": "u42", "type": "created", "total": 12.5})
    own_server.post("flights", {"key": "LH400", "delay": 5})
    until(lambda: page.evaluate("() => read()") == [4, 1, 3])
    assert ["created", 12.5] in said
    assert page.evaluate("() => drawn.flat().some((row) => row.key === 'LH400' && row.mean === 4)")

    asked: list[Route] = []
    page.route("**/my-token", lambda route: (asked.append(route), route.fulfill(body=""))[1])
    run(page, f"const badge = document.querySelector('i'); {second}; push.events('orders');")
    expect(page.locator("i")).to_have_text("open")
    assert asked
