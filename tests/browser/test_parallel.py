"""The page of examples/parallel."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from support.flask_example import running

FOLDER = Path(__file__).parents[2] / "examples/parallel"
pytest.importorskip("joblib", reason="joblib is not installed: the extra jobs")


@pytest.fixture
def parallel(tmp_path: Path) -> Iterator[str]:
    with running(FOLDER, tmp_path) as url:
        yield url


def test_the_page_shows_the_results_now_and_when_it_opens_late(parallel: str, page: Page, tmp_path: Path) -> None:
    (tmp_path / "sales.csv").write_text(
        "shop,amount\n" + 'north,"€ 1,250.00"\nsouth,"1.250,00 EUR"\n<i>,3\n' * 20_000, encoding="utf-8"
    )
    page.goto(parallel)
    page.get_by_label("CSV file").set_input_files(tmp_path / "sales.csv")
    page.get_by_role("button", name="Compute").click()

    def assert_results() -> None:
        runs = page.locator("#runs .run span:last-child")
        for place in (0, 1):
            expect(runs.nth(place)).to_contain_text("done in")
        rows = page.locator("#table tbody tr")
        expect(rows).to_have_count(4)
        expect(rows.nth(0)).to_contain_text("20,00025,000,0001,2501,2501,2500")
        expect(page.locator("#table td:first-child")).to_have_text(["north", "south", "<i>", "all"])

    assert_results()
    page.reload()
    assert_results()


def test_a_file_that_cannot_be_computed_is_explained(parallel: str, page: Page, tmp_path: Path) -> None:
    (tmp_path / "sales.csv").write_text("shop,amount\nnorth,much\n")
    page.goto(parallel)
    page.get_by_label("CSV file").set_input_files(tmp_path / "sales.csv")
    page.get_by_role("button", name="Compute").click()
    expect(page.locator("#report")).to_contain_text("ValueError: could not convert string to float: 'much'")
