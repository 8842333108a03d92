"""The API's page at /docs in a real browser."""

from __future__ import annotations

import pytest
from playwright.sync_api import ConsoleMessage, Page, expect

from support.stack import Stack


@pytest.mark.parametrize("mount", ["", "/mounted"])
def test_the_page_shows_and_tries_the_api_and_asks_no_other_host(
    page: Page, iterated_server: Stack, topic: str, mount: str
) -> None:
    iterated_server.post(topic, {"rating": 4})
    asked: list[str] = []
    said: list[str] = []

    def listen(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            said.append(message.text)

    page.on("console", listen)
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{iterated_server.url}{mount}/docs")
    operation = page.locator("#operations-topics-topics")
    operation.locator(".opblock-summary-control").click()
    operation.get_by_role("button", name="Execute").click()

    answer = operation.locator(".live-responses-table tbody")
    expect(answer.locator(".response-col_status").first).to_contain_text("200")
    expect(answer).to_contain_text(topic)
    assert f"{iterated_server.url}{mount}/v1/topics" in asked
    elsewhere = [url for url in asked if not url.startswith((f"{iterated_server.url}{mount}/", "data:"))]
    assert (elsewhere, said) == ([], [])
