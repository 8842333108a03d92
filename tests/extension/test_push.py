"""``Push(app)``: who may do what, publishing, and settings, in the process of the application."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask, abort, request

from pushsvc import BufferFull, ClientError, Grant, Grants, Push, TopicGrants
from pushsvc.broker.embedded import EmbeddedServer
from pushsvc.client import InvalidValue
from pushsvc.errors import InvalidSetting, StartupError
from pushsvc.extension.publisher import BufferLimits, Publisher
from pushsvc.extension.push import EXTENSION
from pushsvc.extension.server import Server, Signer, server_of
from pushsvc.extension.settings import settings_of
from pushsvc.supervisor.preflight import check_redis
from support.waiting import DEADLINE, until

EVENTS = "/push/v1/topics/orders/events"
START = 120.0  # seconds: the first call on a busy machine starts the server


def application(redis_url: str, prefix: str, **config: Any) -> tuple[Flask, Push]:
    app = Flask("shop")
    app.config |= {"PUSHSVC_REDIS": redis_url, "PUSHSVC_PREFIX": prefix, "PUSHSVC_DRAIN": 0} | config
    return app, Push(app)


@pytest.fixture(autouse=True)
def _stop_servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """End the servers of a test with it."""
    from pushsvc.extension import server

    monkeypatch.setattr(server, "_servers", {})
    yield
    server._stop_all()


@pytest.fixture
def shop(redis_url: str, prefix: str) -> tuple[Flask, Push]:
    return application(redis_url, prefix)


@pytest.fixture
def own(start_redis: Callable[..., EmbeddedServer], prefix: str) -> tuple[EmbeddedServer, Flask, Push]:
    """A shop over a Redis of its own, which has stored the order 0."""
    redis = start_redis()
    app, push = application(redis.url, prefix)
    with app.app_context():
        push.publish("orders", {"n": 0}, wait=True, timeout=START)
    return redis, app, push


def numbers(app: Flask) -> list[int]:
    """Return the numbers of the stored orders."""
    return [event["n"] for event in app.test_client().get(EVENTS).json["events"]]


def status(app: Flask, path: str, method: str = "GET", address: str = "127.0.0.1", **given: Any) -> int:
    client = app.test_client(use_cookies=False)  # else it takes no header Cookie
    return client.open(path, method=method, environ_base={"REMOTE_ADDR": address}, **given).status_code


def test_without_a_function_only_this_machine_is_served(shop: tuple[Flask, Push]) -> None:
    app, _ = shop
    assert status(app, EVENTS) == 200
    assert status(app, EVENTS, address="203.0.113.7") == 403
    assert status(app, EVENTS, address="") == 403  # behind a Unix socket it could be anybody
    assert "@push.authorize" in app.test_client().get(EVENTS, headers={"Host": "shop.example"}).json["detail"]
    assert status(app, EVENTS, base_url="http://rebound.example/") == 403


def test_nothing_is_served_that_the_function_has_not_allowed(shop: tuple[Flask, Push]) -> None:
    app, push = shop
    asked: list[tuple[str, str, str | None]] = []

    @push.authorize
    def may(action: str, topic: str, key: str | None) -> bool:
        asked.append((action, topic, key))
        if topic == "secret":
            abort(418)
        return topic.startswith("orders") and action == "subscribe"

    assert status(app, EVENTS, address="203.0.113.7") == 200
    assert status(app, EVENTS + ".csv?key=ann") == 200
    assert status(app, "/push/v1/topics/news/events") == 401
    assert status(app, "/push/v1/topics/news/events", headers={"Authorization": "Basic eDp5"}) == 403
    assert status(app, "/push/v1/topics/secret/events") == 418
    assert status(app, EVENTS, "POST", json={"n": 1}) == 401
    assert status(app, "/push/v1/stream?events=orders&stats=news.>&format=sse") == 401
    assert status(app, "/push/v1/stream?sub=events/news%3Fkey=ann&format=sse") == 401
    assert asked == [
        ("subscribe", "orders", None), ("subscribe", "orders", "ann"), ("subscribe", "news", None),
        ("subscribe", "news", None), ("subscribe", "secret", None), ("publish", "orders", None),
        ("subscribe", "orders", None), ("subscribe", "news.>", None), ("subscribe", "news", "ann"),
    ]  # fmt: skip
    for path in ("/push/v1/topics", "/push/metrics", "/push/v1/sessions", "/push/"):
        assert status(app, path) == 404, path
    assert status(app, "/push/v1/topics/orders/events/..%2f..%2fmetrics") == 405
    assert status(app, "/push/v1/topics/orders") == 405
    assert status(app, "/push/v1/topics/a%20b/events") == 400
    assert status(app, EVENTS, "DELETE") == 405


def test_a_refusal_names_the_subscription(shop: tuple[Flask, Push]) -> None:
    app, push = shop

    @push.authorize
    def may(action: str, topic: str, key: str | None) -> bool:
        if topic.startswith("abort"):
            abort(int(topic.removeprefix("abort")))
        return topic == "orders"

    client = app.test_client(use_cookies=False)
    for topic, cookie, expected in (
        ("news", "", 401),
        ("news", "s=1", 403),
        ("abort401", "", 401),
        ("abort403", "", 403),
    ):
        path = f"/push/v1/stream?format=sse&sub=events/orders&sub=stats/{topic}"
        answer = client.get(path, headers={"Cookie": cookie} if cookie else {})
        assert (answer.status_code, answer.mimetype) == (expected, "application/problem+json")
        assert answer.json["detail"].startswith("sub[1]: ")
    assert status(app, "/push/v1/stream?format=sse&sub=events/orders&sub=events/abort418") == 418


def test_an_answer_without_a_lifetime_holds_for_five_minutes() -> None:
    signer, now = Signer("a secret of thirty-two characters"), time.time()
    for grants, lifetime in ((Grants(), 300), (Grants(expires=now + 60), 60), (Grants(expires=now + 900), 300)):
        assert signer.sign(grants)[1] - now == pytest.approx(lifetime, abs=5)


def test_a_stream_ends_when_its_answer_has_expired_and_the_function_is_asked_again(
    shop: tuple[Flask, Push], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pushsvc.extension.server.RECHECK", 5.0)
    app, push = shop
    answers = [False, True]
    push.authorize(lambda action, topic, key: answers.pop())
    with app.app_context():
        push.publish("orders", {"n": 1}, wait=True, timeout=START)
    path = EVENTS + "?format=sse&last_event_id=earliest"
    stream = app.test_client(use_cookies=False).get(path, headers={"Cookie": "s=1"})
    assert stream.status_code == 200
    assert b'"n":1' in stream.data  # it reads to the end of the stream
    assert stream.data.rstrip().endswith(b": the token has expired")
    assert status(app, path, headers={"Cookie": "s=1"}) == 403
    assert answers == []


ALERT = {"topic": "orders", "when": "count(1m) > 10"}


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("DELETE", "/push/v1/topics/orders", None),
        ("PATCH", EVENTS + "/one", {"n": 2}),
        ("DELETE", EVENTS + "/one", None),
        ("PUT", "/push/v1/alerts/many?topic=orders", ALERT),
        ("DELETE", "/push/v1/alerts/many?topic=orders", None),
    ],
)
def test_management_is_asked_for(shop: tuple[Flask, Push], method: str, path: str, body: dict[str, Any] | None) -> None:
    app, push = shop
    asked: list[tuple[str, str, str | None]] = []

    @push.authorize
    def may(action: str, topic: str, key: str | None) -> bool:
        asked.append((action, topic, key))
        return action != "manage"

    assert status(app, path, method, json=body, headers={"Cookie": "s=1"}) == 403
    assert asked == [("manage", "orders", None)]
    evil = {"Cookie": "s=1", "Origin": "http://evil.example"}
    assert status(app, path, method, json=body, headers=evil) == 403
    assert len(asked) == 1


def test_events_alerts_and_topics_are_managed(shop: tuple[Flask, Push]) -> None:
    app, push = shop
    push.authorize(lambda action, topic, key: topic == "orders")
    with app.app_context():
        push.publish("orders", [{"id": "one", "n": 1}, {"id": "two", "n": 2}], wait=True, timeout=START)
        push.publish("news", {"n": 1}, wait=True, timeout=START)
    client = app.test_client(use_cookies=False)
    merge = "application/merge-patch+json"
    tag = client.patch(EVENTS + "/one", data='{"n": 3}', content_type=merge).headers["ETag"]
    stale = {"If-Match": '"stale"'}
    assert client.patch(EVENTS + "/one", data='{"n": 4}', content_type=merge, headers=stale).status_code == 412
    assert (
        client.patch(EVENTS + "/one", data='{"n": 5}', content_type=merge, headers={"If-Match": tag}).status_code == 200
    )
    assert client.delete(EVENTS + "/two?erase=true").status_code == 200
    assert client.put("/push/v1/alerts/many?topic=orders", json=ALERT).status_code == 201
    listed = client.get("/push/v1/alerts?topic=orders").json
    assert [alert["name"] for alert in listed["alerts"]] == ["many"]
    assert client.get("/push/v1/alerts/many?topic=orders").json["topic"] == "orders"
    # The topic in the URL is what the function was asked about, so an alert of another one is none of its business.
    assert client.put("/push/v1/alerts/more?topic=orders", json=ALERT | {"topic": "news"}).status_code == 403
    assert client.put("/push/v1/alerts/more", json=ALERT).status_code == 400
    assert client.get("/push/v1/alerts?topic=news").status_code == 401
    assert client.delete("/push/v1/alerts/many?topic=orders").status_code == 204
    assert client.delete("/push/v1/topics/orders").status_code == 204
    assert client.delete("/push/v1/topics/news").status_code == 401


def test_grants_of_some_keys_manage_no_others(shop: tuple[Flask, Push]) -> None:
    app, push = shop
    mine = TopicGrants([Grant("orders", frozenset(["ann"]))])
    push.authorize(lambda action, topic, key: Grants(manage=mine, subject="ann"))
    with app.app_context():
        push.publish("orders", [{"id": "one", "key": "ann"}, {"id": "two", "key": "bob"}], wait=True, timeout=START)
    client = app.test_client(use_cookies=False)
    assert client.delete(EVENTS + "/two").status_code == 404
    assert client.delete(EVENTS + "/one?erase=true").status_code == 403
    assert client.delete(EVENTS + "/one").status_code == 200
    assert client.delete("/push/v1/topics/orders").status_code == 403
    assert client.put("/push/v1/alerts/many?topic=orders", json=ALERT).status_code == 403


def test_the_javascript_client_is_served_to_everybody(shop: tuple[Flask, Push]) -> None:
    app, push = shop
    push.authorize(lambda action, topic, key: False)
    answer = app.test_client().get("/push/client.js", environ_base={"REMOTE_ADDR": "192.0.2.1"})
    assert answer.status_code == 200
    assert answer.mimetype == "text/javascript"
    assert b"export function connect" in answer.data


def test_grants_limit_a_request_to_their_keys(shop: tuple[Flask, Push]) -> None:
    app, push = shop

    @push.authorize
    def may(action: str, topic: str, key: str | None) -> Grants:
        mine = TopicGrants([Grant("orders", frozenset(["ann"]))])
        return Grants(publish=mine, subscribe=mine, subject="ann")

    for key, expected in (("ann", 202), ("bob", 403)):
        assert status(app, EVENTS, "POST", json={"key": key, "n": 1}) == expected
    with app.app_context():
        push.publish("orders", {"key": "bob", "n": 2}, wait=True, timeout=START)
    found = app.test_client().get(EVENTS).json
    assert [event["key"] for event in found["events"]] == ["ann"]
    assert status(app, "/push/v1/topics/news/events", headers={"Cookie": "s=1"}) == 403


def test_a_wrong_answer_of_the_function_opens_nothing(shop: tuple[Flask, Push]) -> None:
    app, push = shop
    ann = TopicGrants([Grant("orders", frozenset(["ann"]))])
    wrong: Any = 7
    number = TopicGrants([Grant("orders", frozenset([wrong]))])
    answers: list[Any] = ["yes", 1, [], Grants(subscribe=number), Grants(subscribe=ann, subject=wrong)]

    @push.authorize
    def may(action: str, topic: str, key: str | None) -> Any:
        return answers.pop()

    while answers:
        assert status(app, EVENTS) == 500


def test_pages_of_other_sites_write_nothing(shop: tuple[Flask, Push]) -> None:
    app, push = shop
    push.authorize(lambda action, topic, key: bool(request.cookies))
    for headers in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        assert status(app, EVENTS, "POST", json={"n": 1}, headers={"Cookie": "s=1", **headers}) == 403
    own = {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin", "Cookie": "s=1"}
    assert status(app, EVENTS, "POST", json={"n": 1}, headers=own) == 202
    assert len(app.test_client(use_cookies=False).get(EVENTS, headers={"Cookie": "s=1"}).json["events"]) == 1


def test_a_large_body_is_refused(redis_url: str, prefix: str) -> None:
    app, _ = application(redis_url, prefix, PUSHSVC_LIMITS={"body": 1_000})
    assert status(app, EVENTS, "POST", data=b"[" + b" " * 1_000, content_type="application/json") == 413


def test_publishing_returns_a_receipt_or_at_once(shop: tuple[Flask, Push]) -> None:
    app, push = shop
    with app.app_context():
        receipt = push.publish("orders", [{"n": 1}, {"n": 2}], wait=True, timeout=START)
        assert receipt is not None
        assert (receipt["accepted"], receipt["last_offset"]) == (2, 2)
        for number in range(3, 1_003):
            assert push.publish("orders", {"n": number}, type="created", key="ann") is None
        assert push.flush(START)
        with pytest.raises(InvalidValue):
            push.publish("orders", {"n": float("nan")})
        with pytest.raises(ClientError) as refused:
            push.publish("orders", {"$n": 1}, wait=True, timeout=START)
    assert refused.value.reply == 400
    events = app.test_client().get(EVENTS + "?last=1000").json["events"]
    assert [event["n"] for event in events] == [*range(3, 1_003)]
    assert {(event["type"], event["key"]) for event in events} == {("created", "ann")}


@pytest.mark.parametrize("given", [{}, {"wait": True}, {"on_error": "raise"}, {"on_error": "drop"}])
@pytest.mark.parametrize("events", [[], (), iter(())], ids=["list", "tuple", "iterator"])
def test_no_events_are_refused_at_once(shop: tuple[Flask, Push], events: Any, given: dict[str, Any]) -> None:
    app, push = shop
    with app.app_context(), pytest.raises(InvalidValue, match="there are no events"):
        push.publish("orders", events, **given)


def test_an_event_that_waits_for_its_receipt_overtakes_none_of_its_topic(shop: tuple[Flask, Push]) -> None:
    app, push = shop
    with app.app_context():
        push.publish("other", {"n": 0}, wait=True, timeout=START)
        for number in range(0, 40, 2):
            push.publish("orders", {"n": number})
            push.publish("orders", {"n": number + 1}, wait=True, timeout=START)
    assert numbers(app) == [*range(40)]


def test_earlier_events_of_the_topic_hold_no_call_longer_than_its_timeout(
    own: tuple[EmbeddedServer, Flask, Push],
) -> None:
    redis, app, push = own
    with app.app_context():
        redis.stop()
        push.publish("orders", {"n": 1})
        with pytest.raises(ClientError, match="earlier events of orders wait") as away:
            push.publish("orders", {"n": 2}, wait=True, timeout=0.1)
        assert away.value.temporary
        assert push.publish("orders", {"n": 3}, wait=True, on_error="buffer", timeout=0.1) is None
        redis.start()
        assert push.flush(START)
    assert numbers(app) == [0, 1, 3]


def test_an_event_that_is_refused_takes_no_other_with_it(
    shop: tuple[Flask, Push], caplog: pytest.LogCaptureFixture
) -> None:
    app, push = shop
    with app.app_context():
        for event in ({"n": 1}, {"$n": 2}, {"n": 3}):
            push.publish("orders", event)
        assert push.flush(START)
    assert numbers(app) == [1, 3]
    assert "an event of orders was refused: field $n" in caplog.text


def test_the_view_decides_what_happens_while_redis_is_away(own: tuple[EmbeddedServer, Flask, Push]) -> None:
    redis, app, push = own
    with app.app_context():
        redis.stop()
        began = time.monotonic()
        with pytest.raises(ClientError):
            push.publish("orders", {"n": 1}, on_error="raise", timeout=0.5)
        with pytest.raises(ClientError):
            push.publish("orders", {"n": 1}, wait=True, timeout=0.5)
        push.publish("orders", {"n": 2}, on_error="drop")
        until(lambda: push.flush(0.1))
        push.publish("orders", {"n": 3})
        assert time.monotonic() - began < 60
        assert not push.flush(0.1)
        redis.start()
        assert push.flush(START)
    assert numbers(app) == [0, 3]


def test_a_silent_redis_holds_no_call_longer_than_its_timeout(own: tuple[EmbeddedServer, Flask, Push]) -> None:
    """A request whose answer did not come may be stored: the buffer sends it again with the same idempotency key."""
    redis, app, push = own
    server = app.extensions[EXTENSION].server
    with app.app_context():
        assert redis.pid is not None
        os.kill(redis.pid, signal.SIGSTOP)
        try:
            with pytest.raises(ClientError, match=r"no receipt within 0\.5 s"):
                push.publish("orders", {"n": 1}, on_error="raise", timeout=0.5)
            assert push.publish("orders", {"n": 2}, wait=True, on_error="drop", timeout=0.5) is None
            assert push.publish("orders", {"n": 3}, wait=True, on_error="buffer", timeout=0.5) is None
            assert push.publish("orders", [{"n": 4}, {"n": 5}], wait=True, on_error="buffer", timeout=0.5) is None
            push.publish("orders", {"n": 6}, on_error="drop")
            push.publish("orders", {"n": 7})
            assert not push.flush(0.1)
        finally:
            os.kill(redis.pid, signal.SIGCONT)
        assert push.flush(START)
        stored = numbers(app)
        assert len(stored) == len(set(stored))
        assert [n for n in stored if n in (0, 3, 4, 5, 7)] == [0, 3, 4, 5, 7]

        server._process.kill()
        server._process.wait()
        os.kill(redis.pid, signal.SIGSTOP)
        try:
            with pytest.raises(ClientError, match=r"did not start within 0\.1 s") as away:
                push.publish("orders", {"n": 8}, wait=True, timeout=0.1)
        finally:
            os.kill(redis.pid, signal.SIGCONT)
        assert away.value.temporary
        push.publish("orders", {"n": 9}, wait=True, on_error="buffer")
        assert push.flush(START)
    assert app.test_client().get(EVENTS).json["events"][-1]["n"] == 9


def test_the_first_call_waits_no_longer_than_a_timeout_that_it_names(
    start_redis: Callable[..., EmbeddedServer], prefix: str
) -> None:
    app, push = application(start_redis().url, prefix)
    with app.app_context():
        with pytest.raises(ClientError, match=r"did not start within 0\.001 s") as late:
            push.publish("orders", {"n": 0}, wait=True, timeout=0.001)
        assert late.value.temporary
        push.publish("orders", {"n": 1})
        assert push.flush(START)
        assert push.publish("orders", {"n": 2}, wait=True, timeout=START) is not None


def test_no_call_in_a_request_waits_for_the_first_start(
    shop: tuple[Flask, Push], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first start hangs. What the view publishes is stored once the server has started after all."""
    app, push = shop
    may_start, launch = threading.Event(), Server._launch

    def slowly(server: Server) -> tuple[str, int]:
        if not may_start.wait(5):  # less than the first start of a server may take
            raise StartupError("the call waited for the start")
        return launch(server)

    monkeypatch.setattr(Server, "_launch", slowly)
    monkeypatch.setattr("pushsvc.extension.push._TIMEOUT", 0.1)
    with app.test_request_context():
        assert push.publish("orders", {"n": 1}) is None
        with pytest.raises(ClientError, match=r"earlier events of orders wait"):
            push.publish("orders", {"n": 2}, wait=True)
        for given in ({"wait": True}, {"on_error": "raise"}):
            with pytest.raises(ClientError, match=r"did not start within 0\.1 s") as late:
                push.publish("others", {"n": 3}, **given)
            assert late.value.temporary
        assert push.publish("orders", {"n": 4}, wait=True, on_error="buffer") is None
        may_start.set()
        assert push.flush(START)
    assert [event["n"] for event in app.test_client().get(EVENTS).json["events"]] == [1, 4]


