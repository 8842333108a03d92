"""The box in which a topic is found by a part of its name."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Page, Request, Route, expect

from pushsvc.broker.broker import Broker
from pushsvc.event import Event
from pushsvc.settings import TopicSettings
from support.dashboard import PIZZA, open_page, post
from support.stack import Stack

_TOPICS = 600


@pytest.fixture
def many(stack: Stack, broker: Broker) -> Stack:
    """A server with topics ``shop.n000`` to ``shop.n599``."""
    stack.start_aggregator()
    stack.start_web()
    for number in range(_TOPICS):
        broker.publish(f"shop.n{number:03}", [Event(data={"n": number})], TopicSettings())
    return stack


def test_a_topic_beyond_the_five_hundredth_is_found_and_chosen(page: Page, many: Stack) -> None:
    """The page never asks for the whole list."""
    lists: list[dict[str, list[str]]] = []

    def note(request: Request) -> None:
        address = urlsplit(request.url)
        if address.path == "/v1/topics":
            lists.append(parse_qs(address.query, keep_blank_values=True))

    page.on("request", note)
    open_page(page, many)
    box = page.get_by_role("combobox", name="Topic")
    box.click()
    expect(page.locator("#topic-box [role=status]")).to_have_text("50 of 600 topics: type a part of a name")
    box.press_sequentially("N59")
    options = page.locator("#topic-list li")
    expect(options).to_have_count(10)
    expect(options.first).to_contain_text("shop.n590")
    expect(options.first).to_contain_text("last event ")
    options.filter(has_text="shop.n597").click()
    expect(box).to_have_value("shop.n597")
    expect(page.locator("#live")).to_have_attribute("data-topic", "shop.n597")
    expect(page.locator("#topic-list")).to_be_hidden()
    assert page.url.endswith("topic=shop.n597") or "topic=shop.n597&" in page.url
    assert lists
    assert all("limit" in query for query in lists)


def test_the_box_is_used_with_the_keyboard_alone(page: Page, many: Stack) -> None:
    open_page(page, many, "#topic=shop.n001")
    box = page.get_by_role("combobox", name="Topic")

    def active() -> None:
        """Wait until the box names the one option that is marked as active."""
        marked = page.locator("#topic-list [aria-selected=true]")
        expect(marked).to_have_count(1)
        expect(box).to_have_attribute("aria-activedescendant", marked.get_attribute("id") or "")

    def expect_active(name: str) -> None:
        expect(page.locator("#topic-list [aria-selected=true]")).to_contain_text(name)
        active()

    box.focus()
    expect(box).to_have_attribute("aria-expanded", "false")
    box.press("ArrowDown")
    expect(box).to_have_attribute("aria-expanded", "true")
    expect_active("shop.n001")
    for key, name in (
        ("ArrowDown", "n002"), ("ArrowUp", "n001"), ("End", "n049"), ("ArrowDown", "n000"), ("ArrowUp", "n049"),
        ("Home", "n000"),
    ):  # fmt: skip
        box.press(key)
        expect_active(name)
    box.press("Escape")
    expect(box).to_have_attribute("aria-expanded", "false")
    expect(box).to_have_value("shop.n001")

    box.press_sequentially("n30")
    box.press("Escape")
    expect(box).to_have_value("shop.n001")

    box.fill("n30")
    expect_active("shop.n300")
    box.press("ArrowDown")
    box.press("Enter")
    expect(box).to_have_value("shop.n301")
    expect(page.locator("#live")).to_have_attribute("data-topic", "shop.n301")
    expect(box).to_be_focused()

    box.fill("n30")
    box.press("Tab")
    expect(page.locator("#topic-list")).to_be_hidden()
    expect(box).to_have_value("shop.n301")
    page.go_back()
    expect(box).to_have_value("shop.n001")


def test_enter_right_after_typing_chooses_the_first_match(page: Page, many: Stack) -> None:
    open_page(page, many, "#topic=shop.n001")
    box = page.get_by_role("combobox", name="Topic")
    box.click()
    page.keyboard.type("n599")
    page.keyboard.press("Enter")
    expect(page.locator("#live")).to_have_attribute("data-topic", "shop.n599")


def test_a_topic_that_is_created_appears_in_the_open_list(page: Page, own_server: Stack) -> None:
    post(own_server, "feedback", PIZZA)
    open_page(page, own_server, "#topic=feedback")
    box = page.get_by_role("combobox", name="Topic")
    box.click()
    expect(page.locator("#topic-list li")).to_have_count(1)
    box.fill("zzz")
    expect(page.locator("#topic-box [role=status]")).to_have_text("No topic contains “zzz”.")
    expect(box).to_have_attribute("aria-expanded", "false")
    post(own_server, "a.zzz", PIZZA)
    expect(page.locator("#topic-list li")).to_have_text(
        ["a.zzz" + page.locator("#topic-list li").locator("small").inner_text()]
    )
    box.press("Enter")
    expect(page.locator("#live")).to_have_attribute("data-topic", "a.zzz")


def test_a_list_that_cannot_be_read_says_so(page: Page, own_server: Stack) -> None:
    post(own_server, "feedback", PIZZA)
    open_page(page, own_server, "#topic=feedback")

    def refuse(route: Route) -> None:
        route.fulfill(status=503)

    page.route("**/v1/topics?search*", refuse)
    page.get_by_role("button", name="Show topics").click()
    status = page.locator("#topic-box [role=status]")
    expect(status).to_have_text("The server cannot list its topics now.")
    page.unroute("**/v1/topics?search*")
    page.get_by_role("button", name="Show topics").click()
    expect(status).to_be_hidden()
    page.get_by_role("button", name="Show topics").click()
    expect(status).to_have_text("1 topic")
