"""Removes credentials from text that goes into a log."""

import re

_TOKEN = re.compile(
    r"((?:^|(?<=[?&;\s\"']))(?:t|%74)(?:o|%6f)(?:k|%6b)(?:e|%65)(?:n|%6e)=)[^&\s\"'#]*", re.ASCII | re.IGNORECASE
)


def redacted(text: str) -> str:
    """Return text, such as a URL or a query, with ``***`` in place of the values of the parameter ``token``."""
    return _TOKEN.sub(r"\1***", text)
