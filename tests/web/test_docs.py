"""The page at /docs and its files, as a cache and a browser's policy see them."""

from __future__ import annotations

import re
from urllib.parse import urljoin

import pytest

from pushsvc.web.app import create_app
from pushsvc.web.security import Security

PAGE = ("/docs", "/docs/swagger-ui.css", "/docs/swagger-ui-bundle.js", "/static/docs.js", "/openapi.json")


@pytest.fixture
def client(broker):
    return create_app(broker).test_client()


@pytest.mark.parametrize("path", PAGE)
def test_a_cache_keeps_the_page_and_asks_whether_it_has_changed(client, path):
    answer = client.get(path)
    assert (answer.status_code, answer.headers["Cache-Control"]) == (200, "no-cache")
    again = client.get(path, headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")
    assert client.get(path, headers={"If-None-Match": '"another"'}).status_code == 200
    head = client.head(path)
    assert (head.status_code, head.data, head.headers["ETag"]) == (200, b"", answer.headers["ETag"])
    assert head.headers["Content-Length"] == str(len(answer.data))


@pytest.mark.parametrize("path", PAGE)
def test_the_page_has_the_policy_of_every_answer(client, path):
    answer = client.get(path)
    for name in ("Content-Security-Policy", "X-Content-Type-Options", "Cross-Origin-Resource-Policy"):
        assert answer.headers[name] == client.get("/livez").headers[name]
    policy = answer.headers["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert {"frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'"} <= set(policy.split("; "))
    assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_a_browser_that_used_tls_is_told_to_keep_to_it(broker):
    client = create_app(broker, security=Security(allow_hosts=("push.example",))).test_client()
    named = {"http://push.example": False, "https://push.example": True, "https://localhost": False}
    for url, told in named.items():
        assert ("Strict-Transport-Security" in client.get("/livez", base_url=url).headers) == told, url


def test_all_urls_of_the_page_are_relative_and_lead_to_its_files(client):
    urls = re.findall(r'(?:href|src)="([^"]*)"', client.get("/docs").text)
    assert {urljoin("/docs", url) for url in urls} >= set(PAGE) - {"/docs"}
    assert not [url for url in urls if url.startswith("/") or ":" in url]
    assert {client.get(urljoin("/docs", url)).status_code for url in urls} == {200}


@pytest.mark.parametrize(
    "name", ["index.html", "oauth2-redirect.html", "../__init__.py", "..%2F__init__.py", "LICENSE"]
)
def test_no_other_file_of_the_package_is_served(client, name):
    assert client.get(f"/docs/{name}").status_code == 404
