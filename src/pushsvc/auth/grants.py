"""What a subject may do: grants of topics, each limited to keys or not.

A claim has three lists of grants, and how many streams the subject may hold at a time; all four may be left out::

    {"publish": ["shop.>"], "subscribe": [{"topics": "orders", "keys": ["u42"]}], "manage": [], "connections": 3}
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from math import inf
from typing import Any

from pushsvc.errors import InvalidTopic
from pushsvc.topic import check_pattern, matches

MOST_GRANTS = 100
"""Most grants of one action."""

MOST_KEYS = 1_000
"""Most keys of one grant."""

LONGEST_KEY = 200
"""Most characters of a key."""

MOST_CONNECTIONS = 1_000_000

NO_KEYS: frozenset[str] = frozenset()


class Action(StrEnum):
    PUBLISH = "publish"
    SUBSCRIBE = "subscribe"
    MANAGE = "manage"


_MEMBERS = (*Action, "connections")


class InvalidGrants(ValueError):
    """A claim is not what it should be. The text names the place."""


@dataclass(frozen=True, slots=True)
class Grant:
    """The topics of a name or pattern; ``keys`` limits them to the events and rows of some keys, None does not."""

    topics: str
    keys: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Grants:
    """What ``subject`` may do until ``expires`` (epoch seconds). ``issued`` is None where the token does not say.

    ``connections`` is how many streams the subject may hold at a time, None for no limit of its own.
    """

    publish: tuple[Grant, ...] = ()
    subscribe: tuple[Grant, ...] = ()
    manage: tuple[Grant, ...] = ()
    subject: str = ""
    connections: int | None = None
    expires: float = inf
    issued: float | None = None

    def keys(self, action: Action, topic: str) -> frozenset[str] | None:
        """Return the keys of a topic that the action may concern: None for all, NO_KEYS for none at all."""
        return _keys(self._of(action), topic)

    def may(self, action: Action, topic: str) -> bool:
        """Return whether the action is granted for some key of a topic."""
        return self.keys(action, topic) != NO_KEYS

    def may_all(self, action: Action) -> bool:
        """Return whether the action is granted for every topic and key."""
        return any(grant.topics == ">" and grant.keys is None for grant in self._of(action))

    def may_some(self, action: Action, pattern: str) -> bool:
        """Return whether the action is granted for a topic that the pattern may match."""
        return any(overlap(pattern, grant.topics) for grant in self._of(action))

    def _of(self, action: Action) -> tuple[Grant, ...]:
        if action is Action.PUBLISH:
            return self.publish
        return self.subscribe if action is Action.SUBSCRIBE else self.manage


NOTHING = Grants()
EVERYTHING = Grants((Grant(">"),), (Grant(">"),), (Grant(">"),))


@lru_cache(4_096)
def _keys(grants: tuple[Grant, ...], topic: str) -> frozenset[str] | None:
    keys = NO_KEYS
    for grant in grants:
        if matches(grant.topics, topic):
            if grant.keys is None:
                return None
            keys |= grant.keys
    return keys


def overlap(one: str, other: str) -> bool:
    """Return whether some topic matches both patterns."""
    for mine, theirs in zip(ones := one.split("."), others := other.split("."), strict=False):
        if ">" in (mine, theirs):
            return True
        if mine != theirs and "*" not in (mine, theirs):
            return False
    return len(ones) == len(others)


def read_grants(claim: Any) -> Grants:
    """Return the grants of a claim. Raise InvalidGrants."""
    if not isinstance(claim, Mapping):
        raise InvalidGrants(f"an object with {', '.join(_MEMBERS)} is expected, this is {_kind_of(claim)}")
    unknown = claim.keys() - set(_MEMBERS)
    if unknown:
        raise InvalidGrants(f"{_first(unknown)!r} is none of {', '.join(_MEMBERS)}")
    connections = claim.get("connections")
    if connections is not None and (type(connections) is not int or not 0 <= connections <= MOST_CONNECTIONS):
        raise InvalidGrants(f"connections: a whole number from 0 to {MOST_CONNECTIONS} is expected")
    publish, subscribe, manage = (_read_list(action, claim.get(action, [])) for action in Action)
    return Grants(publish, subscribe, manage, connections=connections)


def _read_list(action: str, grants: Any) -> tuple[Grant, ...]:
    if not isinstance(grants, list):
        raise InvalidGrants(f"{action}: a list is expected, this is {_kind_of(grants)}")
    if len(grants) > MOST_GRANTS:
        raise InvalidGrants(f"{action}: at most {MOST_GRANTS} grants are read, these are {len(grants)}")
    return tuple(dict.fromkeys(_read_grant(f"{action}[{place}]", grant) for place, grant in enumerate(grants)))


def _read_grant(where: str, grant: Any) -> Grant:
    if isinstance(grant, str):
        return Grant(_read_pattern(where, grant))
    if not isinstance(grant, Mapping) or not isinstance(grant.get("topics"), str):
        raise InvalidGrants(f'{where}: a pattern or {{"topics": pattern, "keys": [...]}} is expected')
    unknown = grant.keys() - {"topics", "keys"}
    if unknown:  # it may be a limit that this version does not know
        raise InvalidGrants(f"{where}: {_first(unknown)!r} is none of topics, keys")
    pattern = _read_pattern(where, grant["topics"])
    if "keys" not in grant:
        return Grant(pattern)
    keys = grant["keys"]
    if not isinstance(keys, list) or not all(isinstance(key, str) and 0 < len(key) <= LONGEST_KEY for key in keys):
        raise InvalidGrants(f"{where}.keys: a list of texts of 1 to {LONGEST_KEY} characters is expected")
    if len(keys) > MOST_KEYS:
        raise InvalidGrants(f"{where}.keys: at most {MOST_KEYS} keys are read, these are {len(keys)}")
    return Grant(pattern, frozenset(keys))


def _read_pattern(where: str, pattern: str) -> str:
    try:
        return check_pattern(pattern)
    except InvalidTopic as error:
        raise InvalidGrants(f"{where}: {error.detail}") from None


def _first(names: Iterable[Any]) -> str:
    return str(min(names, key=str))[:100]


def _kind_of(value: Any) -> str:
    return "null" if value is None else type(value).__name__
