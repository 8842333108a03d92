"""What a subject may do: grants of topics, each limited to keys or not.

A claim has three lists of grants, and how many streams the subject may hold at a time; all four may be left out::

    {"publish": ["shop.>"], "subscribe": [{"topics": "orders", "keys": ["u42"]}], "manage": [], "connections": 3}
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from math import inf
from typing import Any

from pushsvc.errors import InvalidTopic
from pushsvc.topic import DEAD, Shapes, check_pattern, is_dead

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
    """A claim is invalid. The text names the place."""


@dataclass(frozen=True, slots=True)
class Grant:
    """The topics of a name or pattern; ``keys`` limits them to the events and rows of some keys, None does not."""

    topics: str
    keys: frozenset[str] | None = None


class TopicGrants:
    """The grants of one action. Requests with equal ones share streams, so the hash is computed once."""

    __slots__ = ("_hash", "_keys", "_last", "_shapes")

    def __init__(self, grants: Iterable[Grant] = ()) -> None:
        self._keys: dict[str, frozenset[str] | None] = {}
        for grant in grants:
            known = self._keys.get(grant.topics, NO_KEYS)
            united = None if known is None or grant.keys is None else known | grant.keys
            if united != NO_KEYS:
                self._keys[grant.topics] = united
        self._shapes = Shapes(self._keys)
        self._hash = hash(frozenset(self._keys.items()))
        self._last: tuple[str, frozenset[str] | None] = "", NO_KEYS  # a producer asks for the same topic again

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TopicGrants) and self._keys == other._keys

    def __hash__(self) -> int:
        return self._hash

    def __bool__(self) -> bool:
        return bool(self._keys)

    def __or__(self, other: "TopicGrants") -> "TopicGrants":
        pairs = (*self._keys.items(), *other._keys.items())
        return TopicGrants(Grant(topics, keys) for topics, keys in pairs)

    def __repr__(self) -> str:
        return f"TopicGrants({self._keys})"

    @property
    def patterns(self) -> frozenset[str]:
        """Return the names and patterns of the topics."""
        return frozenset(self._keys)

    def listed(self) -> list[str | dict[str, Any]]:
        """Return the grants as in a claim."""
        return [
            topics if keys is None else {"topics": topics, "keys": sorted(keys)} for topics, keys in self._keys.items()
        ]

    @property
    def unlimited(self) -> "TopicGrants":
        """Return the grants without a limit to keys."""
        return TopicGrants(Grant(topics) for topics, keys in self._keys.items() if keys is None)

    @property
    def is_everything(self) -> bool:
        """Return whether all keys of all topics are granted."""
        return self._keys.get(">", NO_KEYS) is None

    @property
    def limits_keys(self) -> bool:
        """Return whether some topics are granted for some keys only."""
        return any(keys is not None for keys in self._keys.values())

    def keys(self, topic: str) -> frozenset[str] | None:
        """Return the keys of a topic that are granted: None for all, NO_KEYS for none at all."""
        last, keys = self._last
        if last != topic:
            keys = self._find(topic)
            self._last = topic, keys
        return keys

    def _find(self, topic: str) -> frozenset[str] | None:
        granted = self._keys
        if is_dead(topic):
            return granted.get(topic, NO_KEYS)  # no pattern covers it; see also Grants.keys
        if granted.get(">", NO_KEYS) is None or granted.get(topic, NO_KEYS) is None:
            return None
        keys = NO_KEYS
        for pattern in self._shapes.candidates(topic):
            found = granted.get(pattern, NO_KEYS)
            if found is None:
                return None
            keys |= found
        return keys

    def may_some(self, pattern: str) -> bool:
        """Return whether a topic may be granted that the pattern matches."""
        return any(overlap(pattern, topics) for topics in self._keys)

    def includes(self, pattern: str) -> bool:
        """Return whether one grant covers all topics of a pattern, with all their keys."""
        return any(keys is None and includes(topics, pattern) for topics, keys in self._keys.items())


NO_TOPICS = TopicGrants()
ALL_TOPICS = TopicGrants([Grant(">")])


@dataclass(frozen=True, slots=True)
class Grants:
    """What ``subject`` may do until ``expires`` (epoch seconds). ``issued`` is None where the token does not say.

    ``connections`` is how many streams the subject may hold at a time, None for no limit of its own. Whoever keeps
    grants asks for them again from ``recheck`` on: a key may have been withdrawn.
    """

    publish: TopicGrants = NO_TOPICS
    subscribe: TopicGrants = NO_TOPICS
    manage: TopicGrants = NO_TOPICS
    subject: str = ""
    connections: int | None = None
    expires: float = inf
    issued: float | None = None
    recheck: float = field(default=inf, compare=False)

    def __bool__(self) -> bool:
        return bool(self.publish or self.subscribe or self.manage)

    def keys(self, action: Action, topic: str) -> frozenset[str] | None:
        """Return the keys of a topic that the action may concern: None for all, NO_KEYS for none at all.

        The dead events of a topic are for those who manage it: they may do everything with them, others nothing.
        """
        if is_dead(topic):
            return self.manage.keys(topic.removesuffix(DEAD))
        return self.of(action).keys(topic)

    def may(self, action: Action, topic: str) -> bool:
        """Return whether the action is granted for some key of a topic."""
        return self.keys(action, topic) != NO_KEYS

    def may_all(self, action: Action) -> bool:
        """Return whether the action is granted for every topic and key."""
        return self.of(action).is_everything

    def may_some(self, action: Action, pattern: str) -> bool:
        """Return whether the action is granted for a topic that the pattern may match."""
        return self.of(action).may_some(pattern)

    def of(self, action: Action) -> TopicGrants:
        """Return the grants of an action."""
        if action is Action.PUBLISH:
            return self.publish
        return self.subscribe if action is Action.SUBSCRIBE else self.manage

    def plus(self, other: "Grants") -> "Grants":
        """Return these grants of this subject, with the topics of ``other`` besides."""
        if not other:
            return self
        return replace(
            self,
            publish=self.publish | other.publish,
            subscribe=self.subscribe | other.subscribe,
            manage=self.manage | other.manage,
        )


NOTHING = Grants()
EVERYTHING = Grants(ALL_TOPICS, ALL_TOPICS, ALL_TOPICS)


def overlap(one: str, other: str) -> bool:
    """Return whether some topic matches both patterns."""
    for mine, theirs in zip(ones := one.split("."), others := other.split("."), strict=False):
        if ">" in (mine, theirs):
            return True
        if mine != theirs and "*" not in (mine, theirs):
            return False
    return len(ones) == len(others)


def includes(wide: str, narrow: str) -> bool:
    """Return whether each topic that matches the pattern ``narrow`` matches ``wide``."""
    if is_dead(narrow):
        return wide == narrow
    for wanted, given in zip(wides := wide.split("."), narrows := narrow.split("."), strict=False):
        if wanted == ">":
            return True
        if given == ">" or wanted not in ("*", given):
            return False
    return len(wides) == len(narrows)


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


def claim_of(grants: Grants) -> dict[str, Any]:
    """Return the claim of grants, as ``read_grants`` reads it."""
    claim: dict[str, Any] = {action.value: grants.of(action).listed() for action in Action if grants.of(action)}
    if grants.connections is not None:
        claim["connections"] = grants.connections
    return claim


def _read_list(action: str, grants: Any) -> TopicGrants:
    if not isinstance(grants, list):
        raise InvalidGrants(f"{action}: a list is expected, this is {_kind_of(grants)}")
    if len(grants) > MOST_GRANTS:
        raise InvalidGrants(f"{action}: at most {MOST_GRANTS} grants are read, these are {len(grants)}")
    if not grants:
        return NO_TOPICS  # one object for all: thousands of tokens are remembered
    return TopicGrants(_read_grant(f"{action}[{place}]", grant) for place, grant in enumerate(grants))


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
