"""Which credentials of a request count, and for how long they are remembered."""

from __future__ import annotations

from typing import Any

import jwt
import pytest

from pushsvc.auth.access import Access, Presented
from pushsvc.auth.api_keys import PREFIX, ApiKeys, hash_of, read_api_key
from pushsvc.auth.grants import NOTHING, Action, Grants, read_grants
from pushsvc.auth.tokens import LONGEST_TOKEN, Issuer, Verifier, read_key
from pushsvc.errors import BrokerUnavailable, InvalidToken

SECRET = "a secret of more than thirty-two bytes"
API_KEY = PREFIX + "producer-0123456789"
NOW = 1_800_000_000.0


def token(topic: str = "a", seconds: float = 60) -> str:
    claims = {"exp": NOW + seconds, "sub": "u42", "iat": NOW, "pushsvc": {"subscribe": [topic]}}
    return jwt.encode(claims, SECRET, "HS256")


def access(anonymous: Grants = NOTHING, **options: Any) -> Access:
    keys = ApiKeys((read_api_key("producer", {"hash": hash_of(API_KEY), "publish": ["a"]}),))
    verifier = Verifier([Issuer([read_key(SECRET, "HS256")], leeway=0)])
    return Access(verifier, keys, anonymous, **options)


def bearer(text: str) -> Presented:
    return Presented(f"Bearer {text}")


def test_the_header_counts_before_the_cookie_and_this_before_the_parameter() -> None:
    of = access(accepts_parameter=True)
    for presented, topic in (
        (Presented(f"bearer  {token('a')}", token("b"), token("c")), "a"),
        (Presented(None, token("b"), token("c")), "b"),
        (Presented(None, None, token("c")), "c"),
    ):
        grants = of.grants(presented, NOW)
        assert [name for name in "abc" if grants.may(Action.SUBSCRIBE, name)] == [topic]
        assert (grants.subject, grants.issued) == ("u42", NOW)


@pytest.mark.parametrize(
    "presented",
    [
        Presented("Basic dTpw", token()),
        Presented("Bearer", token()),
        Presented("Bearer ", token()),
        Presented("", token()),
        Presented(None, "nonsense", token()),
        Presented(None, None, token()),
        bearer("\ud800"),
        bearer("a" * (LONGEST_TOKEN + 1)),
        bearer(API_KEY + "x"),
    ],
)
def test_what_counts_is_refused_even_if_something_valid_follows(presented: Presented) -> None:
    with pytest.raises(InvalidToken):
        access(read_grants({"subscribe": [">"]})).grants(presented, NOW)


def test_the_topics_of_anonymous_are_granted_besides() -> None:
    of = access(read_grants({"subscribe": ["news", {"topics": "a", "keys": ["k"]}]}))
    assert of.grants(Presented(), NOW).keys(Action.SUBSCRIBE, "a") == {"k"}
    for presented in (bearer(token()), bearer(API_KEY)):
        assert of.grants(presented, NOW).may(Action.SUBSCRIBE, "news")
    assert of.grants(bearer(token()), NOW).keys(Action.SUBSCRIBE, "a") is None
    assert of.grants(bearer(API_KEY), NOW).may(Action.PUBLISH, "a")


def test_a_remembered_token_expires() -> None:
    of, one = access(), bearer(token())
    grants = of.grants(one, NOW)
    assert of.grants(one, NOW + 59.9) is grants
    assert of.is_current(grants, NOW + 59.9)
    assert not of.is_current(grants, NOW + 60)
    for now in (NOW + 60, NOW + 60):
        with pytest.raises(InvalidToken, match="expired"):
            of.grants(one, now)


def test_credentials_of_as_many_characters_are_remembered_as_allowed() -> None:
    of = access(remembered=2 * len(token("a")) + 10)
    first = of.grants(bearer(token("a")), NOW)
    second = of.grants(bearer(token("b")), NOW)
    assert of.grants(bearer(token("b")), NOW) is second
    of.grants(bearer(token("c")), NOW)
    again = of.grants(bearer(token("a")), NOW)
    assert again == first
    assert again is not first


def test_a_token_is_verified_again_after_a_while() -> None:
    keys = [read_key(SECRET, "HS256")]
    of = Access(Verifier([Issuer(keys, leeway=0)]), recheck=10)
    grants = of.grants(bearer(token()), NOW)
    keys.clear()  # the issuer has withdrawn it
    assert of.grants(bearer(token()), NOW + 9) is grants
    assert of.is_current(grants, NOW + 9)
    assert not of.is_current(grants, NOW + 10)
    for _ in range(2):
        with pytest.raises(InvalidToken, match="no key"):
            of.grants(bearer(token()), NOW + 10)


def test_no_token_outlives_what_is_remembered_of_revocations() -> None:
    of = access(lifetime=30.0)
    long = bearer(token(seconds=3_600))
    assert of.grants(long, NOW + 29.9).expires == NOW + 30
    with pytest.raises(InvalidToken, match="expired"):
        of.grants(long, NOW + 30)
    without_iat = {"exp": NOW + 31, "sub": "u42", "pushsvc": {}}
    with pytest.raises(InvalidToken, match="no iat"):
        of.grants(bearer(jwt.encode(without_iat, SECRET, "HS256")), NOW)
    of.grants(bearer(jwt.encode(without_iat | {"exp": NOW + 30}, SECRET, "HS256")), NOW)
    with pytest.raises(InvalidToken, match="future"):
        of.grants(bearer(jwt.encode(without_iat | {"iat": NOW + 5}, SECRET, "HS256")), NOW)


def test_revoked_credentials_are_refused_at_their_next_use() -> None:
    of = access()
    known, key = of.grants(bearer(token()), NOW), of.grants(bearer(API_KEY), NOW)
    of.revocations.add("u42", NOW + 1)
    of.revocations.add("producer", NOW + 1)
    for grants, presented in ((known, bearer(token())), (key, bearer(API_KEY))):
        assert not of.is_current(grants, NOW + 2)
        with pytest.raises(InvalidToken, match="revoked"):
            of.grants(presented, NOW + 2)


def test_tokens_wait_for_the_list_of_revocations() -> None:
    of = access(read_grants({"subscribe": ["news"]}))
    of.revocations.known = False

    def fail() -> None:
        raise BrokerUnavailable("away")

    of.revocations.load = fail
    with pytest.raises(BrokerUnavailable):
        of.grants(bearer(token()), NOW)
    assert of.grants(Presented(), NOW).may(Action.SUBSCRIBE, "news")
    of.revocations.load = lambda: of.revocations.add("u42", NOW + 1) and of.revocations.complete(0.0)
    with pytest.raises(InvalidToken, match="revoked"):
        of.grants(bearer(token()), NOW)


def test_with_an_application_only_what_is_ours_is_decided_here() -> None:
    keys = ApiKeys((read_api_key("producer", {"hash": hash_of(API_KEY), "publish": ["a"]}),))
    without_issuers = Access(Verifier([]), keys, asks_application=True)
    for presented, expected in ((Presented(), False), (bearer("opaque"), False), (bearer(API_KEY + "x"), True),
                                (Presented("Basic dTpw"), False), (Presented(cookie=API_KEY), True)):  # fmt: skip
        assert without_issuers.decides(presented) is expected
    with_issuers = access(asks_application=True)
    assert with_issuers.decides(bearer("opaque"))
    assert not with_issuers.decides(Presented())
    assert access().decides(Presented())