def test_a_full_buffer_refuses_events_or_drops_them(start_redis: Callable[..., EmbeddedServer], prefix: str) -> None:
    redis = start_redis()
    app, _ = application(redis.url, prefix)
    publisher = Publisher(app.extensions[EXTENSION].server, BufferLimits(events=2, longest_pause=0.1))
    publisher.send("orders", {"n": 0}, START)
    redis.stop()
    for number in (1, 2):
        publisher.put("orders", {"n": number}, 0.1, kept=True)
    with pytest.raises(BufferFull):
        publisher.put("orders", {"n": 3}, 0.1, kept=True)
    publisher.put("orders", {"n": 4}, 0.1, kept=False)
    redis.start()
    assert publisher.flush(START)
    assert numbers(app) == [0, 1, 2]


def test_applications_with_equal_settings_share_a_server(redis_url: str, prefix: str) -> None:
    apps = [application(redis_url, prefix)[0] for _ in range(2)]
    other, push = application(redis_url, prefix, PUSHSVC_HEARTBEAT=20)
    servers = [app.extensions[EXTENSION].server for app in (*apps, other)]
    assert servers[0] is servers[1] is not servers[2]
    again = Flask("again")
    again.config["PUSHSVC_REDIS"] = redis_url
    push.init_app(again)
    with pytest.raises(RuntimeError):
        push.init_app(again)


