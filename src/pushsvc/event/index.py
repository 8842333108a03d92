"""The terms by which the index of a topic finds events: the name of an indexed field and the text of its value."""

from collections.abc import Iterator, Sequence
from hashlib import sha1
from typing import Any

import orjson

from pushsvc.event.model import DEFAULT_TYPE

HISTORY_PARAMETERS = frozenset((
    "after", "before", "corrections", "format", "formulas", "heartbeat", "last", "last_event_id", "limit", "names",
    "order", "since", "sub", "token", "until", "where",
))  # fmt: skip
"""Parameters of the calls that read events: no field is looked up by such a name."""

LONGEST = 200
"""Most characters of a value that is in an index. Longer ones are found by reading the log."""

MOST_FIELDS = 4
"""Most fields of an index: Redis does nothing else while it adds the values of a request, 2 µs for each."""


def text_of(value: Any) -> str | None:
    """Return the text by which a value is looked up: text itself, else that of a number or boolean in JSON."""
    if isinstance(value, str):
        return value
    return orjson.dumps(value).decode() if isinstance(value, int | float) else None


def is_listed(text: str) -> bool:
    """Return whether an index has the events with a value of that text."""
    return len(text) <= LONGEST and "\0" not in text


def term(name: str, text: str) -> str:
    """Return the term of a field's value. No name and no listed text has the separator."""
    return f"{name}\0{text}"


def terms_of(data: bytes, names: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    """Yield the terms of an entry's events, in their stored form, with the place of the event, from 0, and the bytes
    before it."""
    before = 0
    for place, line in enumerate(data.split(b"\n") if data else ()):
        event = orjson.loads(line)
        for name in names:
            text = text_of(event.get(name, DEFAULT_TYPE if name == "type" else None))
            if text is not None and is_listed(text):
                yield term(name, text), place, before
        before += len(line) + 1


def digest_of(names: Sequence[str]) -> str:
    """Return a digest of the fields of an index, whatever their order."""
    return sha1("\0".join(sorted(names)).encode(), usedforsecurity=False).hexdigest()[:8]
