"""Handlers of events, as a user's module registers them with ``pushsvc.on``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from pushsvc.topic import check_pattern, matches

_GROUP = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_MOST_GROUPS, _MOST_HANDLERS = 32, 200
Start = Literal["end", "beginning"]
Function = Callable[..., Any]
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Handler:
    """A function for the events of some topics; without ``types`` for all of their types."""

    function: Function
    topics: tuple[str, ...]
    types: frozenset[str]
    replies: tuple[str, ...]

    def takes(self, topic: str, type: str) -> bool:
        return (not self.types or type in self.types) and any(matches(pattern, topic) for pattern in self.topics)


@dataclass(slots=True)
class Group:
    """Handlers that share their positions in the logs, their state and their failures.

    ``retries`` follow after a first failure, the first one after ``backoff`` seconds; then each pause is twice the one
    before. A handler that takes longer than ``timeout`` seconds is ended. At most ``max_states`` keys of a topic have a
    state.
    """

    name: str
    start: Start | None = None
    retries: int | None = None
    backoff: float | None = None
    timeout: float | None = None
    max_states: int | None = None
    handlers: list[Handler] = field(default_factory=list)
    gaps: list[Handler] = field(default_factory=list)

    def patterns(self) -> list[str]:
        """Return the topics and patterns that the group reads."""
        return sorted({pattern for handler in self.handlers for pattern in handler.topics})


class Components:
    """The handlers of an application. ``pushsvc.on`` is one; ``--app module:object`` names another.

    Handlers of one group see each event once, in the order of their registration, as one unit: if one of them fails,
    nothing that they did with the event takes effect.
    """

    def __init__(self) -> None:
        self.groups: dict[str, Group] = {}
        self.timers: dict[str, Function] = {}

    def __call__(
        self, *topics: str, type: str | Iterable[str] = (), group: str | None = None,
        replies: str | Iterable[str] = (), start: Start | None = None, retries: int | None = None,
        backoff: float | None = None, timeout: float | None = None, max_states: int | None = None,
    ) -> Callable[[F], F]:  # fmt: skip
        """Return a decorator that registers a function ``(event, ctx)``, or a class with such a method ``handle``.

        ``topics`` are topics and patterns, ``type`` the types of the events (all by default). ``group`` is the name of
        the function by default. ``replies`` are the topics that the handler may reply to. A new group begins with new
        events, or with ``start="beginning"`` at the first event of each log. Raise ValueError, and InvalidTopic.
        """
        wanted = _patterns(topics)
        types = frozenset([type] if isinstance(type, str) else type)
        allowed = _patterns([replies] if isinstance(replies, str) else replies, some=False)

        def register(function: F) -> F:
            found = self._group(group or function.__name__)
            _settle(found, start=start, retries=retries, backoff=backoff, timeout=timeout, max_states=max_states)
            if sum(len(one.handlers) for one in self.groups.values()) >= _MOST_HANDLERS:
                raise ValueError(f"an application has at most {_MOST_HANDLERS} handlers")
            found.handlers.append(Handler(_callable(function), wanted, types, allowed))
            return function

        return register

    def gap(self, *topics: str, group: str) -> Callable[[F], F]:
        """Return a decorator that registers a function ``(gap, ctx)`` of a group for events that were trimmed from the
        log before the group read them."""
        wanted = _patterns(topics)

        def register(function: F) -> F:
            self._group(group).gaps.append(Handler(function, wanted, frozenset(), ()))
            return function

        return register

    def timer(self, function: F) -> F:
        """Register a function ``(ctx, **data)`` by its name, so that ``ctx.call_later`` may call it."""
        if self.timers.setdefault(function.__name__, function) is not function:
            raise ValueError(f"two timers have the name {function.__name__!r}")
        return function

    def check(self) -> None:
        """Raise ValueError if there is nothing to run, or if something is registered for a group without handlers."""
        if not self.groups:
            raise ValueError("the module registers no handler with pushsvc.on")
        for group in self.groups.values():
            if not group.handlers:
                raise ValueError(f"the group {group.name!r} has no handler")

    def _group(self, name: str) -> Group:
        if not _GROUP.match(name):
            raise ValueError(f"{name!r} is not a name of a group: use 1 to 64 of A-Z a-z 0-9 _ -")
        if name not in self.groups and len(self.groups) >= _MOST_GROUPS:
            raise ValueError(f"an application has at most {_MOST_GROUPS} groups")
        return self.groups.setdefault(name, Group(name))


def _patterns(given: Iterable[str], *, some: bool = True) -> tuple[str, ...]:
    found = tuple(map(check_pattern, given))
    if some and not found:
        raise ValueError("name at least one topic or pattern")
    return found


def _settle(group: Group, **options: Any) -> None:
    """Set the options of a group that are given; raise ValueError for bounds, and for two different ones."""
    limits = {"retries": (0, 100), "backoff": (0.01, 3_600), "timeout": (0.1, 86_400), "max_states": (1, 100_000_000)}
    for name, value in options.items():
        if value is None:
            continue
        if name == "start" and value not in ("end", "beginning"):
            raise ValueError("start is 'end' or 'beginning'")
        if name in limits and not limits[name][0] <= value <= limits[name][1]:
            raise ValueError(f"{name} is from {limits[name][0]} to {limits[name][1]}")
        if getattr(group, name) not in (None, value):
            raise ValueError(f"the group {group.name!r} has two values of {name}")
        setattr(group, name, value)


def _callable(function: Any) -> Function:
    if isinstance(function, type):
        handle = getattr(function(), "handle", None)
        if not callable(handle):
            raise ValueError(f"the class {function.__name__} has no method handle(event, ctx)")
        return handle  # type: ignore[no-any-return]
    if not callable(function):
        raise ValueError("a function or a class is expected")
    return function  # type: ignore[no-any-return]


on = Components()
