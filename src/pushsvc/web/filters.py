"""The query parameters that select events, in history and in streams."""

from collections.abc import Sequence

from pushsvc.errors import InvalidParameter
from pushsvc.event import Limits
from pushsvc.event.conditions import LONGEST, EventFilter
from pushsvc.web.parameters import Parameters

PARAMETERS = ("type", "key", "where")


def read_filter(
    parameters: Parameters, limits: Limits, granted: frozenset[str] | None = None, index: Sequence[str] = ()
) -> EventFilter:
    """Return the filter of a request, within the keys that are ``granted`` (None: all). Raise InvalidParameter.

    ``index`` lists the fields of the topic's index: each is a parameter that selects by the text of the value.
    """
    conditions, key = parameters.texts("where"), parameters.text("key")
    if len(conditions) > limits.conditions:
        raise InvalidParameter("where", f"{len(conditions)} conditions, at most {limits.conditions} are allowed")
    keys = granted if key is None else frozenset([key]) if granted is None else granted.intersection([key])
    fields = [(name, parameters.text(name)) for name in index if name not in PARAMETERS]
    for name, text in fields:
        if text is not None and len(text) > LONGEST:
            raise InvalidParameter(name, f"{len(text)} characters, at most {LONGEST} are allowed")
    values = [(name, text) for name, text in fields if text is not None]
    return EventFilter.of(parameters.text("type"), keys, conditions, values)
