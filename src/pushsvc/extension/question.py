"""What a request asks for: an action, topics or patterns, and keys."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from flask import Request
from werkzeug.datastructures import MultiDict

from pushsvc.auth.grants import LONGEST_KEY, MOST_GRANTS, Action
from pushsvc.errors import InvalidInput, InvalidParameter, at_place
from pushsvc.topic import check_pattern, check_topic
from pushsvc.web.subscription import LIST, SubscriptionText

RESOURCES = frozenset({"events", "stats", "stats/series", "latest"})
"""The resources of a topic that the application serves."""

_SUFFIXES = ("json", "ndjson", "csv", "sse")
_ACTIONS = {"GET": Action.SUBSCRIBE, "HEAD": Action.SUBSCRIBE, "POST": Action.PUBLISH}


class Asked(NamedTuple):
    """A topic or pattern, and the one key that the request is limited to; None: it asks for all keys."""

    topic: str
    key: str | None


class Question(NamedTuple):
    """What a request wants to do with some topics. ``places`` are those of the subscriptions in it."""

    action: Action
    asked: tuple[Asked, ...]
    places: Mapping[Asked, str] = MappingProxyType({})


def is_served(method: str, resource: str) -> bool:
    """Return whether a method and a resource of a topic belong to the API of an application."""
    name, _, suffix = resource.partition(".")
    if method == "POST":
        return resource == "events"
    return method in _ACTIONS and name in RESOURCES and (not suffix or suffix in _SUFFIXES)


def of_topic(request: Request, topic: str) -> Question:
    """Return what a request for a resource of a topic asks for. Raise InvalidInput."""
    action = _ACTIONS[request.method]
    # The parameter ``key`` of a publish is the name of a column.
    key = _key(request.args) if action is Action.SUBSCRIBE else None
    return Question(action, (Asked(check_topic(topic), key),))


def of_stream(request: Request) -> Question:
    """Return what a request for a stream of several topics asks for. Raise InvalidInput."""
    key = _key(request.args)
    names = [*request.args.getlist("events"), *request.args.getlist("stats")]
    asked = [Asked(check_pattern(name), key) for name in names]
    places: dict[Asked, str] = {}
    for number, text in enumerate(request.args.getlist("sub")):
        place = f"sub[{number}]"
        with at_place(place):
            of = SubscriptionText.parse(text)
            if of.kind == LIST:
                raise InvalidInput("an application does not list its topics")
            asked.append(Asked(of.name, _key(of.args)))
        places.setdefault(asked[-1], place)
    if len(asked) > MOST_GRANTS:
        raise InvalidParameter("events", f"an application serves at most {MOST_GRANTS} topics on one stream")
    return Question(Action.SUBSCRIBE, tuple(dict.fromkeys(asked)), places)


def of_management(topic: str) -> Question:
    """Return what a request that changes a topic, its events or its alerts asks for. Raise InvalidTopic."""
    return Question(Action.MANAGE, (Asked(check_topic(topic), None),))


def of_alerts(request: Request) -> Question:
    """Return what a request for alerts asks for: those of the topic in its parameter ``topic``. Raise InvalidInput.

    The hub refuses alerts of other topics, so nobody else has to read the definition.
    """
    topics = request.args.getlist("topic")
    if len(topics) != 1:
        raise InvalidParameter("topic", "the topic of the alerts is expected, as in ?topic=orders")
    if request.method in ("PUT", "DELETE"):
        return of_management(topics[0])
    return Question(Action.SUBSCRIBE, (Asked(check_topic(topics[0]), None),))


def _key(values: MultiDict[str, str]) -> str | None:
    keys = values.getlist("key")
    if len(keys) != 1 or not keys[0]:
        return None  # several keys, or the events without one: only who may see all keys may choose so
    if len(keys[0]) > LONGEST_KEY:
        raise InvalidParameter("key", f"at most {LONGEST_KEY} characters are expected")
    return keys[0]
