"""The page of examples/restaurant."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from support.flask_example import running

FOLDER = Path(__file__).parents[2] / "examples/restaurant"


@pytest.fixture
def restaurant(tmp_path: Path) -> Iterator[str]:
    with running(FOLDER, tmp_path) as url:
        yield url


def test_the_page_ranks_dishes_shows_comments_and_alerts(restaurant: str, page: Page) -> None:
    page.goto(restaurant)
    page.locator("#upload input").set_input_files(FOLDER / "reviews.csv")
    page.get_by_role("button", name="Upload").click()
    dishes = page.locator("#dishes tr td:first-child")
    expect(dishes).to_have_text(["tiramisu", "margherita", "lasagne", "risotto", "soup"])
    expect(page.locator("#alert")).to_have_text("Guests are unhappy with: soup")
    expect(page.locator("#report")).to_contain_text("duplicates of all fields: 0 changed, 6 refused")

    for name, text in (("Dish", "Panna Cotta"), ("Rating", "5 ★"), ("Bill", "€ 6"), ("Comment", "<b>wow</b>")):
        page.get_by_label(name, exact=True).fill(text)
    page.get_by_role("button", name="Send").click()
    expect(dishes.first).to_have_text("panna cotta")
    expect(page.locator("#comments li").first).to_contain_text("<b>wow</b>")

    page.reload()
    expect(dishes.first).to_have_text("panna cotta")
    expect(page.locator("#comments li").first).to_contain_text("<b>wow</b>")
    expect(page.locator("#alert")).to_have_text("Guests are unhappy with: soup")


def test_a_file_that_is_no_table_is_refused(restaurant: str, page: Page, tmp_path: Path) -> None:
    (tmp_path / "notes.csv").write_text("a,b\n1,2\n")
    page.goto(restaurant)
    page.locator("#upload input").set_input_files(tmp_path / "notes.csv")
    page.get_by_role("button", name="Upload").click()
    expect(page.locator("#report")).to_have_text("the file lacks the columns visited, dish, rating, bill, comment")
