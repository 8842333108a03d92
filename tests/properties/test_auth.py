"""Grants and tokens against plain words: random patterns, topics, claims and damage."""

import base64
import json

import jwt
from hypothesis import given
from hypothesis import strategies as st

from pushsvc.auth.grants import Action, overlap, read_grants
from pushsvc.auth.tokens import Issuer, Verifier, read_key
from pushsvc.errors import InvalidToken
from pushsvc.topic import matches

SECRET = "a secret of more than thirty-two bytes"
NOW = 1_800_000_000

segments = st.sampled_from("abc")
topics = st.lists(segments, min_size=1, max_size=4).map(".".join)
patterns = st.tuples(
    st.lists(st.one_of(segments, st.just("*")), max_size=3), st.sampled_from([[], ["a"], [">"], ["*"]])
).map(lambda parts: ".".join(parts[0] + parts[1]) or ">")
keys = st.one_of(st.none(), st.lists(st.sampled_from(["u1", "u2", "u3"]), max_size=2))
grants = st.lists(st.tuples(patterns, keys), max_size=5)


@given(patterns, patterns, topics)
def test_patterns_that_match_the_same_topic_overlap(one, other, topic):
    if matches(one, topic) and matches(other, topic):
        assert overlap(one, other)


@given(patterns, patterns)
def test_patterns_that_overlap_match_a_topic_together(one, other):
    if overlap(one, other):
        length = max(len(one.split(".")), len(other.split(".")))
        shown = [[part for part in pattern.split(".") if part != ">"] for pattern in (one, other)]
        topic = []
        for place in range(length):
            named = [parts[place] for parts in shown if place < len(parts) and parts[place] != "*"]
            topic.append(named[0] if named else "x")
        assert matches(one, ".".join(topic)), topic
        assert matches(other, ".".join(topic)), topic


@given(grants, topics)
def test_keys_are_the_union_of_all_grants_that_match(granted, topic):
    claim = [pattern if some is None else {"topics": pattern, "keys": some} for pattern, some in granted]
    found = read_grants({"subscribe": claim}).keys(Action.SUBSCRIBE, topic)
    matching = [some for pattern, some in granted if matches(pattern, topic)]
    if None in matching:
        assert found is None
    else:
        assert found == {key for some in matching for key in some}


@given(st.text(max_size=60))
def test_any_text_is_refused_as_a_token(text):
    _refused(text)


@given(st.data())
def test_a_token_with_any_changed_byte_is_refused(data):
    token = jwt.encode({"exp": NOW + 60, "pushsvc": {"subscribe": [">"]}}, SECRET, "HS256")
    place = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.sampled_from("ABab01-_.").filter(lambda letter: letter != token[place]))
    changed = token[:place] + other + token[place + 1 :]
    if _bytes_of(changed) != _bytes_of(token):  # the last letter of base64 has bits that mean nothing
        _refused(changed)


@given(st.dictionaries(st.sampled_from(["alg", "typ", "kid", "jwk", "jku", "x5u", "crit"]), st.text(max_size=9)))
def test_a_header_of_the_tokens_choice_never_replaces_the_key(header):
    claims = {"exp": NOW + 60, "pushsvc": {"subscribe": [">"]}}
    parts = [json.dumps(part).encode() for part in (header, claims)]
    _refused(".".join([*map(_encode, parts), ""]))


def _encode(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _bytes_of(token):
    try:
        return [base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in token.split(".")]
    except ValueError:
        return token


def _refused(token):
    try:
        Verifier([Issuer([read_key(SECRET, "HS256")])]).grants(token, NOW)
    except InvalidToken:
        return
    raise AssertionError(f"{token!r} was accepted")
