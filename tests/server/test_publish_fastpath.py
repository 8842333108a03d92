"""The publish fast path answers as Flask does; test_admission.py has the requests that it may answer."""

from __future__ import annotations

import json

import pytest

from pushsvc.broker.broker import Broker
from pushsvc.server.fastpath.publish import Publisher
from pushsvc.server.request import HeadLimits, parse_head
from pushsvc.web.app import context_of, create_app
from pushsvc.web.long_requests import UNKNOWN
from pushsvc.web.security import Security
from support.stack import Stack


@pytest.mark.parametrize(
    ("body", "status"),
    [(b'{"n":1}', 202), (b'[{"n":1},{"n":2}]', 202), (b'{"n":NaN}', 400), (b"", 400), (b"[]", 202), (b'{"$n":1}', 400)],
)
def test_the_answer_is_that_of_flask(shared_server: Stack, topic: str, body: bytes, status: int) -> None:
    fast = shared_server.post(topic, body)
    flask = shared_server.post(f"{topic}.other", body, query="?on_error=refuse")
    assert (fast.status, flask.status) in {(status, status), (400, 400)}
    for answer in (fast, flask):
        answer.headers.pop("Date")
        answer.headers.pop("X-Request-Id")
    assert {name: value for name, value in fast.headers.items() if name != "Content-Length"} == {
        name: value for name, value in flask.headers.items() if name != "Content-Length"
    }
    assert {**fast.json_without_id(), "topic": ""} == {**flask.json_without_id(), "topic": ""}


def test_a_bad_topic_is_the_same_problem(shared_server: Stack) -> None:
    fast = shared_server.post("a..b", b"{}")
    flask = shared_server.post("a..b", b"{}", query="?on_error=refuse")
    assert fast.status == flask.status == 400
    assert fast.json_without_id() == flask.json_without_id()


def test_an_unknown_host_is_refused(shared_server: Stack, topic: str) -> None:
    answer = shared_server.request(
        "POST", f"/v1/topics/{topic}/events", b'{"n":1}', Content_Type="application/json", Host="evil.example"
    )
    assert answer.status == 403
    assert json.loads(answer.body)["type"] == "urn:pushsvc:problem:forbidden"


def test_the_answer_varies_with_the_origin_if_origins_are_allowed(broker: Broker) -> None:
    security = Security(insecure=True, allow_origins=("http://a",))
    publisher = Publisher(context_of(create_app(broker, security=security)))
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\r\n"
    response = publisher.publish("t", parse_head(head, HeadLimits()), b'{"n":1}', UNKNOWN)
    assert ("Vary", "Origin") in response.headers
