"""Every route with every kind of credentials: the status, and that nothing leaks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jwt
import pytest
from flask.testing import FlaskClient

from pushsvc.auth.access import Access
from pushsvc.auth.api_keys import PREFIX, ApiKeys, hash_of, read_api_key
from pushsvc.auth.grants import read_grants
from pushsvc.auth.tokens import Issuer, Verifier, read_key
from pushsvc.broker.broker import Broker
from pushsvc.event import Event
from pushsvc.settings import TopicSettings
from pushsvc.system_clock import now_ms
from pushsvc.web.app import create_app
from pushsvc.web.authorization import RULES

SECRET = "a secret of more than thirty-two bytes"
API_KEY = PREFIX + "producer-0123456789"
OPEN = ("/", "/docs", "/openapi.json", "/livez", "/static/page.js")
Ask = Callable[..., Any]


def token(secret: str = SECRET, seconds: float = 60, **grants: Any) -> str:
    return jwt.encode({"exp": now_ms() / 1_000 + seconds, "sub": "u42", "pushsvc": grants}, secret, "HS256")


CREDENTIALS: dict[str, Callable[[], str | None]] = {
    "none": lambda: None,
    "wrong key": lambda: token("another secret of thirty-two bytes", publish=[">"], subscribe=[">"], manage=[">"]),
    "expired": lambda: token(seconds=-60, publish=[">"], subscribe=[">"], manage=[">"]),
    "another topic": lambda: token(publish=["b"], subscribe=["b"], manage=["b"]),
    "limited": lambda: token(subscribe=[{"topics": "a", "keys": ["u42"]}]),
    "right": lambda: token(subscribe=["a"]),
    "all": lambda: token(publish=[">"], subscribe=[">"], manage=[">"]),
}

STATUSES: dict[tuple[str, str], tuple[int, ...]] = {
    # none, wrong key, expired, another topic, limited, right, all
    ("POST", "/v1/topics/a/events"): (401, 401, 401, 403, 403, 403, 202),
    ("GET", "/v1/topics/a/events"): (401, 401, 401, 403, 200, 200, 200),
    ("GET", "/v1/topics/a/events.csv"): (401, 401, 401, 403, 200, 200, 200),
    ("GET", "/v1/topics/a"): (401, 401, 401, 403, 200, 200, 200),
    ("DELETE", "/v1/topics/a"): (401, 401, 401, 403, 403, 403, 204),
    ("GET", "/v1/topics"): (401, 401, 401, 200, 200, 200, 200),
    ("GET", "/metrics"): (401, 401, 401, 403, 403, 403, 200),
}


@pytest.fixture
def client(broker: Broker) -> FlaskClient:
    broker.check_layout()
    broker.open_partitions()
    for topic in "ab":
        broker.publish(topic, [Event(key=key, data={"n": 1}) for key in ("u42", "u43")], TopicSettings())
    keys = ApiKeys((read_api_key("producer", {"hash": hash_of(API_KEY), "publish": ["a"]}),))
    access = Access(Verifier([Issuer([read_key(SECRET, "HS256")], leeway=0)]), keys)
    return create_app(broker, access=access).test_client()


def ask(client: FlaskClient, method: str, path: str, credentials: str | None = None, **headers: str) -> Any:
    headers |= {} if credentials is None else {"Authorization": f"Bearer {credentials}"}
    body = {"json": {"key": "u42", "n": 2}} if method == "POST" else {}
    return client.open(path, method=method, headers=headers, **body)


@pytest.mark.parametrize("route", STATUSES, ids=" ".join)
def test_the_status_of_every_route_with_all_kinds_of_credentials(client: FlaskClient, route: tuple[str, str]) -> None:
    found = []
    for make in CREDENTIALS.values():
        response = ask(client, *route, make())
        found.append(response.status_code)
        if response.status_code == 401:
            assert response.headers["WWW-Authenticate"].startswith("Bearer ")
        if response.status_code >= 400:
            assert response.content_type == "application/problem+json"
            assert b"u43" not in response.data
        response.close()
    assert tuple(found) == STATUSES[route]


def test_every_route_has_a_rule(client: FlaskClient) -> None:
    assert {rule.endpoint for rule in client.application.url_map.iter_rules()} == RULES.keys()


@pytest.mark.parametrize("path", OPEN)
def test_pages_and_health_are_open_even_with_a_bad_token(client: FlaskClient, path: str) -> None:
    assert ask(client, "GET", path, "expired").status_code == 200


def test_topics_that_are_not_granted_do_not_exist_in_lists(client: FlaskClient) -> None:
    def names(credentials: str | None, path: str = "/v1/topics") -> list[str]:
        return [one["topic"] for one in ask(client, "GET", path, credentials).json["topics"]]

    assert names(CREDENTIALS["right"]()) == names(CREDENTIALS["limited"]()) == ["a"]
    assert names(CREDENTIALS["another topic"](), "/v1/topics?search=a") == []
    assert names(CREDENTIALS["all"]()) == ["a", "b"]


def test_a_limited_reader_gets_the_events_of_its_keys(client: FlaskClient) -> None:
    def keys(query: str) -> list[str]:
        answer = ask(client, "GET", f"/v1/topics/a/events{query}", CREDENTIALS["limited"]())
        return [event["key"] for event in answer.json["events"]]

    assert keys("") == keys("?key=u42") == ["u42"]
    assert keys("?key=u43") == []


def test_a_limited_producer_publishes_its_keys_alone(client: FlaskClient) -> None:
    limited = token(publish=[{"topics": "a", "keys": ["u42"]}])
    headers = {"Authorization": f"Bearer {limited}"}
    accepted = client.post("/v1/topics/a/events", json=[{"key": "u42", "n": 1}] * 2, headers=headers)
    assert accepted.status_code == 202
    for other in ({"key": "u43", "n": 1}, {"n": 1}):
        refused = client.post("/v1/topics/a/events", json=[{"key": "u42", "n": 1}, other], headers=headers)
        assert (refused.status_code, "line 2" in refused.json["detail"]) == (403, True)
    offset = client.get("/v1/topics/a", headers={"Authorization": f"Bearer {CREDENTIALS['all']()}"}).json["last_offset"]
    assert offset == 4


def test_an_api_key_publishes(client: FlaskClient) -> None:
    assert ask(client, "POST", "/v1/topics/a/events", API_KEY).status_code == 202
    assert ask(client, "POST", "/v1/topics/b/events", API_KEY).status_code == 403
    assert ask(client, "POST", "/v1/topics/a/events", API_KEY + "x").status_code == 401


def test_the_header_wins_over_the_cookie(client: FlaskClient) -> None:
    client.set_cookie("__Host-pushsvc", token(subscribe=["a"]), secure=True)
    assert ask(client, "GET", "https://localhost/v1/topics/a").status_code == 200
    assert ask(client, "GET", "https://localhost/v1/topics/a", "nonsense").status_code == 401


def test_a_token_in_the_url_is_refused_unless_it_is_switched_on(client: FlaskClient, broker: Broker) -> None:
    path = f"/v1/topics/a/events?token={token(subscribe=['a'])}"
    refused = ask(client, "GET", path)
    assert (refused.status_code, "URL" in refused.json["detail"]) == (401, True)
    access = Access(Verifier([Issuer([read_key(SECRET, "HS256")])]), accepts_parameter=True)
    assert ask(create_app(broker, access=access).test_client(), "GET", path).status_code == 200


def test_what_is_granted_to_nobody_in_particular(broker: Broker) -> None:
    access = Access(Verifier([]), anonymous=read_grants({"subscribe": ["a"], "publish": ["b"]}))
    anybody = create_app(broker, access=access).test_client()
    assert ask(anybody, "POST", "/v1/topics/b/events").status_code == 202
    assert ask(anybody, "POST", "/v1/topics/a/events").status_code == 401
    assert ask(anybody, "GET", "/v1/topics/b/events").status_code == 401
    assert ask(anybody, "GET", "/v1/topics/a/events").status_code == 200
