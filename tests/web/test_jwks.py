"""Keys of a JWK set, fetched from a real server: their rotation, and servers that fail."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from pushsvc.auth.tokens import Issuer, Verifier
from pushsvc.errors import InvalidToken, KeysUnavailable
from pushsvc.web.jwks import JwkSet, JwksLimits

NOW = 1_800_000_000.0
PRIVATE = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("old", "new")}


def set_of(*names: str) -> bytes:
    to_jwk = jwt.get_algorithm_by_name("ES256").to_jwk
    public = [{**to_jwk(PRIVATE[name].public_key(), as_dict=True), "kid": name, "alg": "ES256"} for name in names]
    return json.dumps({"keys": public}).encode()


def token(name: str, kid: str = "") -> str:
    return jwt.encode({"exp": NOW + 60, "sub": name}, PRIVATE[name], "ES256", headers={"kid": kid or name})


class JwksServer:
    """Answers with ``status``, ``body`` and ``headers``, and counts the requests."""

    def __init__(self) -> None:
        self.status, self.body, self.headers = 200, set_of("old"), {"Content-Type": "application/json"}
        self.requests = 0
        served = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                served.requests += 1
                self.send_response(served.status)
                for name, value in served.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(served.body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/jwks.json"
        self.thread = Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def issuer() -> Iterator[JwksServer]:
    server = JwksServer()
    yield server
    server.close()


@contextmanager
def verifier(url: str, algorithms: tuple[str, ...] = (), **limits: Any) -> Iterator[Callable[[str], str]]:
    """Yield what returns the subject of a token."""
    keys = JwkSet(url, algorithms, JwksLimits(**limits))
    of = Verifier([Issuer(keys, refresh=keys.refresh)])
    try:
        yield lambda text: of.grants(text, NOW).subject
    finally:
        keys.close()


def test_a_key_of_the_set_verifies(issuer: JwksServer) -> None:
    with verifier(issuer.url) as subject_of:
        assert [subject_of(token("old")) for _ in range(3)] == ["old"] * 3
    assert issuer.requests == 1


def test_an_unknown_key_is_fetched_and_a_withdrawn_one_is_refused(issuer: JwksServer) -> None:
    with verifier(issuer.url, again=0.0) as subject_of:
        assert subject_of(token("old")) == "old"
        issuer.body = set_of("new")
        assert subject_of(token("new")) == "new"
        with pytest.raises(InvalidToken):
            subject_of(token("old"))


def test_many_unknown_keys_cause_one_fetch(issuer: JwksServer) -> None:
    with verifier(issuer.url, again=3_600.0) as subject_of:
        for number in range(20):
            with pytest.raises(InvalidToken):
                subject_of(token("new", f"kid {number}"))
    assert issuer.requests == 1


def test_keys_of_other_algorithms_are_left_out(issuer: JwksServer) -> None:
    with verifier(issuer.url, ("RS256",)) as subject_of, pytest.raises(InvalidToken):
        subject_of(token("old"))


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (500, b"", {}),
        (302, b"", {"Location": "/other"}),
        (200, b"not JSON", {}),
        (200, b"[" * 100_000, {}),
        (200, b'{"keys": 7}', {}),
        (200, b'{"keys": []}' + b" " * 256_000, {}),
        (200, b"{}", {"Content-Length": "9"}),
    ],
)
def test_keys_that_cannot_be_fetched_are_not_there_yet_or_stay(
    issuer: JwksServer, caplog: pytest.LogCaptureFixture, status: int, body: bytes, headers: dict[str, str]
) -> None:
    good = issuer.status, issuer.body, issuer.headers
    issuer.status, issuer.body, issuer.headers = status, body, headers
    with verifier(issuer.url + "?secret=s", retry=0.01, again=0.0) as subject_of, caplog.at_level(logging.WARNING):
        with pytest.raises(KeysUnavailable):
            subject_of(token("old"))
        assert "503" in caplog.text
        issuer.status, issuer.body, issuer.headers = good
        assert subject_of(token("old")) == "old"
        issuer.status, issuer.body, issuer.headers = status, body, headers
        with pytest.raises(InvalidToken):
            subject_of(token("new"))
        assert subject_of(token("old")) == "old"
        assert "the earlier keys stay" in caplog.text
    assert "secret" not in caplog.text
    assert issuer.requests >= 3


def test_a_server_that_is_away_or_silent_is_not_waited_for_long() -> None:
    silent = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)  # it listens, and never answers
    with verifier(f"http://127.0.0.1:{silent.server_port}/", timeout=0.1) as subject_of:
        with pytest.raises(KeysUnavailable):
            subject_of(token("old"))
        silent.server_close()
