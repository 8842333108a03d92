"""The text of a subscription, such as ``events/orders?key=u1``: what it names, before anything is looked up."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote

from werkzeug.datastructures import MultiDict

from pushsvc.errors import InvalidInput
from pushsvc.topic import check_pattern, check_topic

KINDS = ("events", "stats", "latest")
LIST = "topics"
"""The kind that names no topic: the list of all that may be seen."""

_LONGEST = 1_024
_MOST_PARAMETERS = 100
_BAD_ESCAPE = re.compile("%(?![0-9A-Fa-f]{2})")


class SubscriptionText(NamedTuple):
    """The parts of a relative URL: one of KINDS, a topic or pattern, and parameters; of LIST the name is empty."""

    kind: str
    name: str
    args: MultiDict[str, str]

    @classmethod
    def parse(cls, text: str) -> SubscriptionText:
        """Return the parts of a text. Raise InvalidInput."""
        if len(text.encode(errors="replace")) > _LONGEST:
            raise InvalidInput(f"more than {_LONGEST} bytes")
        if "#" in text:
            raise InvalidInput("a fragment has no meaning here: write # as %23")
        if _BAD_ESCAPE.search(text):
            raise InvalidInput("a % begins an escape such as %3E; write a % itself as %25")
        path, _, query = text.partition("?")
        kind, slash, name = path.partition("/")
        if path != LIST and (kind not in KINDS or not slash):
            raise InvalidInput(
                f"{text[:60]!r} is not a relative URL such as events/orders?key=u1: it begins with events/, stats/ or "
                "latest/, or it is topics"
            )
        try:
            name = unquote(name, errors="strict")
            found = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=_MOST_PARAMETERS)
        except UnicodeDecodeError:
            raise InvalidInput("its escapes are not UTF-8") from None
        except ValueError:
            raise InvalidInput(f"more than {_MOST_PARAMETERS} parameters") from None
        if kind == LIST:
            return cls(kind, "", MultiDict(found))
        return cls(kind, check_topic(name) if kind == "latest" else check_pattern(name), MultiDict(found))


def named_topics(texts: list[str]) -> list[str]:
    """Return the topics and patterns of subscriptions. Texts that are none are left out: the view refuses them."""
    found: list[str] = []
    for text in texts:
        try:
            of = SubscriptionText.parse(text)
        except InvalidInput:
            continue
        if of.name:
            found.append(of.name)
    return found
