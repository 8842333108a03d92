"""The stream cache answers a repeated request as Flask does."""

from __future__ import annotations

import re
import socket
from contextlib import ExitStack
from functools import partial
from typing import Any

import gevent
import pytest
from gevent.event import Event

from pushsvc.auth.grants import EVERYTHING
from pushsvc.server.fastpath.admission import Admission, StreamRequest
from pushsvc.server.fastpath.stream_cache import StreamCache
from pushsvc.server.request import HeadLimits, parse_head
from pushsvc.web.security import Security
from support.raw_http import read_until
from support.stack import Stack

ACCEPT = "Accept: text/event-stream"


def key(
    *fields: str, target: str = "/v1/stream?events=t", host: str = "localhost", version: str = "1.1"
) -> StreamRequest:
    head = "\r\n".join([f"GET {target} HTTP/{version}", f"Host: {host}", *fields, "", ""]).encode()
    found = Admission(Security(), 1_000).stream_request(parse_head(head, HeadLimits()))
    assert found is not None
    return found


def factory(cursor: str | None) -> Any:
    return cursor


def test_a_repeated_request_finds_the_head_and_the_stream_whatever_its_position() -> None:
    cache = StreamCache()
    assert cache.find(key(ACCEPT)) is None
    cache.remember(key(ACCEPT), "head", factory)
    for fields in ((), ("Last-Event-ID: abc", "User-Agent: x", "Sec-Fetch-Mode: cors", "X-Forwarded-For: 10.0.0.1")):
        found = cache.find(key(ACCEPT, *fields))
        assert found is not None
        assert (found.head, found.factory) == ("head", factory)


def test_equal_requests_wait_for_the_answer_to_the_first() -> None:
    """After a restart thousands of equal requests come before Flask has answered one of them."""
    cache, go, asked = StreamCache(), Event(), []

    def answer(number: int) -> str:
        wanted = key(ACCEPT)
        found = cache.find(wanted)
        if found is None:
            asked.append(number)
            with cache.answering(wanted):
                go.wait()
                cache.remember(wanted, "head", factory)
            return "head"
        return found.head

    greenlets = [gevent.spawn(answer, number) for number in range(100)]
    gevent.idle()
    assert cache.find(key(ACCEPT, target="/v1/stream?events=u")) is None, "another request does not wait"
    go.set()
    gevent.joinall(greenlets, raise_error=True)
    assert {one.value for one in greenlets} == {"head"}
    assert asked == [0]


def test_requests_that_waited_ask_for_themselves_if_the_first_was_not_remembered() -> None:
    cache, go = StreamCache(), Event()

    def answer() -> bool:
        wanted = key(ACCEPT)
        if cache.find(wanted) is None:
            with cache.answering(wanted):
                go.wait()
                return True
        return False

    greenlets = [gevent.spawn(answer) for _ in range(10)]
    gevent.idle()
    go.set()
    gevent.joinall(greenlets, raise_error=True)
    assert all(one.value for one in greenlets)
    with pytest.raises(ZeroDivisionError), cache.answering(key(ACCEPT)):
        _ = 1 / 0
    assert cache.find(key(ACCEPT)) is None, "a failure releases those that wait"


def test_no_request_waits_for_one_that_asks_for_no_stream() -> None:
    """The answer to a probe, or to a request with at_least=, may take seconds."""
    cache = StreamCache()
    with cache.answering(key()), cache.answering(key("Accept: application/json")):
        greenlets = [gevent.spawn(cache.find, key()), gevent.spawn(cache.find, key("Accept: application/json"))]
        gevent.idle()
        assert all(one.ready() for one in greenlets)


@pytest.mark.parametrize(
    "other",
    [
        key(),
        key("Accept: */*"),
        key(ACCEPT, host="localhost:8000"),
        key(ACCEPT, host="evil.example"),
        key(ACCEPT, "Origin: http://page.example"),
        key(ACCEPT, version="1.0"),
        key(ACCEPT, target="/v1/stream?events=u"),
        key(ACCEPT, target="/v1/topics/t/events"),
        key(ACCEPT, target="/v1/topics/t/events?names=off"),
    ],
    ids=str,
)
def test_a_different_request_finds_nothing(other: StreamRequest) -> None:
    cache = StreamCache()
    cache.remember(key(ACCEPT), "head", factory)
    assert cache.find(other) is None


def test_the_oldest_entry_is_dropped_at_the_limit() -> None:
    cache = StreamCache(max_entries=3)
    for number in range(4):
        cache.remember(key(ACCEPT, target=f"/{number}"), "head", partial(factory, str(number)))
    assert cache.find(key(ACCEPT, target="/0")) is None
    assert all(cache.find(key(ACCEPT, target=f"/{number}")) for number in (1, 2, 3))


@pytest.mark.parametrize(
    ("target", "args"),
    [
        ("/v1/topics/u/events", {}),
        ("/v1/topics/u/events?last_event_id=abc", {"last_event_id": ["abc"]}),
        ("/v1/topics/u/events?window=1m&window=", {"window": ["1m", ""]}),
        ("/v1/topics/u/events?key=u42&type=sale", {"key": ["u42"], "type": ["sale"]}),
    ],
)
def test_a_request_for_another_topic_finds_the_head_and_a_stream_of_its_own(
    target: str, args: dict[str, list[str]]
) -> None:
    made: list[Any] = []
    cache = StreamCache({"events": lambda *request: made.append(request)})
    cache.remember(key(ACCEPT, target="/v1/topics/t/events"), "head", factory)
    found = cache.find(key(ACCEPT, target=target))
    assert found is not None
    assert found.head == "head"
    found.factory("position")
    [(grants, topic, given, position)] = made
    assert grants is EVERYTHING
    assert (topic, given.to_dict(flat=False), position) == ("u", args, "position")


