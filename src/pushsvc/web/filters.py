"""The query parameters that select events, in history and in streams."""

from pushsvc.errors import InvalidParameter
from pushsvc.event import Limits
from pushsvc.event.conditions import EventFilter
from pushsvc.web.parameters import Parameters

PARAMETERS = ("type", "key", "where")


def read_filter(parameters: Parameters, limits: Limits, granted: frozenset[str] | None = None) -> EventFilter:
    """Return the filter of a request, within the keys that are ``granted`` (None: all). Raise InvalidParameter."""
    conditions, key = parameters.texts("where"), parameters.text("key")
    if len(conditions) > limits.conditions:
        raise InvalidParameter("where", f"{len(conditions)} conditions, at most {limits.conditions} are allowed")
    keys = granted if key is None else frozenset([key]) if granted is None else granted.intersection([key])
    return EventFilter.of(parameters.text("type"), keys, conditions)
