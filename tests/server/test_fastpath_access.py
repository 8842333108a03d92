"""Fast paths of requests with tokens: who is admitted, and that nothing remembered outlives its grants."""

from __future__ import annotations

import socket
import time
from typing import Any

import jwt
import pytest
from gevent.event import Event

from pushsvc.auth.access import Access
from pushsvc.auth.grants import EVERYTHING, read_grants
from pushsvc.auth.tokens import Issuer, Verifier, read_key
from pushsvc.server.fastpath.admission import Admission
from pushsvc.server.fastpath.post_batcher import PostBatcher
from pushsvc.server.request import HeadLimits, Request, parse_head
from pushsvc.web.security import Security
from support.raw_http import read_until
from support.stack import Stack
from support.waiting import until

SECRET = "a secret of more than thirty-two bytes"


def token(seconds: float = 86_400, subject: str = "u42", **grants: Any) -> str:
    return jwt.encode({"exp": time.time() + seconds, "sub": subject, "pushsvc": grants}, SECRET, "HS256")


def access() -> Access:
    return Access(
        Verifier([Issuer([read_key(SECRET, "HS256")], leeway=0)]), anonymous=read_grants({"publish": ["open"]})
    )


def admission(of: Access | None = None) -> Admission:
    return Admission(Security(), 1_000, of or access())


def head(method: str, target: str, *fields: str) -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: localhost", *fields, "", ""]).encode()


def post(*fields: str, topic: str = "a") -> bytes:
    return head("POST", f"/v1/topics/{topic}/events", "Content-Type: application/json", "Content-Length: 2", *fields)


def bearer(text: str) -> str:
    return f"Authorization: Bearer {text}"


def parsed(data: bytes) -> Request:
    return parse_head(data, HeadLimits())


@pytest.mark.parametrize(
    ("fields", "topic", "admitted"),
    [
        ([bearer(token(publish=["a"]))], "a", True),
        ([bearer(token(publish=[">"]))], "a", True),
        ([], "open", True),
        ([bearer(token())], "open", True),
        ([], "a", False),
        ([bearer(token(publish=["b"]))], "a", False),
        ([bearer(token(publish=[{"topics": "a", "keys": ["k"]}]))], "a", False),
        ([bearer(token(-1, publish=["a"]))], "a", False),
        ([bearer("nonsense")], "open", False),
        (["Authorization: Basic dTpw"], "open", False),
        ([bearer(token(publish=["a"])), bearer(token(publish=["a"]))], "a", False),
    ],
)
def test_who_may_publish_without_flask(fields: list[str], topic: str, admitted: bool) -> None:
    of, request = admission(), parsed(post(*fields, topic=topic))
    assert of.publish_topic(request) == topic
    assert (of.publisher(request, topic) is not None) is admitted


def test_what_the_application_of_the_operator_decides_goes_to_flask() -> None:
    """Even where anonymous grants would do: it may grant more, and to a subject."""
    anonymous = read_grants({"publish": ["open"], "subscribe": ["open"]})
    of = admission(Access(Verifier([]), anonymous=anonymous, asks_application=True))
    for fields in ([], ["Cookie: session=1"], [bearer(token(publish=["open"]))]):
        stream = parsed(head("GET", "/v1/stream?events=*", *fields))
        assert of.stream_request(stream) is None
        post_ = parsed(post(*fields, topic="open"))
        assert of.publish_topic(post_) is None or of.publisher(post_, "open") is None


def test_a_post_with_a_cookie_goes_to_flask_which_looks_at_its_origin() -> None:
    assert admission().publish_topic(parsed(post(f"Cookie: __Host-pushsvc={token(publish=['a'])}"))) is None


@pytest.mark.parametrize(
    ("target", "field", "admitted"),
    [
        ("/v1/topics/a/events", bearer(token(subscribe=["a"])), True),
        ("/v1/topics/a/stats", f"Cookie: x=y; __Host-pushsvc={token(subscribe=['*'])}", True),
        ("/v1/stream?events=a", bearer(token(subscribe=["a"])), True),
        ("/v1/topics/a/events", bearer(token(subscribe=["b"])), False),
        ("/v1/topics/a/events", bearer(token(-1, subscribe=["a"])), False),
        (f"/v1/topics/a/events?token={token(subscribe=['a'])}", "Accept: */*", False),
        (f"/v1/stream?events=a&%74oken={token(subscribe=['a'])}", "Accept: */*", False),
    ],
)
def test_who_may_get_a_remembered_stream(target: str, field: str, admitted: bool) -> None:
    assert (admission().stream_request(parsed(head("GET", target, field))) is not None) is admitted


