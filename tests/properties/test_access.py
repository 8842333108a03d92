"""Credentials of any form against plain accounts: nothing but the documented error, and never more than was granted."""

from __future__ import annotations

import base64
import json
import math
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushsvc.auth.access import Access, Presented
from pushsvc.auth.api_keys import PREFIX, ApiKeys, hash_of, read_api_key
from pushsvc.auth.grants import Action, Grants, InvalidGrants, claim_of, includes, read_grants
from pushsvc.auth.tokens import Issuer, Verifier, read_jwks, read_key
from pushsvc.errors import InvalidSetting, InvalidToken
from pushsvc.topic import matches

SECRET, OTHER = "a secret of more than thirty-two bytes", "another secret of more than thirty-two bytes"
NOW = 1_800_000_000
TOPICS = ["a", "b", "a.a", "a.b", "b.a", "a.b.c", "c"]
ADMIN = {"publish": [">"], "subscribe": [">"], "manage": [">"]}

segments = st.sampled_from("abc")
patterns = st.one_of(
    st.lists(st.one_of(segments, st.just("*")), min_size=1, max_size=3).map(".".join),
    st.lists(segments, max_size=2).map(lambda parts: ".".join([*parts, ">"])),
)
keys = st.lists(st.sampled_from(["u1", "u2"]), max_size=2)
entries = st.one_of(patterns, st.builds(lambda pattern, some: {"topics": pattern, "keys": some}, patterns, keys))
claims = st.fixed_dictionaries({}, optional={action.value: st.lists(entries, max_size=4) for action in Action})
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | patterns
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4)
)
members = st.sampled_from(["publish", "subscribe", "manage", "connections", "topics", "keys", "publisch"])
odd_claims = values | st.dictionaries(
    members, values | st.lists(st.dictionaries(members, values | st.lists(values, max_size=3), max_size=3), max_size=3)
)
times = st.one_of(
    st.integers(NOW - 100, NOW + 100), st.floats(), st.integers(), st.none(), st.booleans(), st.text(max_size=4),
)  # fmt: skip


def signed(claims: dict[str, Any], secret: str = SECRET, header: dict[str, Any] | None = None) -> str:
    """Return a token with any claims, also with those that PyJWT refuses to encode."""
    parts = [json.dumps(part).encode() for part in ({"alg": "HS256", **(header or {})}, claims)]
    signed = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
    signature = jwt.get_algorithm_by_name("HS256").sign(signed, secret.encode())
    return b".".join([signed, base64.urlsafe_b64encode(signature).rstrip(b"=")]).decode()


def verifier(**options: Any) -> Verifier:
    return Verifier([Issuer([read_key(SECRET, "HS256")], **options)])


def granted(claim: Any, action: str, topic: str) -> set[str] | None:
    """Return the keys that a claim grants, by its plain reading: None for all."""
    found: set[str] = set()
    for entry in claim.get(action, []):
        pattern = entry if isinstance(entry, str) else entry["topics"]
        if matches(pattern, topic):
            if isinstance(entry, str) or "keys" not in entry:
                return None
            found |= set(entry["keys"])
    return found


def assert_equal_to_claim(grants: Grants, *claims: Any) -> None:
    for action in Action:
        for topic in TOPICS:
            wanted = [granted(claim, action.value, topic) for claim in claims]
            found = grants.keys(action, topic)
            assert found == (None if None in wanted else set().union(*wanted))
            assert grants.may(action, topic) == (found is None or bool(found))


@given(odd_claims)
def test_any_claim_is_read_or_refused(claim: Any) -> None:
    try:
        grants = read_grants(claim)
    except InvalidGrants:
        return
    assert_equal_to_claim(grants, claim)


@given(claims)
def test_claims_round_trip(claim: Any) -> None:
    grants = read_grants(claim)
    assert_equal_to_claim(grants, claim)
    assert read_grants(claim_of(grants)) == grants


@given(claims, claims)
def test_grants_together_are_those_of_both_and_no_more(one: Any, other: Any) -> None:
    assert_equal_to_claim(read_grants(one).plus(read_grants(other)), one, other)


@given(patterns, patterns)
def test_pattern_that_includes_another_matches_all_its_topics(wide: str, narrow: str) -> None:
    if includes(wide, narrow):
        assert all(matches(wide, topic) for topic in TOPICS if matches(narrow, topic))


@given(claims, patterns)
def test_whole_pattern_is_granted_only_with_all_its_topics_and_keys(claim: Any, pattern: str) -> None:
    grants = read_grants(claim)
    for action in Action:
        if grants.of(action).includes(pattern):
            assert all(grants.keys(action, topic) is None for topic in TOPICS if matches(pattern, topic))
        if any(grants.may(action, topic) for topic in TOPICS if matches(pattern, topic)):
            assert grants.may_some(action, pattern)


@given(st.dictionaries(st.sampled_from(["exp", "nbf", "iat", "iss", "aud", "sub", "pushsvc", "jti"]), values))
def test_signed_token_with_any_claims_is_read_or_refused(claims: dict[str, Any]) -> None:
    grants = answer(verifier(), signed(claims), NOW)
    if isinstance(grants, str):
        assert grants.encode().decode().isprintable(), "the reason would break a line of the log, or JSON"
        return
    assert_equal_to_claim(grants, claims.get("pushsvc", {}))
    assert grants.subject == claims.get("sub", "")


