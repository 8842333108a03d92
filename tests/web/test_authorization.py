"""Which credentials a request presents, and that every route has a rule. tests/live has every route with each kind."""

from __future__ import annotations

from typing import Any

import jwt
import pytest
from flask import Flask
from flask.testing import FlaskClient

from pushsvc.auth.access import Access
from pushsvc.auth.grants import read_grants
from pushsvc.auth.tokens import Issuer, Verifier, read_key
from pushsvc.broker.broker import Broker
from pushsvc.system_clock import now_ms
from pushsvc.web.app import create_app
from pushsvc.web.authorization import RULES

SECRET = "a secret of more than thirty-two bytes"
VERIFIER = Verifier([Issuer([read_key(SECRET, "HS256")])])


def token(**grants: Any) -> str:
    return jwt.encode({"exp": now_ms() / 1_000 + 60, "sub": "u42", "pushsvc": grants}, SECRET, "HS256")


@pytest.fixture
def client(broker: Broker) -> FlaskClient:
    return create_app(broker, access=Access(VERIFIER)).test_client()


def status(client: FlaskClient, path: str, *authorization: str) -> int:
    return client.get(path, headers=[("Authorization", text) for text in authorization]).status_code


def test_every_route_has_a_rule(client: FlaskClient) -> None:
    assert {rule.endpoint for rule in client.application.url_map.iter_rules()} == RULES.keys()


def test_a_route_without_a_rule_is_refused(client: FlaskClient) -> None:
    app: Flask = client.application
    app.add_url_rule("/v1/new", view_func=lambda: "data")
    assert status(client, "/v1/new", f"Bearer {token(publish=['>'], subscribe=['>'], manage=['>'])}") == 403


def test_the_header_wins_over_the_cookie(client: FlaskClient) -> None:
    client.set_cookie("__Host-pushsvc", token(subscribe=["a"]), secure=True)
    assert status(client, "https://localhost/v1/topics/a") == 200
    assert status(client, "https://localhost/v1/topics/a", "Bearer nonsense") == 401


def test_two_headers_are_refused(client: FlaskClient) -> None:
    """A proxy in front may have looked at the other one."""
    one = f"Bearer {token(subscribe=['a'])}"
    assert status(client, "/v1/topics/a", one) == 200
    assert status(client, "/v1/topics/a", one, one) == 401


def test_a_token_in_the_url_is_refused_unless_it_is_switched_on(client: FlaskClient, broker: Broker) -> None:
    path = f"/v1/topics/a/events?token={token(subscribe=['a'])}"
    refused = client.get(path)
    assert (refused.status_code, "URL" in refused.json["detail"]) == (401, True)
    assert status(create_app(broker, access=Access(VERIFIER, accepts_parameter=True)).test_client(), path) == 200
    assert status(create_app(broker).test_client(), path) == 400  # without authorization there is no such parameter


def test_what_is_granted_to_nobody_in_particular(broker: Broker) -> None:
    anybody = create_app(
        broker, access=Access(Verifier([]), anonymous=read_grants({"subscribe": ["a"], "publish": ["b"]}))
    ).test_client()
    assert anybody.post("/v1/topics/b/events", json={"n": 1}).status_code == 202
    assert anybody.post("/v1/topics/a/events", json={"n": 1}).status_code == 401
    assert status(anybody, "/v1/topics/b/events") == 401
    assert status(anybody, "/v1/topics/a/events") == 200
    assert anybody.get("/v1/topics").json == {"topics": []}
