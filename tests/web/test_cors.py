"""Pages of other origins: who may do what, and what their browsers are told."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient

from pushsvc.broker.broker import Broker
from pushsvc.web.app import create_app
from pushsvc.web.cors import Origins
from pushsvc.web.security import Security

TOPIC = "/v1/topics/feedback"
URL = f"{TOPIC}/events"
READS, POSTS, WRITES = "https://read.example", "https://post.example", "https://a.write.example"
STRANGE = "https://other.example"
COOKIE = {"Cookie": "__Host-pushsvc=x"}


@pytest.fixture
def client(broker: Broker) -> FlaskClient:
    security = Security(
        allow_origins=(POSTS,), allow_read_origins=(READS,), allow_write_origins=("https://*.write.example",)
    )
    return create_app(broker, security=security).test_client(use_cookies=False)


MATCHES = [
    ("https://*.example.com", "https://a.example.com", True),
    ("https://*.example.com", "https://a.b-c.example.com", True),
    ("https://*.example.com", "https://example.com", False),
    ("https://*.example.com", "https://.example.com", False),
    ("https://*.example.com", "https://a..example.com", False),
    ("https://*.example.com", "https://evilexample.com", False),
    ("https://*.example.com", "https://a.example.com.evil.example", False),
    ("https://*.example.com", "https://evil.example/.example.com", False),
    ("https://*.example.com", "https://user@a.example.com", False),
    ("https://*.example.com", "https://a:1.example.com", False),
    ("https://*.example.com", "http://a.example.com", False),
    ("https://*.example.com", "https://a.example.com:8443", False),
    ("https://*.example.com:8443", "https://a.example.com:8443", True),
    ("https://*.example.com:8443", "https://a.example.com", False),
    ("https://*.example.com", "https://A.example.com", False),
    ("https://*.example.com", "https://a.example.com\n", False),
    ("https://a.example.com", "https://a.example.com", True),
    ("https://a.example.com", "https://b.a.example.com", False),
]


@pytest.mark.parametrize(("pattern", "origin", "matches"), MATCHES)
def test_a_pattern_stands_for_one_or_more_labels(pattern: str, origin: str, matches: bool) -> None:
    assert (origin in Origins([pattern])) is matches


ALLOWED = [
    ("GET", READS, 200), ("POST", READS, 403), ("DELETE", READS, 403),
    ("GET", POSTS, 200), ("POST", POSTS, 202), ("DELETE", POSTS, 403),
    ("GET", WRITES, 200), ("POST", WRITES, 202), ("DELETE", WRITES, 204),
    ("GET", STRANGE, 200), ("POST", STRANGE, 403), ("DELETE", STRANGE, 403),
]  # fmt: skip


@pytest.mark.parametrize(("method", "origin", "status"), ALLOWED)
def test_each_list_allows_its_methods(client: FlaskClient, method: str, origin: str, status: int) -> None:
    path = TOPIC if method == "DELETE" else URL
    answer = client.open(path, method=method, json={"a": 1} if method == "POST" else None, headers={"Origin": origin})
    assert answer.status_code == status
    if status == 403:
        option = "--allow-origin" if method == "POST" else "--allow-write-origin"
        assert f"{option} {origin} would allow it" in answer.json["detail"]


@pytest.mark.parametrize("origin", [READS, POSTS, WRITES])
@pytest.mark.parametrize(("path", "status"), [(URL, 200), ("/nothing", 404), (f"{URL}?limit=x", 400)])
def test_every_answer_to_a_listed_origin_may_be_read_with_credentials(
    client: FlaskClient, origin: str, path: str, status: int
) -> None:
    answer = client.get(path, headers={"Origin": origin})
    assert answer.status_code == status
    assert answer.headers["Access-Control-Allow-Origin"] == origin
    assert answer.headers["Access-Control-Allow-Credentials"] == "true"
    exposed = answer.headers["Access-Control-Expose-Headers"].split(", ")
    assert {"ETag", "Link", "Retry-After", "RateLimit", "RateLimit-Policy", "X-Request-Id"} <= set(exposed)
    assert "Origin" in answer.headers["Vary"]


@pytest.mark.parametrize("origin", [None, STRANGE, "null", "*", "https://write.example", f"{READS}.evil.example"])
def test_no_other_origin_is_named(client: FlaskClient, origin: str | None) -> None:
    answer = client.get(URL, headers={} if origin is None else {"Origin": origin})
    assert not [name for name, _ in answer.headers if name.startswith("Access-Control")]
    assert "Origin" in answer.headers["Vary"]


def test_without_a_list_answers_do_not_vary_by_origin(broker: Broker) -> None:
    answer = create_app(broker).test_client().get(URL, headers={"Origin": STRANGE})
    assert "Origin" not in answer.headers.get("Vary", "")


PREFLIGHTS = [
    (READS, "GET, HEAD"),
    (POSTS, "GET, HEAD, POST"),
    (WRITES, "GET, HEAD, POST, PUT, PATCH, DELETE"),
]


@pytest.mark.parametrize(("origin", "methods"), PREFLIGHTS)
def test_a_preflight_names_the_methods_of_the_list(client: FlaskClient, origin: str, methods: str) -> None:
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "ce-id, x-a"}
    answer = client.options(URL, headers=asked)
    assert answer.status_code == 204
    assert answer.headers["Access-Control-Allow-Origin"] == origin
    assert answer.headers["Access-Control-Allow-Credentials"] == "true"
    assert answer.headers["Access-Control-Allow-Methods"] == methods
    allowed = answer.headers["Access-Control-Allow-Headers"].lower().split(", ")
    assert {"authorization", "content-type", "idempotency-key", "last-event-id", "ce-id"} <= set(allowed)
    assert "x-a" not in allowed
    assert int(answer.headers["Access-Control-Max-Age"]) >= 600
    assert "Origin" in answer.headers["Vary"]


def test_a_preflight_of_another_origin_allows_nothing(client: FlaskClient) -> None:
    answer = client.options(URL, headers={"Origin": STRANGE, "Access-Control-Request-Method": "POST"})
    assert not [name for name, _ in answer.headers if name.startswith("Access-Control")]


COOKIE_WRITES = [
    # Origin, Sec-Fetch-Site, further headers, status
    (POSTS, "cross-site", {}, 202),
    (POSTS, "cross-site", COOKIE, 403),
    (POSTS, "cross-site", COOKIE | {"Authorization": "Bearer x"}, 202),  # the header wins over the cookie
    (POSTS, "same-site", COOKIE, 202),
    (POSTS, None, COOKIE, 202),
    ("http://localhost", "same-origin", COOKIE, 202),
    (STRANGE, "same-site", COOKIE, 403),
    (STRANGE, "cross-site", COOKIE, 403),
    (None, "cross-site", COOKIE, 403),
    (None, None, COOKIE, 202),  # no browser
]


@pytest.mark.parametrize(("origin", "site", "further", "status"), COOKIE_WRITES)
def test_the_cookie_writes_for_pages_of_the_same_site_only(
    client: FlaskClient, origin: str | None, site: str | None, further: dict[str, str], status: int
) -> None:
    named = {"Origin": origin, "Sec-Fetch-Site": site, **further}
    headers = {name: value for name, value in named.items() if value is not None}
    assert client.post(URL, json={"a": 1}, headers=headers).status_code == status


def test_a_beacon_of_an_own_page_may_write_although_its_origin_is_null(client: FlaskClient) -> None:
    """A page with our Referrer-Policy hides its origin in a beacon; a sandboxed page of any site has none."""
    sent = {"Origin": "null", "Content-Type": "text/plain"}
    assert client.post(URL, data=b"{}", headers=sent | {"Sec-Fetch-Site": "same-origin"}).status_code == 202
    assert client.post(URL, data=b"{}", headers=sent | {"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert client.post(URL, data=b"{}", headers=sent).status_code == 403


def test_every_answer_has_the_headers_that_protect_pages(client: FlaskClient) -> None:
    for path in ("/", URL, "/nothing", "/docs", "/static/page.js", "/livez"):
        headers = client.get(path).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
