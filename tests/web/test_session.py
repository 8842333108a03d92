"""Signing a browser in and out."""

from __future__ import annotations

from typing import Any

import jwt
import pytest
from flask.testing import FlaskClient

from pushsvc.auth.access import Access
from pushsvc.auth.tokens import Issuer, Verifier, read_key
from pushsvc.broker.broker import Broker
from pushsvc.system_clock import now_ms
from pushsvc.web.app import create_app

SECRET = "a secret of more than thirty-two bytes"


def token(seconds: float = 600, **claims: Any) -> str:
    claims = {"exp": now_ms() / 1_000 + seconds, "sub": "u42", "pushsvc": {"subscribe": ["a"]}} | claims
    return jwt.encode(claims, SECRET, "HS256")


@pytest.fixture
def client(broker: Broker) -> FlaskClient:
    broker.check_layout()
    return create_app(broker, access=Access(Verifier([Issuer([read_key(SECRET, "HS256")], leeway=0)]))).test_client()


def test_the_cookie_is_for_this_host_over_tls_and_no_script_reads_it(client: FlaskClient) -> None:
    answer = client.post("/session", json={"token": token()}, base_url="https://localhost")
    assert answer.status_code == 200
    assert {"signed_in": True, "sub": "u42", "reads": True}.items() <= answer.json.items()
    name, *attributes = answer.headers["Set-Cookie"].split("; ")
    assert name.startswith("__Host-pushsvc=ey")
    assert {"Secure", "HttpOnly", "Path=/", "SameSite=Strict"} <= set(attributes)
    assert not any(attribute.startswith("Domain") for attribute in attributes)
    [age] = [int(attribute[8:]) for attribute in attributes if attribute.startswith("Max-Age=")]
    assert 500 < age <= 600
    assert client.get("/session", base_url="https://localhost").json["signed_in"] is True
    assert client.get("/v1/topics", base_url="https://localhost").status_code == 200
    left = client.delete("/session", base_url="https://localhost")
    assert (left.status_code, "Max-Age=0" in left.headers["Set-Cookie"]) == (204, True)
    assert client.get("/session", base_url="https://localhost").json["signed_in"] is False
    assert client.get("/v1/topics", base_url="https://localhost").status_code == 401


@pytest.mark.parametrize(
    ("body", "media_type", "status"),
    [
        (b'{"token": "nonsense"}', "application/json", 401),
        (b'{"token": "pushsvc_unknown"}', "application/json", 401),
        (b'{"token": ""}', "application/json", 400),
        (b'{"token": 5}', "application/json", 400),
        (b'{"token": "a\\r\\nSet-Cookie: b=c"}', "application/json", 400),
        (b'{"token": "\\u00e9"}', "application/json", 400),
        (b'{"token": "' + b"a" * 4_000 + b'"}', "application/json", 400),
        (b'{"token": "' + b"a" * 100_000 + b'"}', "application/json", 400),
        (b"[" * 8_000, "application/json", 400),
        (b"", "application/json", 400),
        (b"\xff", "application/json", 400),
        (b"token=abc", "application/x-www-form-urlencoded", 415),
        (b'{"token": "abc"}', "text/plain", 415),
    ],
)
def test_what_is_no_token_sets_no_cookie(client: FlaskClient, body: bytes, media_type: str, status: int) -> None:
    refused = client.post("/session", data=body, content_type=media_type)
    assert refused.status_code == status
    assert "Set-Cookie" not in refused.headers
    assert refused.content_type == "application/problem+json"


def test_a_page_of_another_site_cannot_sign_a_visitor_in(client: FlaskClient) -> None:
    refused = client.post("/session", json={"token": token()}, headers={"Origin": "https://evil.example"})
    assert (refused.status_code, "Set-Cookie" in refused.headers) == (403, False)


def test_a_cookie_that_is_not_valid_any_more_is_nobody(client: FlaskClient) -> None:
    client.set_cookie("__Host-pushsvc", token(-5), secure=True)
    found = client.get("/session", base_url="https://localhost")
    assert {"required": True, "signed_in": False, "sub": None, "reads": False}.items() <= found.json.items()


def test_without_authorization_nobody_signs_in(broker: Broker) -> None:
    client = create_app(broker).test_client()
    assert client.get("/session").json["required"] is False
    assert client.post("/session", json={"token": "a"}).status_code == 400
