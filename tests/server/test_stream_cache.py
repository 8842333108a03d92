"""Equal requests for streams: what the second one is granted is what Flask would say."""

from __future__ import annotations

import socket
from functools import partial
from typing import Any

import pytest

from pushsvc.server.fastpath.stream_cache import Granted
from pushsvc.server.protocol import Bounds, Request, parse_head
from support.raw import read_until
from support.stack import Stack


def get(*fields: str, target: str = "/v1/topics/t/events", method: str = "GET", host: str = "localhost") -> Request:
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *fields]
    return parse_head("\r\n".join([*lines, "", ""]).encode(), Bounds())


def again(cursor: str | None) -> Any:
    return cursor


ACCEPT = "Accept: text/event-stream"


def test_an_equal_request_is_granted_the_same_whatever_its_position() -> None:
    granted = Granted()
    assert granted.find(get(ACCEPT)) is None
    granted.remember(get(ACCEPT), "head", again)
    for fields in ((), ("Last-Event-ID: abc", "User-Agent: x", "Sec-Fetch-Mode: cors", "X-Forwarded-For: 10.0.0.1")):
        found = granted.find(get(ACCEPT, *fields))
        assert found is not None
        assert (found.head, found.again) == ("head", again)


@pytest.mark.parametrize(
    "request_",
    [
        get(),
        get("Accept: */*"),
        get(ACCEPT, host="localhost:8000"),
        get(ACCEPT, host="evil.example"),
        get(ACCEPT, "Origin: http://page.example"),
        get(ACCEPT, target="/v1/topics/u/events"),
        get(ACCEPT, target="/v1/topics/%74/events"),
        get(ACCEPT, target="/v1/topics/t/events?names=off"),
        get(ACCEPT, target="/v1/topics/t/events?last_event_id=a"),
        get(ACCEPT, method="HEAD"),
        get(ACCEPT, method="POST"),
        *[
            get(ACCEPT, f"{name}: x")
            for name in ("Cookie", "Authorization", "If-None-Match", "Range", "X-HTTP-Method-Override", "X-Unheard-Of")
        ],
        get(ACCEPT, "Content-Length: 1"),
        get(ACCEPT, "Transfer-Encoding: chunked"),
    ],
    ids=lambda request: f"{request.method} {request.path}?{request.query} {request.headers}",
)
def test_any_other_is_not(request_: Request) -> None:
    granted = Granted()
    granted.remember(get(ACCEPT), "head", again)
    assert granted.find(request_) is None


@pytest.mark.parametrize("name", ["last_event_id", "last%5Fevent_id", "%6cast_event_id"])
def test_a_position_in_the_query_is_not_remembered(name: str) -> None:
    """What makes the stream again has none: the second one would begin with what comes."""
    asked = get(ACCEPT, target=f"/v1/topics/t/events?{name}=earliest")
    granted = Granted()
    granted.remember(asked, "head", again)
    assert granted.find(asked) is None


def test_what_is_remembered_is_bounded() -> None:
    granted = Granted()
    granted.remember(get(ACCEPT, target=f"/v1/stream?events={'a' * 2_000}"), "head", again)
    assert granted.find(get(ACCEPT, target=f"/v1/stream?events={'a' * 2_000}")) is None
    for number in range(513):
        granted.remember(get(ACCEPT, target=f"/{number}"), "head", partial(again, str(number)))
    assert granted.find(get(ACCEPT, target="/0")) is None
    assert granted.find(get(ACCEPT, target="/512")) is not None


def opened(stack: Stack, *lines: str) -> tuple[list[str], bytes]:
    """Return the head of a stream without its date, and what it begins with."""
    with socket.create_connection(("127.0.0.1", stack.port), 60) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        head, _, body = read_until(connection, b": pushsvc\n").partition(b"\r\n\r\n")
    return [line for line in head.decode().split("\r\n") if not line.startswith("Date: ")], body


@pytest.mark.parametrize("path", ["events", "stats", "events?heartbeat=event"])
def test_the_head_is_that_of_flask(shared_server: Stack, topic: str, path: str) -> None:
    lines = (f"GET /v1/topics/{topic}/{path} HTTP/1.1", "Host: localhost", ACCEPT)
    through_flask = opened(shared_server, *lines, "X-Unheard-Of: 1")
    first, second = opened(shared_server, *lines), opened(shared_server, *lines)
    assert first[0] == second[0] == through_flask[0]
    assert first[1] == second[1] == through_flask[1]


def test_origins_and_hosts_are_judged_each_for_itself(stack: Stack, topic: str) -> None:
    stack.start_web("--allow-origin", "http://page.example")
    lines = (f"GET /v1/topics/{topic}/events HTTP/1.1", ACCEPT)
    allowed = "Access-Control-Allow-Origin: http://page.example"
    for _ in range(2):
        assert allowed in opened(stack, *lines, "Host: localhost", "Origin: http://page.example")[0]
        assert allowed not in opened(stack, *lines, "Host: localhost", "Origin: http://other.example")[0]
        assert stack.get(f"/v1/topics/{topic}/events", Accept="text/event-stream", Host="evil.example").status == 403