def test_a_server_that_ended_is_started_again(redis_url: str, prefix: str) -> None:
    app, _ = application(redis_url, prefix)
    assert status(app, EVENTS) == 200
    process = app.extensions[EXTENSION].server._process
    process.kill()
    process.wait()
    assert status(app, EVENTS) == 200


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"PUSHSVC_PORT": 1}, "PUSHSVC_PORT"),
        ({"PUSHSVC_TOPIX": {}}, "did you mean topics"),
        ({"PUSHSVC_TOPICS": {"orders": {"windows": ["never"]}}}, "PUSHSVC_TOPICS.orders.windows"),
        ({"PUSHSVC_HEARTBEAT": "soon"}, "PUSHSVC_HEARTBEAT"),
    ],
)
def test_a_wrong_setting_is_named(config: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidSetting) as error:
        settings_of(config)
    assert reason in error.value.detail


def test_settings_come_from_the_configuration_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUSHSVC_HEARTBEAT", "7")
    monkeypatch.setenv("PUSHSVC_DRAIN", "8")
    settings = settings_of({"PUSHSVC_DRAIN": 9, "SECRET_KEY": "x"})
    assert (settings.heartbeat, settings.drain, settings.aggregators) == (7, 9, 1)
    monkeypatch.setenv("PUSHSVC_DRAIN", "never")
    with pytest.raises(InvalidSetting):
        settings_of({})


