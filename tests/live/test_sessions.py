"""Streams end with their tokens: at the expiry, and when the subject is revoked, in all web processes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from http.client import HTTPConnection
from typing import Any

import jwt
import pytest

from support.proxy import Proxy
from support.stack import Stack, Stream
from support.waiting import until

SECRET = "a secret of more than thirty-two bytes"
SETTINGS = f'jwt_key = "{SECRET}"\njwt_leeway = 0\n'
PATH = "/v1/topics/orders/events"


def token(subject: str = "u42", seconds: float = 86_400, **claims: Any) -> str:
    grants = {"subscribe": [">"], **claims.pop("pushsvc", {})}
    now = time.time()
    return jwt.encode({"iat": now, "exp": now + seconds, "sub": subject, "pushsvc": grants, **claims}, SECRET, "HS256")


ADMIN = token("admin", pushsvc={"manage": [">"], "publish": [">"]})


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


@pytest.fixture(scope="module")
def guarded(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(redis_url, f"test-{os.getpid()}-sessions:", tmp_path_factory.mktemp("sessions")) as stack:
        stack.configure(SETTINGS)
        stack.start_web("--workers", "2")
        yield stack


def opened(stack: Stack, path: str, text: str) -> Stream:
    """Return a stream that has begun."""
    stream = Stream(stack.port, path, bearer(text))
    assert stream.status == 200
    stream.read()
    return stream


def revoke(stack: Stack, subject: str) -> None:
    answer = stack.request("DELETE", f"/v1/sessions?sub={subject}", **bearer(ADMIN))
    assert (answer.status, answer.json()["sub"]) == (200, subject)


@pytest.mark.parametrize("path", [
    PATH, "/v1/topics/orders/stats", "/v1/stream?events=orders", "/v1/topics?format=sse",
    "/v1/stream?sub=events/orders&sub=stats/orders&sub=latest/job.1",
])  # fmt: skip
def test_a_stream_ends_when_its_token_expires(guarded: Stack, path: str) -> None:
    with ExitStack() as streams:
        brief, long = opened(guarded, path, token(seconds=3)), opened(guarded, path, token())
        streams.callback(long.close)
        assert b"\nretry: " in b"\n" + (rest := brief.rest())
        assert b": the token has expired" in rest
        assert b": the token" not in long.raw


def test_revoking_ends_the_streams_of_a_subject_and_refuses_its_tokens(guarded: Stack) -> None:
    old, of_other = token("u7"), token("u8")
    streams = [opened(guarded, PATH, old) for _ in range(8)]  # of both processes
    other = opened(guarded, PATH, of_other)
    revoke(guarded, "u7")
    for stream in streams:
        assert b": the access of this subject was revoked" in stream.rest()

    def status(text: str) -> int:
        return guarded.get("/v1/topics", **bearer(text)).status

    for refused in (old, token("u7", iat=None), token("u7", iat=time.time() - 5)):
        assert {status(refused) for _ in range(8)} == {401}
    assert {status(of_other) for _ in range(8)} == {200}
    assert b"revoked" not in other.raw
    other.close()
    until(lambda: status(token("u7")) == 200)
    guarded.restart_web()
    assert {status(old) for _ in range(8)} == {401}
    assert status(token("u7")) == 200


def test_revoking_ends_streams_of_several_subscriptions_and_leaves_their_groups_to_others(guarded: Stack) -> None:
    path = "/v1/stream?sub=events/orders&sub=events/orders%3Fkey=a"
    gone = [opened(guarded, path, token("u21")) for _ in range(6)]
    kept = [opened(guarded, path, token("u22")) for _ in range(6)]
    revoke(guarded, "u21")
    for stream in gone:
        assert b": the access of this subject was revoked" in stream.rest()
    answer = guarded.request("POST", PATH, b'{"key": "a"}', **bearer(ADMIN), **{"Content-Type": "application/json"})
    assert answer.status == 202
    for stream in kept:
        assert {stream.frame()[1]["$sub"] for _ in range(2)} == {"events/orders", "events/orders?key=a"}
        stream.close()


def test_a_producer_that_repeats_itself_is_refused_from_the_revocation_on(guarded: Stack) -> None:
    """Repeated posts on one connection are answered without a look at their token, until it does not hold any more."""
    headers = bearer(token("u13", pushsvc={"publish": ["orders"]})) | {"Content-Type": "application/json"}
    connection = HTTPConnection("127.0.0.1", guarded.port, timeout=60)

    def post() -> int:
        connection.request("POST", f"{PATH}", b'{"n": 1}', headers)
        response = connection.getresponse()
        response.read()
        return response.status

    assert [post() for _ in range(20)] == [202] * 20
    revoke(guarded, "u13")
    until(lambda: post() == 401)
    assert [post() for _ in range(5)] == [401] * 5
    connection.close()


def test_only_manage_over_everything_revokes(guarded: Stack) -> None:
    for grants, expected in (({}, 403), ({"manage": ["orders"]}, 403), ({"manage": [">"]}, 200)):
        answer = guarded.request("DELETE", "/v1/sessions?sub=nobody", **bearer(token(pushsvc=grants)))
        assert answer.status == expected
    assert guarded.request("DELETE", "/v1/sessions?sub=nobody").status == 401
    for query in ("", "?sub=", "?sub=a%00", "?sub=" + "a" * 201, "?sub=a&sub=b", "?subject=a"):
        assert guarded.request("DELETE", f"/v1/sessions{query}", **bearer(ADMIN)).status == 400


def test_a_process_without_redis_ends_the_streams_after_it_is_back(
    guarded: Stack, proxy: Proxy, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A web process is cut off while a subject is revoked elsewhere: it must notice when it is connected again."""
    with Stack(proxy.url, guarded.prefix, tmp_path_factory.mktemp("cut-off")) as cut_off:
        cut_off.configure(SETTINGS)
        cut_off.start_web()
        old = token("u9")
        stream, other = opened(cut_off, PATH, old), opened(cut_off, PATH, token("u10"))
        proxy.upward = proxy.downward = lambda _: None
        revoke(guarded, "u9")
        until(lambda: not cut_off.ready())
        assert b"revoked" not in stream.raw  # the last known state holds
        proxy.upward = proxy.downward = lambda data: data
        assert b": the access of this subject was revoked" in stream.rest()
        assert cut_off.get("/v1/topics", **bearer(old)).status == 401
        assert b"revoked" not in other.raw
        other.close()


def test_a_subject_holds_as_many_streams_as_its_token_allows(guarded: Stack) -> None:
    text = token("u11", pushsvc={"connections": 2})
    held = [opened(guarded, PATH, text) for _ in range(2)]
    refused = Stream(guarded.port, PATH, bearer(text))
    assert refused.status == 200
    assert b"retry: " in (rest := refused.rest())
    assert b": more than 2 streams of your token" in rest
    opened(guarded, PATH, token("u12", pushsvc={"connections": 2})).close()
    held.pop().close()

    def opens() -> bool:
        stream = Stream(guarded.port, PATH, bearer(text))
        stream.read()
        held.append(stream)
        return b"more than" not in stream.raw

    until(opens)
    for stream in held:
        stream.close()
