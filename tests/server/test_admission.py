"""The rule of all fast paths: one table of requests decides for each of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flask
import pytest
from flask import Flask, Response

from pushsvc.auth.grants import EVERYTHING
from pushsvc.broker.broker import Broker
from pushsvc.event import Limits
from pushsvc.server.fastpath.admission import Admission
from pushsvc.server.request import HeadLimits, Request, parse_head
from pushsvc.web.app import create_app
from pushsvc.web.security import Security

JSON, LENGTH, SSE = "Content-Type: application/json", "Content-Length: 10", "Accept: text/event-stream"
PUBLISH, BATCH, STREAM = "publish", "batch", "stream"


def parse(method: str, target: str, host: str, *fields: str, version: str = "1.1") -> Request:
    lines = [f"{method} {target} HTTP/{version}", f"Host: {host}", *fields]
    return parse_head("\r\n".join([*lines, "", ""]).encode(), HeadLimits())


def post(*fields: str, target: str = "/v1/topics/t/events", host: str = "localhost", **line: str) -> Request:
    return parse(line.pop("method", "POST"), target, host, *fields, **line)


def get(*fields: str, target: str = "/v1/topics/t/events", host: str = "localhost", method: str = "GET") -> Request:
    return parse(method, target, host, *fields)


ADMITTED: list[tuple[Request, set[str]]] = [
    (post(JSON, LENGTH), {PUBLISH, BATCH}),
    (post(JSON, LENGTH, "User-Agent: a", "Accept: */*", "Connection: keep-alive"), {PUBLISH, BATCH}),
    (post(JSON, LENGTH, host="127.0.0.1:8000"), {PUBLISH, BATCH}),
    (post(JSON, LENGTH, target="/v1/topics/a.b/events"), {PUBLISH, BATCH}),
    (post(JSON, LENGTH, target="/v1/topics/a.csv/events"), {PUBLISH, BATCH}),
    # What proxies add: the server has found out the client before
    (post(JSON, LENGTH, "X-Forwarded-For: 10.0.0.1", "X-Forwarded-Host: a", "Forwarded: for=x"), {PUBLISH, BATCH}),
    # Published alone: another media type, no body, a connection that closes, HTTP/1.0
    (post("Content-Type: text/csv; charset=utf-8", LENGTH), {PUBLISH}),
    (post("Content-Type: application/json; charset=utf-8", LENGTH), {PUBLISH}),
    (post(JSON, "Content-Length: 0"), {PUBLISH}),
    (post(JSON, LENGTH, "Connection: close"), {PUBLISH}),
    (post(JSON, LENGTH, "Connection: keep-alive", version="1.0"), {PUBLISH}),
    # Streams
    (get(SSE), {STREAM}),
    (get(SSE, "Last-Event-ID: abc", "User-Agent: x", "Sec-Fetch-Mode: cors", "X-Forwarded-For: 10.0.0.1"), {STREAM}),
    (get(SSE, "Origin: http://page.example"), {STREAM}),
    (get(SSE, target="/v1/stream?events=a&stats=b"), {STREAM}),
    (get(SSE, target="/v1/topics/t/stats?window=1m&last_event_id=earliest"), {STREAM}),
    (get(SSE, target="/v1/topics/t/events?last_event_id=AQ-_"), {STREAM}),
    # A CloudEvent in binary mode, and a page whose Origin must be checked
    (post(JSON, LENGTH, "ce-id: a"), set()),
    (post(JSON, LENGTH, "CE-Anything: a"), set()),
    (post("Content-Type: text/plain;charset=UTF-8", LENGTH), set()),
    (post(JSON, LENGTH, "Origin: http://localhost"), set()),
    (post(JSON, LENGTH, "Sec-Fetch-Site: same-origin"), set()),
    # Method and path
    (post(JSON, LENGTH, method="PUT"), set()),
    (post(JSON, LENGTH, target="/v1/topics/t/events?on_error=skip"), set()),
    (post(JSON, LENGTH, target="/v1/topics/%74/events"), set()),
    (post(JSON, LENGTH, target="/v1/topics/a/b/events"), set()),
    (post(JSON, LENGTH, target="/v1/topics//events"), set()),
    (post(JSON, LENGTH, target="/v1/topics/events"), set()),
    (post(JSON, LENGTH, target="/v1/topics/t/events/"), set()),
    (post(JSON, LENGTH, target="/v1/topics/t/events.json"), set()),
    (post(SSE), set()),
    (get(SSE, method="HEAD"), set()),
    (get(SSE, target="/v1/topics/%74/events"), set()),
    (get(SSE, target="/v1/stream?events=a&last_event_id=earliest"), set()),
    (get(SSE, target="/v1/topics/t/events?last%5Fevent_id=earliest"), set()),
    (get(SSE, target="/v1/topics/t/events?%6cast_event_id=earliest"), set()),
    (get(SSE, target=f"/v1/stream?events={'a' * 2_000}"), set()),
    # The body
    (post(LENGTH), set()),
    (post("Content-Type: text/plain", LENGTH), set()),
    (post("Content-Type: application/x-www-form-urlencoded", LENGTH), set()),
    (post(JSON), set()),
    (post(JSON, "Transfer-Encoding: chunked"), set()),
    (post(JSON, "Content-Length: 1001"), set()),
    (get(SSE, "Content-Length: 1"), set()),
    (get(SSE, "Transfer-Encoding: chunked"), set()),
    # Headers that could change the answer
    *[
        (post(JSON, LENGTH, f"{name}: 100-continue"), set[str]())
        for name in (
            "Expect", "Origin", "Cookie", "Authorization", "Content-Encoding", "Idempotency-Key",
            "X-HTTP-Method-Override", "Upgrade", "X-Unheard-Of",
        )
    ],
    *[
        (get(SSE, f"{name}: x"), set[str]())
        for name in ("Cookie", "Authorization", "If-None-Match", "Range", "X-HTTP-Method-Override", "X-Unheard-Of")
    ],
    # Hosts that only Flask refuses
    (post(JSON, LENGTH, host="evil.example"), set()),
    (post(JSON, LENGTH, host=""), set()),
]  # fmt: skip


@pytest.fixture
def app(broker: Broker) -> Flask:
    return create_app(broker, limits=Limits(body=1_000))


def admission_of(app: Flask) -> Admission:
    admission = Admission.of(app)
    assert admission is not None
    return admission


@pytest.mark.parametrize(
    ("request_", "paths"),
    ADMITTED,
    ids=[f"{request.method} {request.path}?{request.query[:40]} {request.headers}" for request, _ in ADMITTED],
)
def test_a_request_is_admitted_to_exactly_these_fast_paths(app: Flask, request_: Request, paths: set[str]) -> None:
    admission = admission_of(app)
    decisions = {
        PUBLISH: admission.publish_topic(request_),
        BATCH: admission.batch_topic(request_),
        STREAM: admission.stream_request(request_),
    }
    assert {path for path, admitted in decisions.items() if admitted is not None} == paths


def test_the_topic_is_that_of_the_path(app: Flask) -> None:
    request = post(JSON, LENGTH, target="/v1/topics/a.b/events")
    admission = admission_of(app)
    assert admission.publish_topic(request) == admission.batch_topic(request) == "a.b"


@pytest.mark.parametrize(
    ("line", "length", "topic"),
    [
        ("POST /v1/topics/a.b/events HTTP/1.1", 1_000, "a.b"),
        ("POST /v1/topics/a.b/events HTTP/1.1", 1_001, None),
        ("POST /v1/topics/a/b/events HTTP/1.1", 10, None),
        ("POST /v1/topics/a/events?on_error=skip HTTP/1.1", 10, None),
        ("POST /v1/topics/%61/events HTTP/1.1", 10, None),
        ("POST /v1/topics//events HTTP/1.1", 10, None),
        ("POST /v1/topics/a/stats HTTP/1.1", 10, None),
        ("POST /v1/topics/a/events HTTP/1.0", 10, None),
        ("POST http://localhost/v1/topics/a/events HTTP/1.1", 10, None),
        ("PUT /v1/topics/a/events HTTP/1.1", 10, None),
    ],
)
def test_a_repeated_post_is_to_a_plain_topic(app: Flask, line: str, length: int, topic: str | None) -> None:
    assert admission_of(app).repeated_topic(line.encode(), length, EVERYTHING) == topic


def test_insecure_admits_addresses_but_no_names(broker: Broker) -> None:
    admission = admission_of(create_app(broker, security=Security(insecure=True)))
    assert admission.publish_topic(post(JSON, LENGTH, host="192.0.2.7:8000")) == "t"
    assert admission.publish_topic(post(JSON, LENGTH, host="any.example")) is None


def refuse() -> Response:
    return Response("not today", 418)


def wrap(app: Flask) -> None:
    inner = app.wsgi_app
    app.wsgi_app = lambda environ, start: inner(environ, start)  # type: ignore[method-assign]


def replace_view(app: Flask) -> None:
    app.view_functions["events.publish"] = lambda topic: refuse()


def listen(app: Flask) -> None:
    flask.request_started.connect(ignore, app)


def ignore(sender: Any, **_: Any) -> None:
    """Do nothing."""


MODIFICATIONS: list[Callable[[Flask], Any]] = [
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
    replace_view,
    listen,
]


@pytest.mark.parametrize("modify", MODIFICATIONS)
def test_a_modified_app_has_no_fast_path(app: Flask, modify: Callable[[Flask], Any]) -> None:
    assert Admission.of(app) is not None
    modify(app)
    try:
        assert Admission.of(app) is None
    finally:
        flask.request_started.disconnect(ignore, app)


def test_requests_do_not_modify_an_app(app: Flask) -> None:
    assert app.test_client().get("/livez").status_code == 200
    assert app.test_client().post("/nowhere").status_code == 404
    app.logger.debug("Flask creates the logger here")
    assert Admission.of(app) is not None


def test_a_wrapper_in_the_flask_class_is_a_modification(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    class Tracer:
        def __get__(self, instance: Any, owner: Any) -> Any:
            return lambda *arguments: None

    monkeypatch.setattr(Flask, "wsgi_app", Tracer())
    assert Admission.of(app) is None
