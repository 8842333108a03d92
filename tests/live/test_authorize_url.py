"""The operator's application says what requests may do; a hostile or absent one opens nothing."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from pushsvc.auth.api_keys import PREFIX, hash_of
from support.stack import Answer, Stack, Stream
from support.waiting import until

API_KEY = PREFIX + "producer-0123456789"
Reply = Callable[["Handler"], None]
SHOP = {"publish": ["orders"], "subscribe": ["orders", "news.>"]}


def answer(status: int, body: bytes, **headers: str) -> Reply:
    def reply(handler: Handler) -> None:
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return reply


def granted(seconds: float = 60, subject: str = "ann", **grants: Any) -> Reply:
    return answer(200, json.dumps({"pushsvc": grants or SHOP, "sub": subject, "expires_in": seconds}).encode())


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Site

    def do_GET(self) -> None:
        self.server.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        self.server.reply_to(self.headers.get("Cookie", ""))(self)

    def log_message(self, *_: Any) -> None:
        """Write nothing."""


class Site(ThreadingHTTPServer):
    """The application. ``replies`` are by the cookie of the request; others get 401."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.replies: dict[str, Reply] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/may?site=shop"

    def reply_to(self, cookie: str) -> Reply:
        return self.replies.get(cookie, answer(401, b""))

    def questions(self, cookie: str) -> list[dict[str, list[str]]]:
        return [parse_qs(urlsplit(path).query) for path, headers in self.asked if headers.get("cookie") == cookie]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    site = Site()
    threading.Thread(target=site.serve_forever, daemon=True).start()
    yield site
    site.shutdown()
    site.server_close()


