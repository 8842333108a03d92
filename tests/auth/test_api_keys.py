"""API keys: found by their hash, and refused with a reason."""

from __future__ import annotations

import pytest

from pushsvc.auth.api_keys import ApiKeys, hash_of, read_api_key
from pushsvc.auth.grants import Action
from pushsvc.errors import InvalidSetting, InvalidToken


def test_a_key_has_its_grants_and_its_name() -> None:
    keys = ApiKeys(tuple(read_api_key(n, {"hash": hash_of(f"key of {n}"), "publish": [f"{n}.>"]}) for n in "ab"))
    grants = keys.grants("key of b")
    assert (grants.subject, grants.may(Action.PUBLISH, "b.c"), grants.may(Action.PUBLISH, "a.c")) == ("b", True, False)
    for wrong in ("key of c", "", hash_of("key of a"), "\udcff"):
        with pytest.raises(InvalidToken):
            keys.grants(wrong)


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        ({}, "keys.a.hash"),
        ({"hash": "key of a"}, "keys.a.hash"),
        ({"hash": "sha256:" + "x" * 64}, "keys.a.hash"),
        ({"hash": hash_of("a"), "publish": "b"}, "keys.a: publish"),
        ({"hash": hash_of("a"), "read": ["b"]}, "keys.a: 'read'"),
    ],
)
def test_a_wrong_entry_is_named(entry: dict[str, object], named: str) -> None:
    with pytest.raises(InvalidSetting) as raised:
        read_api_key("a", entry)
    assert named in raised.value.detail