@pytest.mark.parametrize(
    "other",
    [
        key(ACCEPT, target="/v1/topics/u/stats"),
        key(ACCEPT, target="/v1/topics/u/events?format=json"),
        key(ACCEPT, target="/v1/topics/u/events?names=off"),
        key(ACCEPT, target="/v1/topics/u/events?window=%2a"),
        key("Accept: application/json", target="/v1/topics/u/events"),
        key(ACCEPT, "Origin: http://page.example", target="/v1/topics/u/events"),
        key(ACCEPT, target="/v1/topics/u/events", host="evil.example"),
        key(ACCEPT, target="/v1/topics/u/events", version="1.0"),
    ],
    ids=str,
)
def test_a_different_request_for_another_topic_finds_nothing(other: StreamRequest) -> None:
    cache = StreamCache()
    cache.remember(key(ACCEPT, target="/v1/topics/t/events"), "head", factory)
    assert cache.find(other) is None


def opened(stack: Stack, *lines: str) -> tuple[list[str], bytes]:
    """Return the head of a stream without its date and id, and the first bytes of the stream without its time."""
    with socket.create_connection(("127.0.0.1", stack.port), 60) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        head, _, body = read_until(connection, b": pushsvc\n").partition(b"\r\n\r\n")
    fields = [line for line in head.decode().split("\r\n") if not line.startswith(("Date: ", "X-Request-Id: "))]
    return fields, re.sub(rb'"at":[0-9]+', b'"at":0', body)


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("path", ["events", "stats", "events?heartbeat=event"])
def test_the_head_is_that_of_flask(shared_server: Stack, topic: str, path: str, version: str) -> None:
    lines = (f"GET /v1/topics/{topic}/{path} HTTP/{version}", "Host: localhost", ACCEPT)
    through_flask = opened(shared_server, *lines, "X-Unheard-Of: 1")
    first, second = opened(shared_server, *lines), opened(shared_server, *lines)
    assert first[0] == second[0] == through_flask[0]
    assert ("Transfer-Encoding: chunked" in first[0]) == (version == "1.1")
    assert first[1] == second[1] == through_flask[1]


@pytest.mark.parametrize(
    "path", ["events", "stats", "stats?window=1m", "stats?window=*", "events?last_event_id=earliest"]
)
def test_the_stream_of_another_topic_is_that_of_flask(shared_server: Stack, topic: str, path: str) -> None:
    def ask(name: str, *lines: str) -> tuple[list[str], bytes]:
        return opened(shared_server, f"GET /v1/topics/{name}/{path} HTTP/1.1", "Host: localhost", ACCEPT, *lines)

    ask(f"{topic}.first")
    head, body = ask(f"{topic}.second")
    assert head == ask(f"{topic}.second", "X-Unheard-Of: 1")[0]
    assert b": pushsvc\n" in body


def test_streams_of_different_topics_have_their_own_events(shared_server: Stack, topic: str) -> None:
    names = [f"{topic}.{number}" for number in range(20)]
    with ExitStack() as opened_streams:
        streams = [
            opened_streams.enter_context(shared_server.stream(f"/v1/topics/{name}/events", Host="localhost"))
            for name in names
        ]
        for number, name in enumerate(names):
            assert shared_server.post(name, {"number": number}).status == 202
        assert [stream.until(lambda _, data: "number" in data)["number"] for stream in streams] == list(range(20))


@pytest.mark.parametrize(
    "path",
    [
        "/v1/topics/a..b/events",
        f"/v1/topics/{'a' * 201}/events",
        "/v1/topics/t/events?window=1m",
        "/v1/topics/t/events?key=a&key=b",
        "/v1/topics/t/stats?type=a",
        "/v1/topics/t/events?last_event_id=a&last_event_id=b",
        "/v1/topics/t/stats?window=",
        "/v1/topics/t/stats?window=unheard-of",
        "/v1/topics/t/stats?window=1m&window=1m",
    ],
)
def test_a_bad_request_is_refused_after_a_good_one_too(shared_server: Stack, path: str) -> None:
    accept = {"Accept": "text/event-stream"}
    lines = ("GET /v1/topics/good/{} HTTP/1.1", "Host: localhost", ACCEPT)
    for resource in ("events", "stats"):
        opened(shared_server, lines[0].format(resource), *lines[1:])
    through_flask = shared_server.get(path, **accept, **{"X-Unheard-Of": "1"})
    refused = shared_server.get(path, **accept)
    assert refused.status == through_flask.status == 400
    assert refused.json_without_id() == through_flask.json_without_id()


def test_each_origin_and_each_host_gets_its_own_answer(stack: Stack, topic: str) -> None:
    stack.start_web("--allow-origin", "http://page.example")
    lines = (f"GET /v1/topics/{topic}/events HTTP/1.1", ACCEPT)
    allowed = "Access-Control-Allow-Origin: http://page.example"
    for _ in range(2):
        assert allowed in opened(stack, *lines, "Host: localhost", "Origin: http://page.example")[0]
        assert allowed not in opened(stack, *lines, "Host: localhost", "Origin: http://other.example")[0]
        assert stack.get(f"/v1/topics/{topic}/events", Accept="text/event-stream", Host="evil.example").status == 403
