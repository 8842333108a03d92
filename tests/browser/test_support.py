"""The pages of examples/support."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from support.ports import free_port
from support.waiting import until

FOLDER = Path(__file__).parents[2] / "examples/support"


@pytest.fixture
def desk(tmp_path: Path, short_folder: Path) -> Iterator[str]:
    port = free_port()
    data = short_folder / "data"
    environment = os.environ | {"PUSHSVC_DATA_DIR": str(data)}
    log = tmp_path / "log"
    started: list[subprocess.Popen[bytes]] = []

    def start(*command: str) -> None:
        with log.open("ab") as output:
            started.append(
                subprocess.Popen(
                    [sys.executable, "-m", *command], cwd=FOLDER, env=environment, stdout=output, stderr=output
                )
            )

    start("flask", "--app", "app", "run", "--port", str(port))
    start("pushsvc", "worker", "--app", "desk", "--wait", "--redis", f"unix://{data / 'valkey.sock'}")
    until(lambda: b"Running on" in log.read_bytes())
    yield f"http://127.0.0.1:{port}"
    for process in reversed(started):
        process.terminate()
    for process in started:
        process.wait(60)
    sys.stdout.write(log.read_text())  # pytest shows it where the test fails


def sign_in(browser: Browser, url: str, name: str) -> Page:
    page = browser.new_context(locale="en-US").new_page()
    page.set_default_timeout(120_000)
    page.goto(url)
    page.locator("input[name=name]").fill(name)
    page.get_by_role("button", name="Sign in").click()
    return page


def test_a_request_waits_at_the_agent_and_the_answer_reaches_its_user(desk: str, browser: Browser) -> None:
    agent = sign_in(browser, desk, "agent-kim")
    expect(agent.locator("h1")).to_have_text("Support desk")
    until(lambda: agent.request.get(f"{desk}/push/v1/topics/support/events?format=json").ok)  # the push server runs
    bob, eve = sign_in(browser, desk, "bob"), sign_in(browser, desk, "eve")
    for page, text in ((bob, "My <b>shoe</b> is left"), (eve, "When are you open?")):
        page.locator("input[name=text]").fill(text)
        page.get_by_role("button", name="Ask").click()
    expect(eve.locator("#answers li")).to_have_text(["desk: We are open from 9 to 18 on weekdays."])
    expect(bob.locator("#answers li")).to_have_text(["An agent will answer soon."])
    expect(agent.locator("#waiting-count")).to_have_text("1")
    expect(agent.locator("#users")).to_have_text("2")

    agent.locator("#waiting button").click()
    expect(agent.locator("#user-title")).to_have_text("bob")
    expect(agent.locator("#actions li")).to_have_text(["request My <b>shoe</b> is left"])
    agent.locator("#answer input").fill("A right one is on its way")
    agent.get_by_role("button", name="Answer").click()
    expect(bob.locator("#answers li").last).to_have_text("agent-kim: A right one is on its way")
    expect(agent.locator("#waiting-count")).to_have_text("0")
    expect(agent.locator("#p95")).to_contain_text(" s")
    expect(eve.locator("#answers li")).to_have_count(1)
    bob.reload()
    expect(bob.locator("#answers li")).to_have_count(2)


def test_a_request_that_is_not_taken_stays_in_its_form(desk: str, browser: Browser) -> None:
    bob = sign_in(browser, desk, "bob")
    bob.context.clear_cookies()
    bob.locator("input[name=text]").fill("My shoe is left")
    bob.get_by_role("button", name="Ask").click()
    expect(bob.get_by_role("alert")).to_have_text("This was not sent. Please try again.")
    expect(bob.locator("input[name=text]")).to_have_value("My shoe is left")