def test_requests_share_what_their_grants_allow() -> None:
    def key(target: str, **grants: Any) -> Any:
        found = admission().stream_request(parsed(head("GET", target, bearer(token(**grants)))))
        assert found is not None
        return found.key

    several = "/v1/stream?events=*"
    assert key(several, subscribe=["a", "b"]) == key(several, subscribe=["b", "a"], subject="u43")
    assert key(several, subscribe=["a", "b"]) != key(several, subscribe=["a"])
    assert key(several, subscribe=["a"]) != key(several, subscribe=[{"topics": "a", "keys": ["k"]}])
    one = "/v1/topics/a/events"  # its stream is made anew, from the grants of each request
    assert key(one, subscribe=["a"]) == key(one, subscribe=[{"topics": "a", "keys": ["k"]}])


class NoPublisher:
    """The batcher of these tests claims requests, and publishes none."""


def test_repetitions_are_claimed_while_their_token_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    of = access()
    batcher = PostBatcher(NoPublisher(), admission(of), Event())  # type: ignore[arg-type]
    first, other = (post(bearer(token(publish=["a"], subject=subject))) for subject in ("u42", "u43"))
    grants = {}
    for data in (first, other):
        request = parsed(data)
        grants[data] = batcher._admission.publisher(request, "a")
        assert grants[data] is not None
        assert batcher.remember(data, request, grants[data])

    def claimed(data: bytes, of: bytes) -> int:
        found = grants[of]
        assert found is not None
        return batcher.claim(data + b"{}", object(), (), found).size  # type: ignore[arg-type]

    assert claimed(first, first) == len(first) + 2
    assert claimed(first, other) == 0  # it would count for another subject
    assert batcher.claim(first + b"{}", object(), (), EVERYTHING).size == 0  # type: ignore[arg-type]
    ungranted = first.replace(b"/v1/topics/a/", b"/v1/topics/b/")
    assert claimed(ungranted, first) == 0
    monkeypatch.setattr(of, "is_current", lambda grants, now: False)
    assert claimed(first, first) == 0


def test_posts_to_topics_of_which_some_keys_are_granted_are_not_claimed() -> None:
    batcher = PostBatcher(NoPublisher(), admission(), Event())  # type: ignore[arg-type]
    data = post(bearer(token(publish=["a.*", {"topics": "b", "keys": ["k"]}])), topic="a.1")
    grants = batcher._admission.publisher(parsed(data), "a.1")
    assert grants is not None
    assert batcher.remember(data, parsed(data), grants)
    for topic, claims in (("a.2", True), ("b", False), ("c", False)):
        found = data.replace(b"/a.1/", f"/{topic}/".encode())
        assert bool(batcher.claim(found + b"{}", object(), (), grants).size) is claims  # type: ignore[arg-type]


def test_a_connection_is_refused_once_its_token_has_expired(stack: Stack) -> None:
    """Publishing, batches of posts and remembered streams all end with the token."""
    stack.environment["PUSHSVC_JWT_KEY"] = SECRET
    stack.start_web("--jwt-leeway", "0")
    short, long, other = token(5, publish=["a"]), token(subscribe=["a"]), token(subscribe=["b"])
    body = post(bearer(short)) + b"{}"
    connection = socket.create_connection(("127.0.0.1", stack.port), timeout=60)
    statuses: list[bytes] = []

    def next_status() -> bytes:
        connection.sendall(body)
        answer = read_until(connection, b"}")
        statuses.append(answer[9:12])
        return statuses[-1]

    until(lambda: next_status() == b"401")
    assert set(statuses[:-1]) == {b"202"}
    assert len(statuses) > 3  # one by itself, then repetitions of its head
    connection.close()
    for path in ("/v1/topics/a/events", "/v1/stream?events=a"):
        for credentials, status in ((long, 200), (long, 200), (other, 403), (short, 401), (None, 401), (long, 200)):
            headers = {} if credentials is None else {"Authorization": f"Bearer {credentials}"}
            with stack.stream(path, **headers) as stream:
                assert stream.status == status, (path, status)


def test_a_remembered_stream_ends_with_the_token_of_its_own_request(stack: Stack) -> None:
    stack.environment["PUSHSVC_JWT_KEY"] = SECRET
    stack.start_web("--jwt-leeway", "0")
    short, long = ({"Authorization": f"Bearer {token(seconds, subscribe=['a'])}"} for seconds in (5, 600))
    for path in ("/v1/topics/a/events", "/v1/stream?events=a", "/v1/topics?format=sse"):
        with stack.stream(path, **long) as first, stack.stream(path, **long) as second:
            with stack.stream(path, **short) as third:  # the head of the first, but not its end
                assert third.status == 200
                assert b"expired" in third.rest()
            assert second.read()
            assert b"expired" not in first.raw + second.raw
        short = {"Authorization": f"Bearer {token(2, subscribe=['a'])}"}