def test_a_setting_that_is_none_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUSHSVC_HEARTBEAT", "7")
    settings = settings_of({"PUSHSVC_REDIS": None, "PUSHSVC_HEARTBEAT": None})
    assert (settings.redis, settings.heartbeat) == (None, 7)


def test_a_server_that_cannot_start_is_a_503_with_a_reason_in_the_log(
    caplog: pytest.LogCaptureFixture, prefix: str
) -> None:
    app, _ = application("redis://127.0.0.1:1/0", prefix)
    assert status(app, EVENTS) == 503
    assert "127.0.0.1:1" in caplog.text
    stream = app.test_client().get(EVENTS, headers={"Accept": "text/event-stream"})
    assert stream.status_code == 200  # any other status would end a browser's EventSource for good
    assert stream.data.startswith(b"retry: ")


def test_the_registry_keeps_one_server(redis_url: str) -> None:
    settings = settings_of({"PUSHSVC_REDIS": redis_url})
    assert server_of(settings) is server_of(settings)


def test_a_program_with_other_settings_of_topics_warns(redis_url: str, prefix: str) -> None:
    warnings: list[str] = []
    for windows in (["1m"], ["1m"], ["5m"], ["5m"]):
        settings = settings_of({"PUSHSVC_TOPICS": {"orders": {"windows": windows}}})
        check_redis(redis_url, prefix, wait=False, warn=warnings.append, rules=settings.topics)
        warnings.append(windows[0])
    about_topics = [text for text in warnings if "settings of topics" in text or len(text) == 2]
    assert [text[:20] for text in about_topics] == ["1m", "1m", "WARNING: the settings of topics"[:20], "5m", "5m"]


def test_the_end_of_a_job_waits_for_the_start_of_the_server(
    shop: tuple[Flask, Push], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker of RQ ends its process at once after the job, with what waits for a server that starts slowly."""
    app, push = shop
    may_start, launch = threading.Event(), Server._launch

    def slowly(server: Server) -> tuple[str, int]:
        may_start.wait(DEADLINE)
        return launch(server)

    monkeypatch.setattr(Server, "_launch", slowly)
    monkeypatch.setattr("pushsvc.extension.push._PROGRESS", 0.2)
    with app.app_context():
        progress = push.progress("job.slow", total=1)
    progress.advance()
    end = threading.Thread(target=progress.close)
    end.start()
    end.join(1)  # longer than an event waits for a server that runs
    assert end.is_alive()
    may_start.set()
    end.join(DEADLINE)

    def last() -> bool:
        events = app.test_client().get("/push/v1/topics/job.slow/events?last=1").json["events"]
        return bool(events) and (events[0]["state"], events[0]["done"]) == ("done", 1)

    until(last)
