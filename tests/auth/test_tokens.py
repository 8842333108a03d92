"""Tokens: which are accepted, with real keys of every kind, and why the others are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from pushsvc.auth.grants import Action
from pushsvc.auth.tokens import LONGEST_TOKEN, Issuer, Verifier, is_short, read_jwks, read_key
from pushsvc.errors import InvalidSetting, InvalidToken

SECRET = "a secret of more than thirty-two bytes"
NOW = 1_800_000_000.0
CLAIMS = {"sub": "u42", "exp": NOW + 60, "pushsvc": {"subscribe": ["orders"], "connections": 2}}

PRIVATE: dict[str, Callable[[], Any]] = {
    "RS256": lambda: rsa.generate_private_key(65_537, 2_048),
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
}


def token(claims: dict[str, Any] = CLAIMS, key: Any = SECRET, algorithm: str = "HS256", **header: Any) -> str:
    return jwt.encode(claims, key, algorithm, headers=header)


def verifier(**options: Any) -> Verifier:
    return Verifier([Issuer([read_key(SECRET, "HS256")], **options)])


def reason(verifier: Verifier, token: str, now: float = NOW) -> str:
    with pytest.raises(InvalidToken) as raised:
        verifier.grants(token, now)
    return raised.value.detail


def pem_of(private: Any) -> str:
    return private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def jwk_of(private: Any, algorithm: str, **members: str) -> dict[str, Any]:
    algorithm_of = jwt.get_algorithm_by_name(algorithm)
    return {**algorithm_of.to_jwk(private.public_key(), as_dict=True), "alg": algorithm, **members}


def test_a_token_gives_its_grants_and_its_subject() -> None:
    grants = verifier(leeway=0).grants(token(), NOW)
    assert (grants.subject, grants.connections, grants.expires) == ("u42", 2, NOW + 60)
    assert grants.may(Action.SUBSCRIBE, "orders")
    assert not grants.may(Action.PUBLISH, "orders")


def test_a_token_without_the_claim_grants_nothing() -> None:
    assert not verifier().grants(token({"exp": NOW + 60}), NOW).may_some(Action.SUBSCRIBE, ">")


@pytest.mark.parametrize("algorithm", PRIVATE)
def test_public_keys_verify_as_pem_and_in_a_set(algorithm: str) -> None:
    private, other = PRIVATE[algorithm](), PRIVATE[algorithm]()
    signed = token(key=private, algorithm=algorithm, kid="second")
    for keys in (
        [read_key(pem_of(private), algorithm)],
        read_jwks({"keys": [jwk_of(other, algorithm, kid="first"), jwk_of(private, algorithm, kid="second")]}),
        read_jwks({"keys": [jwk_of(private, algorithm)]}),
    ):
        assert Verifier([Issuer(keys)]).grants(signed, NOW).subject == "u42"
    for keys in (
        [read_key(pem_of(other), algorithm)],
        read_jwks({"keys": [jwk_of(other, algorithm, kid="second")]}),
        read_jwks({"keys": [jwk_of(private, algorithm, kid="third")]}),
    ):
        assert "no key" in reason(Verifier([Issuer(keys)]), signed)


def test_keys_of_a_set_for_other_uses_are_left_out() -> None:
    private = PRIVATE["RS256"]()
    left_out = [
        jwk_of(private, "RS256", use="enc"), {"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"}, {"kty": "new"}, "text",
    ]  # fmt: skip
    assert read_jwks({"keys": left_out}) == []
    with pytest.raises(InvalidSetting, match="JWK set"):
        read_jwks({"keys": None})


def test_the_public_key_is_no_secret() -> None:
    """RS256 taken for HS256: whoever knows the public key could sign."""
    public = pem_of(PRIVATE["RS256"]())
    signed = "".join([jwt.utils.base64url_encode(b'{"alg":"HS256"}').decode(), ".", token().split(".")[1]])
    mac = jwt.get_algorithm_by_name("HS256").sign(signed.encode(), public.encode())
    forged = f"{signed}.{jwt.utils.base64url_encode(mac).decode()}"
    assert "no key" in reason(Verifier([Issuer([read_key(public, "RS256")])]), forged)
    with pytest.raises(InvalidSetting, match="HS256"):
        read_key(public, "HS256")


def test_an_unsigned_token_is_refused() -> None:
    assert "no key" in reason(verifier(), jwt.encode(CLAIMS, None, "none"))


def test_a_header_with_an_unknown_extension_is_refused() -> None:
    assert "critical" in reason(verifier(), token(crit=["mine"], mine=1)).lower()


@pytest.mark.parametrize(
    ("claims", "options", "why"),
    [
        ({"pushsvc": {}}, {}, "exp"),
        ({"exp": NOW - 11}, {}, "expired"),
        ({"exp": NOW + 60, "nbf": NOW + 11}, {}, "not valid yet"),
        ({"exp": NOW + 60, "iss": "them"}, {"name": "us"}, "issuer 'them'"),
        ({"exp": NOW + 60}, {"name": "us"}, "issuer None"),
        ({"exp": NOW + 60, "aud": ["other"]}, {"audience": ("push",)}, "audience"),
        ({"exp": NOW + 60}, {"audience": ("push",)}, "audience"),
        ({"exp": "soon"}, {}, "exp"),
        ({"exp": NOW + 60, "sub": 7}, {}, "sub"),
        ({"exp": NOW + 60, "sub": "u" * 201}, {}, "sub"),
        ({"exp": NOW + 60, "pushsvc": {"read": []}}, {}, "'read'"),
        ({"exp": NOW + 60, "aud": [{}]}, {"audience": ("push",)}, "audience"),
        ({"exp": 10**400}, {}, "exp"),
        ({"exp": float("inf")}, {}, "exp"),
        ({"exp": float("nan")}, {}, "exp"),
        ({"exp": NOW + 60, "nbf": -(10**400)}, {}, "nbf"),
        ({"exp": NOW + 60, "sub": "u\n42"}, {}, "sub"),
        ({"exp": NOW + 60, "sub": "\ud800"}, {}, "sub"),
        ({"exp": NOW + 60, "iss": "\ud800"}, {"name": "us"}, "issuer"),
    ],
)
def test_a_refusal_says_why(claims: dict[str, Any], options: dict[str, Any], why: str) -> None:
    assert why in reason(verifier(**options), token(claims))


@pytest.mark.parametrize(
    ("claims", "options"),
    [
        ({}, {"needs_expiry": False}),
        ({"exp": NOW - 9}, {}),
        ({"exp": NOW + 60, "nbf": NOW + 9}, {}),
        ({"exp": NOW + 60, "iss": "us", "aud": "push"}, {"name": "us", "audience": ("push",)}),
        ({"exp": NOW + 60, "aud": ["other", "push"]}, {"audience": ("push",)}),
        ({"exp": NOW + 60, "iss": "anybody"}, {}),
    ],
)
def test_accepted_claims(claims: dict[str, Any], options: dict[str, Any]) -> None:
    verifier(**options).grants(token(claims), NOW)


def test_each_issuer_has_keys_of_its_own() -> None:
    ours, theirs = (Issuer([read_key(name * 32, "HS256")], name=name) for name in "ab")
    both = Verifier([ours, theirs])
    assert both.grants(token(CLAIMS | {"iss": "b"}, "b" * 32), NOW).subject == "u42"
    assert "no key" in reason(both, token(CLAIMS | {"iss": "b"}, "a" * 32))


def unsigned(header: str, payload: str) -> str:
    return ".".join([jwt.utils.base64url_encode(text.encode()).decode() for text in (header, payload, "x")])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a.b.c",
        "\ud800.\ud800.\ud800",
        "é.é.é",
        unsigned("{}", "[" * 5_000),
        unsigned("[" * 5_000, "{}"),
        unsigned('{"alg":"HS256"}', '{"a":' * 900 + "1" + "}" * 900),
        unsigned('{"alg":"HS256"}', '{"exp":' + "9" * 5_000 + "}"),
        unsigned('{"alg":"HS256","crit":["\\ud800"]}', "{}"),
    ],
)
def test_what_is_no_token_is_refused_in_words_that_json_can_hold(text: str) -> None:
    assert len(text) <= LONGEST_TOKEN
    reason(verifier(), text).encode("ascii")


def test_long_texts_are_refused_unread() -> None:
    assert "longer" in reason(verifier(), "a" * (LONGEST_TOKEN + 1))


def test_wrong_keys_are_named() -> None:
    for text, algorithm in (("", "HS256"), ("secret", "none"), ("not a key", "RS256"), ("secret", "hs256")):
        with pytest.raises(InvalidSetting):
            read_key(text, algorithm)
    assert is_short(read_key("short", "HS256"))
    assert not is_short(read_key(SECRET, "HS256"))


def test_a_private_key_verifies_what_it_has_signed() -> None:
    """Whoever gives it to the service by mistake is served; the service needs the public key only."""
    private = PRIVATE["ES256"]()
    text = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    signed = token(key=private, algorithm="ES256")
    assert Verifier([Issuer([read_key(text, "ES256")])]).grants(signed, NOW).subject == "u42"
