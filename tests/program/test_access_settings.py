"""Settings of keys, issuers and grants: from where they come, what is refused, and that secrets stay hidden."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jwt
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pushsvc.auth.access import Access, Presented
from pushsvc.auth.api_keys import hash_of
from pushsvc.auth.grants import Action
from pushsvc.cli.main import program
from pushsvc.config import Settings, load
from pushsvc.config.access import access_of, check_access, take_key_variable
from pushsvc.errors import InvalidSetting, InvalidToken, PushError
from support.processes import children, needs_proc
from support.stack import Stack
from support.waiting import until

SECRET = "a secret of more than thirty-two bytes"
OTHER = "another secret of more than forty-eight bytes, for HS384"
PRIVATE = ed25519.Ed25519PrivateKey.generate()
PEM = PRIVATE.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PUSHSVC_JWT_KEY", raising=False)


def loaded(text: str = "", **options: Any) -> Settings:
    file = Path("other.toml")
    file.write_text(text)
    return load(options, file)


def made(settings: Settings) -> Access:
    access = access_of(Settings.decode(settings.encode()), lambda _url, _algorithms: ((), lambda: False))
    assert access is not None
    return access


def subject(access: Access, key: Any = SECRET, algorithm: str = "HS256", **claims: Any) -> str:
    token = jwt.encode({"exp": time.time() + 60, "sub": "u42"} | claims, key, algorithm)
    return access.grants(Presented(f"Bearer {token}"), time.time()).subject


def test_without_any_of_them_nobody_is_asked() -> None:
    assert not Settings().authorizes
    assert access_of(Settings(), lambda _url, _algorithms: ((), lambda: False)) is None


@pytest.mark.parametrize("value", ["secret", "file", "pem", "file of a pem"])
def test_the_variable_holds_a_key_or_names_a_file(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    Path("key").write_text((PEM if "pem" in value else SECRET) + "\n")
    text = {"secret": SECRET, "pem": PEM}.get(value, "key")
    monkeypatch.setenv("PUSHSVC_JWT_KEY", text)
    key = take_key_variable()
    assert "PUSHSVC_JWT_KEY" not in os.environ
    if "pem" in value:
        assert subject(made(loaded(jwt_key=key, jwt_alg="EdDSA")), PRIVATE, "EdDSA") == "u42"
    else:
        assert subject(made(loaded(jwt_key=key))) == "u42"


def test_a_key_of_an_option_replaces_that_of_the_file() -> None:
    Path("key").write_text(OTHER)
    access = made(loaded(f"jwt_key = '{SECRET}'", jwt_key_file=Path("key")))
    assert subject(access, OTHER) == "u42"
    with pytest.raises(InvalidToken):
        subject(access, SECRET)
    with pytest.raises(InvalidSetting, match="jwt_key and jwt_key_file"):
        loaded(jwt_key=SECRET, jwt_key_file=Path("key"))


def test_the_file_of_a_key_is_beside_the_file_of_the_settings(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "key").write_text(SECRET)
    file = tmp_path / "conf" / "pushsvc.toml"
    file.write_text("[[issuers]]\nname = 'a'\nkey_file = 'key'\n")
    assert subject(made(load({}, file)), iss="a") == "u42"
    file.write_text("jwt_key_file = 'key'\n")
    assert subject(made(load({}, file))) == "u42"


def test_a_token_is_verified_by_the_issuer_that_it_names() -> None:
    access = made(
        loaded(
            f"jwt_key = '{SECRET}'\njwt_audience = ['push']\n"
            f"[[issuers]]\nname = 'them'\nkey = '{OTHER}'\nalgorithms = ['HS256', 'HS384']\nneeds_expiry = false\n"
        )
    )
    assert subject(access, aud="push") == "u42"
    for algorithm in ("HS256", "HS384"):
        assert subject(access, OTHER, algorithm, iss="them", exp=None) == "u42"
    for wrong in ({"aud": "other"}, {"iss": "them"}, {"iss": "them", "aud": "push"}):
        with pytest.raises(InvalidToken):
            subject(access, **wrong)


def test_grants_of_keys_and_of_everybody() -> None:
    access = made(
        loaded(
            "anonymous_subscribe = ['news.>']\nanonymous_publish = ['clicks']\n"
            f"[keys.shop]\nhash = '{hash_of('pushsvc_x')}'\npublish = ['orders']\n"
        )
    )
    nobody, shop = (access.grants(presented, 0) for presented in (Presented(), Presented("Bearer pushsvc_x")))
    for grants in (nobody, shop):
        assert grants.may(Action.SUBSCRIBE, "news.a")
        assert grants.may(Action.PUBLISH, "clicks")
    assert (nobody.may(Action.PUBLISH, "orders"), shop.may(Action.PUBLISH, "orders")) == (False, True)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("jwt_alg = 'none'", "jwt_alg: 'none' is none of HS256"),
        ("jwt_leeway = -1", "jwt_leeway: must be a number of seconds"),
        ("jwt_leeway = nan", "jwt_leeway: must be a number of seconds"),
        ("jwt_jwks_url = 'file:///etc/passwd'", "jwt_jwks_url: must be a URL"),
        ("jwt_jwks_url = 'https://user:secret@a/'", "jwt_jwks_url: must be a URL"),
        ("anonymous_subscribe = ['a..b']", "anonymous_subscribe: 'a..b' is not a topic"),
        ("[[issuers]]\nname = 'a'", "issuers: must have one of key, key_file and jwks_url"),
        ("[[issuers]]\nname = 'a'\nkey = 'b'\nkey_file = 'c'", "issuers: must have one of"),
        ("[[issuers]]\nkey = 'b'\n[[issuers]]\nkey = 'c'", "issuers: must have different names"),
        ("[[issuers]]\nkeys = 'b'", "issuers.keys: there is no such setting; did you mean key"),
        ("[keys.a]\nhash = 'secret'", "keys: a.hash: 'sha256:'"),
        (f"[keys.a]\nhash = '{hash_of('a')}'\npublish = [7]", "keys: a: publish[0]"),
    ],
)
def test_a_wrong_setting_is_named_without_its_secret(text: str, named: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        loaded(text)
    assert named in caught.value.detail
    assert "secret" not in caught.value.detail.replace("jwt_secret", "")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (f"jwt_key = '{SECRET}'\njwt_alg = 'RS256'", "the key of jwt_key: this is not a key for RS256"),
        ("jwt_key_file = 'absent'", "absent: No such file"),
        (f"[[issuers]]\nname = 'a'\nkey = '''{PEM}'''", "the key of the issuer 'a'"),
    ],
)
def test_a_wrong_key_is_found_at_the_start(text: str, named: str) -> None:
    with pytest.raises(PushError) as caught:
        check_access(loaded(text), lambda _: None)
    assert named in caught.value.detail
    assert SECRET not in caught.value.detail


def test_a_short_secret_and_keys_without_tls_are_warned_of() -> None:
    warnings: list[str] = []
    check_access(loaded("jwt_key = 'short'"), warnings.append)
    check_access(loaded("jwt_jwks_url = 'http://login.example/'"), warnings.append)
    check_access(loaded(f"jwt_key = '{SECRET}'"), warnings.append)
    assert [warning.split(":")[0] for warning in warnings] == ["WARNING"] * 2
    assert "short'" not in warnings[0]


def test_secrets_are_not_shown_and_only_web_processes_get_them() -> None:
    settings = loaded(f"jwt_key = '{SECRET}'\n[[issuers]]\nname = 'a'\nkey = '{OTHER}'\n")
    assert replace(Settings.decode(settings.encode()), topics=settings.topics) == settings
    for hidden in (SECRET, OTHER):
        assert hidden not in repr(settings)
        assert hidden not in settings.without_keys().encode()


def test_the_demo_needs_a_grant(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = CliRunner().invoke(program, ["demo", "feedback"], env={"PUSHSVC_JWT_KEY": SECRET})
    assert (ran.exit_code, "--anonymous-publish feedback" in ran.output) == (1, True)


@needs_proc
def test_no_child_shows_a_key(stack: Stack) -> None:
    stack.environment["PUSHSVC_JWT_KEY"] = SECRET
    parent = stack.start("serve", "serve", "--port", str(stack.port))
    until(stack.ready)
    shown = [
        Path(f"/proc/{child}/{what}").read_bytes()
        for role in ("_web", "_aggregator")
        for child in children(parent.pid, role)
        for what in ("environ", "cmdline")
    ]
    assert len(shown) == 4
    assert not any(SECRET.encode() in text for text in [*shown, Path(f"/proc/{parent.pid}/cmdline").read_bytes()])


def test_one_variable_is_enough_to_listen_anywhere(stack: Stack) -> None:
    stack.environment["PUSHSVC_JWT_KEY"] = SECRET
    stack.start_aggregator()
    stack.start_web("--host", "0.0.0.0", "--workers", "2")
    token = jwt.encode({"exp": time.time() + 60, "pushsvc": {"publish": ["a"]}}, SECRET)
    path, body = "/v1/topics/a/events", b'{"n": 1}'
    for _ in range(10):  # both workers
        assert stack.request("POST", path, body, Content_Type="application/json").status == 401
        answer = stack.request("POST", path, body, Content_Type="application/json", Authorization=f"Bearer {token}")
        assert answer.status == 202
    assert stack.request("POST", path, body, Host="any.example", Authorization=f"Bearer {token}").status == 202
    assert SECRET not in stack.output("web") + stack.output("aggregator")


def test_a_server_without_its_issuer_starts_and_says_so(stack: Stack) -> None:
    stack.start_web("--jwt-jwks-url", "http://127.0.0.1:9/jwks.json")
    token = jwt.encode({"exp": time.time() + 60}, PRIVATE, "EdDSA", headers={"kid": "a"})
    headers = {"Authorization": f"Bearer {token}"}
    answer = stack.get("/v1/topics", **headers)
    assert (answer.status, answer.json()["type"]) == (503, "urn:pushsvc:problem:keys-unavailable")
    assert "Retry-After" in answer.headers
    with stack.stream("/v1/topics/a/events", **headers) as stream:  # time may mend it
        assert stream.status == 200
        assert b"retry:" in stream.rest()
    assert stack.get("/readyz").status == 200
    until(lambda: "the keys at http://127.0.0.1:9/jwks.json cannot be fetched" in stack.output("web"))
