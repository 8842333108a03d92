"""Grants: what claims mean, and how wrong ones are refused."""

import pytest

from pushsvc.auth.grants import EVERYTHING, NO_KEYS, NOTHING, Action, InvalidGrants, includes, overlap, read_grants

SUBSCRIBE = Action.SUBSCRIBE


def test_grants_are_those_of_the_action_and_the_topic() -> None:
    grants = read_grants({"publish": ["shop.>"], "subscribe": ["shop.*", "orders"]})
    assert grants.may(Action.PUBLISH, "shop.a.b")
    assert not grants.may(Action.PUBLISH, "orders")
    assert grants.may(SUBSCRIBE, "orders")
    assert grants.may(SUBSCRIBE, "shop.a")
    assert not grants.may(SUBSCRIBE, "shop.a.b")
    assert not grants.may(Action.MANAGE, "orders")


def test_keys_of_several_grants_are_united() -> None:
    limited = [("orders", ["a"]), ("*", ["b"]), ("free", [])]
    grants = read_grants({"subscribe": [{"topics": topics, "keys": keys} for topics, keys in limited]})
    assert grants.keys(SUBSCRIBE, "orders") == {"a", "b"}
    assert grants.keys(SUBSCRIBE, "free") == {"b"}
    assert grants.keys(SUBSCRIBE, "a.b") == NO_KEYS
    unlimited = read_grants({"subscribe": [{"topics": "orders", "keys": ["a"]}, "orders"]})
    assert unlimited.keys(SUBSCRIBE, "orders") is None


def test_a_grant_without_keys_grants_nothing() -> None:
    grants = read_grants({"subscribe": [{"topics": "orders", "keys": []}]})
    assert not grants.may(SUBSCRIBE, "orders")


@pytest.mark.parametrize("action", Action)
def test_everything_and_nothing(action: Action) -> None:
    assert EVERYTHING.may_all(action)
    assert EVERYTHING.keys(action, "a.b") is None
    assert not NOTHING.may(action, "a")
    assert not NOTHING.may_some(action, ">")


@pytest.mark.parametrize(
    ("claim", "named"),
    [
        (None, "null"),
        ([], "list"),
        ({"subscribe": "orders"}, "subscribe: a list"),
        ({"read": []}, "'read'"),
        ({"publish": ["a", "b..c"]}, "publish[1]"),
        ({"publish": [7]}, "publish[0]"),
        ({"publish": [{"topics": 7}]}, "publish[0]"),
        ({"manage": [{"topics": "a", "only": []}]}, "manage[0]: 'only'"),
        ({"subscribe": [{"topics": "a", "keys": "u"}]}, "subscribe[0].keys"),
        ({"subscribe": [{"topics": "a", "keys": [""]}]}, "subscribe[0].keys"),
        ({"subscribe": [{"topics": "a", "keys": ["k" * 201]}]}, "subscribe[0].keys"),
        ({"subscribe": [{"topics": "a", "keys": [str(n) for n in range(1_001)]}]}, "1001"),
        ({"subscribe": ["a"] * 101}, "101"),
        ({"connections": True}, "connections"),
        ({"connections": -1}, "connections"),
    ],
)
def test_a_wrong_claim_is_refused_with_its_place(claim: object, named: str) -> None:
    with pytest.raises(InvalidGrants) as raised:
        read_grants(claim)
    assert named in str(raised.value)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("a", "a", True), ("a", "b", False), ("a.b", "a.>", True), ("a", "a.>", False), ("*", "a.>", False),
        ("*.b", "a.*", True), ("a.*.>", "a.>", True), (">", "a.b.c", True), ("a.*", "a.b.c", False),
    ],
)  # fmt: skip
def test_overlap_of_patterns(one: str, other: str, expected: bool) -> None:
    assert overlap(one, other) is overlap(other, one) is expected


@pytest.mark.parametrize(
    ("wide", "narrow", "expected"),
    [
        (">", "a.*", True), ("a.>", "a.b.>", True), ("a.>", "a", False), ("a.*", "a.>", False), ("a.*", "a.*", True),
        ("*.b", "a.b", True), ("a.b", "a.*", False), ("a.*", "a.b.c", False), ("a.>", "*.b", False),
    ],
)  # fmt: skip
def test_one_pattern_includes_another(wide: str, narrow: str, expected: bool) -> None:
    assert includes(wide, narrow) is expected


def test_only_unlimited_grants_include_a_pattern() -> None:
    subscribe = read_grants({"subscribe": ["a.>", {"topics": "b.>", "keys": ["k"]}]}).subscribe
    assert subscribe.includes("a.*")
    assert not subscribe.includes("b.*")


def test_grants_that_allow_the_same_are_equal() -> None:
    one = read_grants({"subscribe": ["a", {"topics": "b", "keys": ["x"]}, {"topics": "b", "keys": ["y"]}]}).subscribe
    other = read_grants({"subscribe": [{"topics": "b", "keys": ["y", "x"]}, "a", {"topics": "a", "keys": ["z"]}]})
    assert one == other.subscribe
    assert hash(one) == hash(other.subscribe)
    assert one != read_grants({"subscribe": ["a", "b"]}).subscribe
    assert one | read_grants({"subscribe": ["b"]}).subscribe == read_grants({"subscribe": ["a", "b"]}).subscribe