@pytest.fixture(scope="module")
def asking(site: Site, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(redis_url, f"test-{os.getpid()}-asking:", tmp_path_factory.mktemp("asking")) as stack:
        stack.configure(
            f'authorize_url = "{site.url}"\nauthorize_headers = ["Cookie", "X-Tenant"]\nauthorize_timeout = 3.0\n'
            f'anonymous_subscribe = ["open"]\n[keys.producer]\nhash = "{hash_of(API_KEY)}"\npublish = ["orders"]\n'
        )
        stack.start_web()
        yield stack


def publish(stack: Stack, cookie: str | None, topic: str = "orders", **headers: str) -> Answer:
    headers |= {"Content_Type": "application/json"} | ({} if cookie is None else {"Cookie": cookie})
    return stack.request("POST", f"/v1/topics/{topic}/events", b'{"n": 1}', **headers)


def test_the_application_is_asked_with_the_cookies_and_chosen_headers(asking: Stack, site: Site) -> None:
    site.replies["s=1"] = granted()
    assert publish(asking, "s=1", X_Tenant="blue", X_Other="secret").status == 202
    path, headers = site.asked[-1]
    assert parse_qs(urlsplit(path).query) == {
        "site": ["shop"], "action": ["publish"], "topic": ["orders"], "address": ["127.0.0.1"],
    }  # fmt: skip
    assert (headers["cookie"], headers["x-tenant"]) == ("s=1", "blue")
    assert "x-other" not in headers
    assert publish(asking, "s=1", "vault").status == 403
    assert asking.get("/v1/stream?events=orders&events=news.*&format=sse", Cookie="s=2").status == 401
    assert site.questions("s=2")[-1]["topic"] == ["orders", "news.*"]
    assert asking.get("/v1/stream?sub=events/a.%253E%3Fkey=b&sub=latest/job.1&sub=../x", Cookie="s=2").status == 401
    assert site.questions("s=2")[-1]["topic"] == ["a.>", "job.1"]


def test_equal_questions_are_asked_once_while_the_answer_lasts(asking: Stack, site: Site) -> None:
    def slow(handler: Handler) -> None:
        time.sleep(0.3)
        granted()(handler)

    site.replies["s=3"] = slow
    with ThreadPoolExecutor(20) as clients:
        found = list(clients.map(lambda _: publish(asking, "s=3").status, range(20)))
    assert found == [202] * 20
    assert len(site.questions("s=3")) == 1
    site.replies["s=4"] = granted(1)
    until(lambda: publish(asking, "s=4").status == 202 and len(site.questions("s=4")) >= 2)


def test_a_stream_ends_with_the_answer(asking: Stack, site: Site) -> None:
    site.replies["s=5"] = granted(2)
    stream = Stream(asking.port, "/v1/topics/orders/events", {"Cookie": "s=5"})
    assert stream.status == 200
    assert b": the token has expired" in stream.rest()


def test_after_a_revocation_the_application_is_asked_again(asking: Stack, site: Site) -> None:
    site.replies["s=9"] = granted(subject="eve")
    site.replies["s=10"] = granted(subject="admin", manage=[">"])
    stream = Stream(asking.port, "/v1/topics/orders/events", {"Cookie": "s=9"})
    assert stream.status == 200
    stream.read()
    before = len(site.questions("s=9"))
    assert asking.request("DELETE", "/v1/sessions?sub=eve", Cookie="s=10").status == 200
    assert b": the access of this subject was revoked" in stream.rest()
    until(lambda: asking.get("/v1/topics/orders/events", Cookie="s=9").status == 200)
    assert len(site.questions("s=9")) > before


def test_refusals_leave_what_is_granted_to_everybody(asking: Stack, site: Site) -> None:
    site.replies["s=6"] = answer(403, b"")
    assert publish(asking, "s=6").status == 403
    assert publish(asking, None).status == 401
    assert asking.get("/v1/topics/open/events", Cookie="s=6").status == 200
    assert asking.get("/v1/topics/orders/events", Cookie="s=6").status == 403
    assert asking.get("/v1/topics/orders/events").status == 401


def test_an_api_key_is_not_asked_about(asking: Stack, site: Site) -> None:
    before = len(site.asked)
    assert publish(asking, "s=7", Authorization=f"Bearer {API_KEY}").status == 202
    assert len(site.asked) == before
    assert publish(asking, "s=7", Authorization="Bearer of.another.kind").status == 401
    assert len(site.asked) == before + 1


def drip(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    for _ in range(60):
        handler.wfile.write(b" ")
        time.sleep(0.1)


def hang_up(handler: Handler) -> None:
    handler.close_connection = True
    handler.connection.close()


HOSTILE: dict[str, Reply] = {
    "huge": answer(200, b" " * 100_000 + b"{}"),
    "endless head": answer(200, b"", X_Long="a" * 100_000),
    "slow": drip,
    "silent": lambda _: time.sleep(5),
    "gone": hang_up,
    "redirect": answer(302, b"", Location="http://127.0.0.1:1/"),
    "error": answer(500, b"{}"),
    "created": answer(201, json.dumps({"pushsvc": SHOP, "expires_in": 60}).encode()),
    "no JSON": answer(200, b"yes"),
    "no object": answer(200, b"[]"),
    "deep": answer(200, b"[" * 60_000),
    "not text": answer(200, b"\xff\xfe"),
    "no lifetime": answer(200, json.dumps({"pushsvc": SHOP}).encode()),
    "text for a lifetime": answer(200, json.dumps({"pushsvc": SHOP, "expires_in": "60"}).encode()),
    "no finite lifetime": answer(200, b'{"pushsvc": {"publish": [">"]}, "expires_in": NaN}'),
    "past": granted(-5),
    "unknown grants": answer(200, json.dumps({"pushsvc": {"write": [">"]}, "expires_in": 60}).encode()),
    "no subject": answer(200, json.dumps({"pushsvc": SHOP, "sub": 5, "expires_in": 60}).encode()),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_answer_refuses(asking: Stack, site: Site, name: str) -> None:
    cookie = f"h={name.replace(' ', '-')}"
    site.replies[cookie] = HOSTILE[name]
    refused = publish(asking, cookie)
    assert (refused.status, refused.json()["type"]) == (503, "urn:pushsvc:problem:application-unavailable")
    assert "Retry-After" in refused.headers
    with asking.stream("/v1/topics/orders/events", Cookie=cookie) as stream:
        assert stream.status == 200
        assert b"retry: " in stream.rest()
    site.replies[cookie] = granted()
    until(lambda: publish(asking, cookie).status == 202)


def test_questions_at_a_time_are_bounded_and_other_requests_go_on(asking: Stack, site: Site) -> None:
    under_way, most, lock = 0, Counter[str](), threading.Lock()

    def slow(handler: Handler) -> None:
        nonlocal under_way
        with lock:
            under_way += 1
            most["questions"] = max(most["questions"], under_way)
        time.sleep(0.1)
        with lock:
            under_way -= 1
        granted()(handler)

    for number in range(60):
        site.replies[f"b={number}"] = slow
    with ThreadPoolExecutor(60) as clients:
        found = [clients.submit(publish, asking, f"b={number}") for number in range(60)]
        assert asking.get("/readyz").status == 200
        statuses = Counter(one.result().status for one in found)
    assert set(statuses) <= {202, 503}
    assert 1 < most["questions"] <= 16


def test_cookies_of_a_page_of_another_site_do_not_publish(asking: Stack, site: Site) -> None:
    site.replies["s=8"] = granted()
    own = f"http://127.0.0.1:{asking.port}"
    assert publish(asking, "s=8", Origin=own, Sec_Fetch_Site="same-origin").status == 202
    assert publish(asking, "s=8", Origin="https://evil.example", Sec_Fetch_Site="cross-site").status == 403
    assert publish(asking, "s=8", Origin=own, Sec_Fetch_Site="cross-site").status == 403
