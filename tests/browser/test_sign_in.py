"""The dashboard of a server that asks for credentials: it shows what the visitor's token grants, and nothing else."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from playwright.sync_api import Page, expect

from pushsvc.auth.api_keys import PREFIX, hash_of
from support.stack import Stack
from support.waiting import until

SECRET = "a secret of more than thirty-two bytes"
API_KEY = PREFIX + "viewer-0123456789"
SETTINGS = f"""
jwt_key = "{SECRET}"
[keys.viewer]
hash = "{hash_of(API_KEY)}"
subscribe = ["feedback"]
"""
EVENTS = [{"key": "pizza", "rating": 4}, {"key": "soup", "rating": 2}]


def token(seconds: float = 86_400, subject: str = "ann", **grants: Any) -> str:
    now = time.time()
    return jwt.encode({"exp": now + seconds, "iat": now, "sub": subject, "pushsvc": grants}, SECRET, "HS256")


ADMIN = {"Authorization": f"Bearer {token(subject='admin', publish=['>'], subscribe=['>'], manage=['>'])}"}


@pytest.fixture(scope="module")
def guarded(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(redis_url, f"test-{os.getpid()}-sign-in:", tmp_path_factory.mktemp("sign-in")) as stack:
        stack.configure(SETTINGS)
        stack.start_aggregator()
        stack.start_web()
        for topic in ("feedback", "vault"):
            body, path = json.dumps(EVENTS).encode(), f"/v1/topics/{topic}"
            headers = ADMIN | {"Content-Type": "application/json"}
            assert stack.request("POST", f"{path}/events", body, **headers).status == 202
            until(lambda path=path: stack.get(f"{path}/stats?at_least=2", **ADMIN).status == 200)
        yield stack


def sign_in(page: Page, text: str) -> None:
    page.get_by_label("Token or API key").fill(text)
    page.locator("#sign-in").get_by_role("button", name="Sign in").click()


@pytest.mark.parametrize("credentials", ["token", "key"])
def test_a_visitor_signs_in_sees_what_is_granted_and_signs_out(page: Page, guarded: Stack, credentials: str) -> None:
    page.goto(guarded.url)
    expect(page.locator("#sign-in")).to_be_visible()
    expect(page.locator("#controls")).to_be_hidden()
    sign_in(page, token(subscribe=["feedback"]) if credentials == "token" else API_KEY)
    expect(page.locator("#rows tbody tr")).to_have_count(3)
    expect(page.locator("#connection")).to_have_text("Live")
    page.locator("#topic").click()
    expect(page.locator("#topic-list li")).to_have_count(1)
    assert "vault" not in page.content()
    assert page.evaluate("() => document.cookie + JSON.stringify({...sessionStorage, ...localStorage})") == "{}"
    page.keyboard.press("Escape")

    page.reload()
    expect(page.locator("#rows tbody tr")).to_have_count(3)
    page.get_by_role("button", name="Sign out").click()
    expect(page.locator("#sign-in")).to_be_visible()
    expect(page.locator("#live")).to_be_hidden()
    assert page.context.cookies() == []


def test_what_is_wrong_is_said_and_can_be_repeated(page: Page, guarded: Stack) -> None:
    page.goto(guarded.url)
    for text, problem in (
        ("nonsense", "not valid"),
        (token(-3_600, subscribe=[">"]), "not valid"),
        (token(publish=[">"]), "no topic to read"),
    ):
        expect(page.locator("#sign-in")).to_be_visible()
        sign_in(page, text)
        expect(page.get_by_role("alert")).to_contain_text(problem)
    sign_in(page, token(subscribe=["feedback"]))
    expect(page.locator("#rows tbody tr")).to_have_count(3)


def test_the_sign_in_comes_back_when_the_subject_is_revoked(page: Page, guarded: Stack) -> None:
    page.goto(guarded.url)
    sign_in(page, token(subject="bob", subscribe=["feedback"]))
    expect(page.locator("#connection")).to_have_text("Live")
    assert guarded.request("DELETE", "/v1/sessions?sub=bob", **ADMIN).status == 200
    expect(page.locator("#sign-in")).to_be_visible()


def test_axe_finds_nothing_on_the_sign_in(page: Page, guarded: Stack) -> None:
    axe = Path(__file__).parents[1] / "clients/js/node_modules/axe-core/axe.min.js"
    if not axe.exists():
        pytest.skip("axe-core is not installed: make .venv/node.done")
    page.goto(guarded.url)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme="light" if scheme == "light" else "dark", reduced_motion="reduce")
        expect(page.locator("#sign-in")).to_be_visible()
        sign_in(page, "nonsense")
        expect(page.get_by_role("alert")).to_contain_text("not valid")
        page.evaluate(f"() => {{ if (!window.axe) {{ {axe.read_text()} }} }}")
        found = page.evaluate("async () => (await axe.run(document)).violations.map(({id}) => id)")
        assert found == []
    if folder := os.environ.get("PUSHSVC_TEST_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / "sign-in.png")
