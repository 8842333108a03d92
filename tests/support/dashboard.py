"""The dashboard at ``/`` in a browser, and events for it."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Page, expect

from support.stack import Stack

PIZZA = [{"key": "pizza", "rating": 4.5}, {"key": "pizza", "rating": 2}, {"key": "soup", "rating": 1}]


_NO_LOCKS = "Object.defineProperty(Navigator.prototype, 'locks', { value: undefined })"


def keep_stream_in_tab(page: Page) -> None:
    """Let a page have a stream of its own, as without HTTPS. Only requests of a tab can be intercepted."""
    page.add_init_script(_NO_LOCKS)


def open_page(page: Page, server: Stack, fragment: str = "") -> None:
    """Open the dashboard and wait until it is connected."""
    page.goto(f"{server.url}/{fragment}")
    expect(page.locator("#connection")).to_have_attribute("data-state", "open")


def post(server: Stack, topic: str, events: Any) -> int:
    """Publish events; return the offset of the last."""
    answer = server.post(topic, events)
    assert answer.status == 202, answer
    return int(answer.json()["last_offset"])
