"""The direct lane of the publish call: the same as through Flask, and only where nobody could tell the difference."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import flask
import pytest
from flask import Flask, Response

from pushsvc.broker.broker import Broker
from pushsvc.event import Limits
from pushsvc.server.fastpath.publish import Lane
from pushsvc.server.protocol import Bounds, Request, parse_head
from pushsvc.web.app import create_app
from pushsvc.web.security import Security
from support.stack import Stack


@pytest.fixture
def app(broker: Broker) -> Flask:
    return create_app(broker, limits=Limits(body=1_000))


def post(*fields: str, target: str = "/v1/topics/t/events", method: str = "POST", host: str = "localhost") -> Request:
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *fields]
    return parse_head("\r\n".join([*lines, "", ""]).encode(), Bounds())


JSON, LENGTH = "Content-Type: application/json", "Content-Length: 10"


def test_a_plain_publish_call_takes_the_lane(app: Flask) -> None:
    lane = Lane.of(app)
    assert lane is not None
    assert lane.topic_of(post(JSON, LENGTH)) == "t"
    assert lane.topic_of(post(JSON, LENGTH, "User-Agent: a", "Accept: */*", "Connection: keep-alive")) == "t"
    assert lane.topic_of(post("Content-Type: text/csv; charset=utf-8", LENGTH, target="/v1/topics/a.b/events")) == "a.b"
    assert lane.topic_of(post(JSON, LENGTH, host="127.0.0.1:8000")) == "t"


@pytest.mark.parametrize(
    "request_",
    [
        post(JSON, LENGTH, method="PUT"),
        post(JSON, LENGTH, target="/v1/topics/t/events?on_error=skip"),
        post(JSON, LENGTH, target="/v1/topics/%74/events"),
        post(JSON, LENGTH, target="/v1/topics/a/b/events"),
        post(JSON, LENGTH, target="/v1/topics//events"),
        post(JSON, LENGTH, target="/v1/topics/events"),
        post(JSON, LENGTH, target="/v1/topics/t/events/"),
        post(LENGTH),
        post("Content-Type: text/plain", LENGTH),
        post("Content-Type: application/x-www-form-urlencoded", LENGTH),
        post(JSON),
        post(JSON, "Transfer-Encoding: chunked"),
        post(JSON, "Content-Length: 1001"),
        *[
            post(JSON, LENGTH, f"{name}: 100-continue")
            for name in (
                "Expect", "Origin", "Cookie", "Authorization", "Content-Encoding", "Idempotency-Key", "X-Forwarded-For",
                "X-Forwarded-Host", "Forwarded", "X-HTTP-Method-Override", "Upgrade", "X-Unheard-Of",
            )
        ],
        post(JSON, LENGTH, host="evil.example"),
        post(JSON, LENGTH, host=""),
    ],
    ids=lambda request: f"{request.method} {request.path}?{request.query} {request.headers}",
)  # fmt: skip
def test_whatever_is_in_doubt_does_not(app: Flask, request_: Request) -> None:
    lane = Lane.of(app)
    assert lane is not None
    assert lane.topic_of(request_) is None


def refuse() -> Response:
    return Response("not today", 418)


def wrap(app: Flask) -> None:
    inner = app.wsgi_app
    app.wsgi_app = lambda environ, start: inner(environ, start)  # type: ignore[method-assign]


def shadow(app: Flask) -> None:
    app.view_functions["events.publish"] = lambda topic: refuse()


def listen(app: Flask) -> None:
    flask.request_started.connect(ignore, app)


def ignore(sender: Any, **_: Any) -> None:
    """Nothing."""


ADDITIONS: list[Callable[[Flask], Any]] = [
    lambda app: app.before_request(refuse),
    lambda app: app.after_request(lambda response: response),
    lambda app: app.teardown_request(lambda error: None),
    lambda app: app.teardown_appcontext(lambda error: None),
    lambda app: app.url_value_preprocessor(lambda endpoint, values: None),
    lambda app: app.register_error_handler(418, lambda error: "tea"),
    lambda app: app.register_error_handler(400, lambda error: "no"),
    lambda app: app.add_url_rule("/v1/topics/mine/events", "mine", refuse, methods=["POST"]),
    lambda app: app.register_blueprint(flask.Blueprint("more", __name__)),
    lambda app: app.config.update(MAX_CONTENT_LENGTH=1),
    lambda app: app.config.update(NEW=1),
    lambda app: app.extensions.update(other=1),
    lambda app: app.before_request_funcs[None].append(refuse),
    lambda app: app.before_request_funcs.setdefault("events", []).append(refuse),
    lambda app: setattr(app, "dispatch_request", refuse),
    lambda app: setattr(app, "session_interface", object()),
    wrap,
    shadow,
    listen,
]


@pytest.mark.parametrize("add", ADDITIONS)
def test_an_app_that_something_was_added_to_has_none(app: Flask, add: Callable[[Flask], Any]) -> None:
    assert Lane.of(app) is not None
    add(app)
    try:
        assert Lane.of(app) is None
    finally:
        flask.request_started.disconnect(ignore, app)


def test_what_a_request_leaves_behind_is_no_addition(app: Flask) -> None:
    assert app.test_client().get("/livez").status_code == 200
    assert app.test_client().post("/nowhere").status_code == 404
    app.logger.debug("made when first used")
    assert Lane.of(app) is not None


def test_a_wrapper_in_flask_itself_is_noticed(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    class Tracer:
        def __get__(self, instance: Any, owner: Any) -> Any:
            return lambda *arguments: None

    monkeypatch.setattr(Flask, "wsgi_app", Tracer())
    assert Lane.of(app) is None


@pytest.mark.parametrize(
    ("body", "status"),
    [(b'{"n":1}', 202), (b'[{"n":1},{"n":2}]', 202), (b'{"n":NaN}', 400), (b"", 400), (b"[]", 202), (b'{"$n":1}', 400)],
)
def test_the_answer_is_that_of_flask(shared_server: Stack, topic: str, body: bytes, status: int) -> None:
    lane = shared_server.post(topic, body)
    other = shared_server.post(f"{topic}.other", body, query="?on_error=refuse")
    assert (lane.status, other.status) in {(status, status), (400, 400)}
    for answer in (lane, other):
        answer.headers.pop("Date")
    assert {name: value for name, value in lane.headers.items() if name != "Content-Length"} == {
        name: value for name, value in other.headers.items() if name != "Content-Length"
    }
    assert lane.body.replace(topic.encode(), b"") == other.body.replace(f"{topic}.other".encode(), b"")


def test_a_bad_topic_is_the_same_problem(shared_server: Stack) -> None:
    lane = shared_server.post("a..b", b"{}")
    other = shared_server.post("a..b", b"{}", query="?on_error=refuse")
    assert lane.status == other.status == 400
    assert lane.json() == other.json()


def test_the_hosts_of_others_are_refused(shared_server: Stack, topic: str) -> None:
    answer = shared_server.request(
        "POST", f"/v1/topics/{topic}/events", b'{"n":1}', Content_Type="application/json", Host="evil.example"
    )
    assert answer.status == 403
    assert json.loads(answer.body)["type"] == "urn:pushsvc:problem:forbidden"


def test_insecure_takes_any_host_and_origins_vary_the_answer(broker: Broker) -> None:
    lane = Lane.of(create_app(broker, security=Security(insecure=True, allow_origins=("http://a",))))
    assert lane is not None
    request = post(JSON, LENGTH, host="any.example")
    assert lane.topic_of(request) == "t"
    assert ("Vary", "Origin") in lane.publish("t", request, b'{"n":1}').headers
