"""Events that ask for a reply: ``reply_to`` names the topic where their publisher waits for it."""

from __future__ import annotations

import re

import orjson

from pushsvc.errors import InvalidTopic
from pushsvc.topic import check_topic

REPLY_TO = "reply_to"
# The name with any of its characters escaped, as JSON allows.
_ESCAPED = re.compile(
    rb'"(?:r|\\u0072)(?:e|\\u0065)(?:p|\\u0070)(?:l|\\u006[cC])(?:y|\\u0079)(?:_|\\u005[fF])(?:t|\\u0074)(?:o|\\u006[fF])"'
)


def may_name_replies(data: bytes) -> bool:
    """Return whether events in their stored form may have a ``reply_to``."""
    return b'"reply_to"' in data or (b"\\u00" in data and _ESCAPED.search(data) is not None)


def reply_topic(line: bytes) -> str | None:
    """Return the topic in which an event in its stored form asks for a reply; None without one."""
    topic = orjson.loads(line).get(REPLY_TO)
    if not isinstance(topic, str):
        return None
    try:
        return check_topic(topic)
    except InvalidTopic:
        return None  # no component replies there