@given(times, times, times, st.booleans())
def test_token_holds_only_between_its_times(exp: Any, nbf: Any, iat: Any, needs: bool) -> None:
    given_times = {"exp": exp, "nbf": nbf, "iat": iat}
    token = signed({**given_times, "pushsvc": ADMIN})
    try:
        grants = verifier(needs_expiry=needs, leeway=0).grants(token, NOW)
    except InvalidToken:
        return
    for value in given_times.values():
        assert value is None or (type(value) in (int, float) and math.isfinite(value))
    assert exp is not None or not needs
    assert exp is None or NOW < exp == grants.expires
    assert nbf is None or nbf <= NOW
    assert iat is None or iat <= NOW + 1


@given(st.data())
def test_token_is_taken_only_from_its_issuer_and_for_its_audience(data: st.DataObject) -> None:
    names = st.sampled_from(["one", "two", "three", None])
    issuers = Verifier([
        Issuer([read_key(SECRET, "HS256")], "one", ("here",)), Issuer([read_key(OTHER, "HS256")], "two"),
    ])  # fmt: skip
    name, secret = data.draw(names), data.draw(st.sampled_from([SECRET, OTHER]))
    audience = data.draw(st.sampled_from([None, "here", "there", ["there", "here"], [], {"here": 1}, 5]))
    token = signed({"iss": name, "aud": audience, "exp": NOW + 9, "pushsvc": ADMIN}, secret)
    try:
        issuers.grants(token, NOW)
    except InvalidToken:
        assert (name, secret) != ("two", OTHER)
        return
    assert (name, secret) in (("one", SECRET), ("two", OTHER))
    assert name == "two" or "here" in audience


@given(
    st.dictionaries(st.sampled_from(["alg", "typ", "kid", "jwk", "jku", "x5u", "x5c", "crit", "b64", "zip"]), values)
)
def test_header_of_a_token_never_chooses_another_key(header: dict[str, Any]) -> None:
    for secret in (OTHER, ""):
        with pytest.raises(InvalidToken):
            verifier().grants(signed({"exp": NOW + 9, "pushsvc": ADMIN}, secret, header), NOW)


jwk = st.dictionaries(
    st.sampled_from(["kty", "alg", "use", "kid", "k", "n", "e", "crv", "x", "y"]),
    values | st.sampled_from(["RSA", "EC", "OKP", "sig"]),
)


@given(values | st.fixed_dictionaries({"keys": st.lists(values | jwk)}))
def test_any_document_is_a_set_of_keys_or_refused(document: Any) -> None:
    try:
        assert read_jwks(document) == []
    except InvalidSetting:
        return


@given(values | st.dictionaries(st.sampled_from(["hash", "publish", "subscribe"]), values, max_size=3))
def test_any_entry_of_a_key_is_read_or_refused(entry: Any) -> None:
    if isinstance(entry, dict):
        with pytest.raises(InvalidSetting):
            read_api_key("name", entry)


API_KEY = f"{PREFIX}key-of-a-producer"
ANONYMOUS = {"subscribe": ["a"]}
PRODUCER = {"publish": ["b"]}
READER = {"subscribe": ["b.>"]}
VALID = {signed({"exp": NOW + 50, "iat": NOW - 50, "sub": "u", "pushsvc": READER}): READER, API_KEY: PRODUCER}
texts = st.one_of(st.sampled_from([*VALID, signed({"exp": NOW - 50}), signed({}), "", "x"]), st.text(max_size=30))


def access(remembered: int = 10_000) -> Access:
    key = read_api_key("producer", {"hash": hash_of(API_KEY), **PRODUCER})
    anonymous = read_grants(ANONYMOUS)
    return Access(verifier(), ApiKeys((key,)), anonymous, accepts_parameter=True, remembered=remembered)


@given(
    st.none() | st.tuples(st.sampled_from(["Bearer ", "bearer  ", "Basic ", ""]), texts),
    st.none() | texts,
    st.none() | texts,
)
def test_first_of_header_cookie_and_parameter_counts(
    header: tuple[str, str] | None, cookie: str | None, parameter: str | None
) -> None:
    presented = Presented(None if header is None else "".join(header), cookie, parameter)
    first = header[1].strip() if header is not None else cookie if cookie is not None else parameter
    try:
        grants = access().grants(presented, NOW)
    except InvalidToken:
        assert first not in VALID or (header is not None and not header[0].lower().startswith("bearer"))
        return
    assert_equal_to_claim(grants, ANONYMOUS, {} if first is None else VALID[first])


tokens = st.builds(
    lambda subject, begin, length, claim: signed(
        {"sub": subject, "iat": NOW + begin, "exp": NOW + begin + length, "pushsvc": claim}
    ),
    st.sampled_from(["u", "v"]), st.integers(0, 20), st.integers(1, 40), claims,
)  # fmt: skip
revocations = st.tuples(st.sampled_from(["u", "v"]), st.integers(0, 60))


@given(st.lists(tokens, min_size=1, max_size=4), st.data())
def test_what_is_remembered_changes_no_answer(presented: list[str], data: st.DataObject) -> None:
    """A process that remembers few, and one that remembers nothing, answer alike over time and revocations."""
    remembering, now = access(remembered=700), float(NOW)
    revoked: list[tuple[str, int]] = []
    for _ in range(8):
        now += data.draw(st.integers(0, 15))
        if data.draw(st.booleans()):
            revoked.append(data.draw(revocations))
            remembering.revocations.add(revoked[-1][0], NOW + revoked[-1][1])
        fresh = access(remembered=0)
        for subject, at in revoked:
            fresh.revocations.add(subject, NOW + at)
        one = Presented(authorization=f"Bearer {data.draw(st.sampled_from(presented))}")
        assert answer(remembering, one, now) == answer(fresh, one, now)


def answer(access: Any, presented: Presented | str, now: float) -> Grants | str:
    try:
        return access.grants(presented, now)
    except InvalidToken as error:
        return error.detail
