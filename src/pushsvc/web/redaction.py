"""Removes credentials from text that goes into a log."""

import re

_NAME = "(?:t|%74)(?:o|%6f)(?:k|%6b)(?:e|%65)(?:n|%6e)"  # each letter as it is or escaped
_IN_QUERY = re.compile(f"((?:^|&){_NAME}=)[^&]*", re.ASCII | re.IGNORECASE)
_IN_TEXT = re.compile(rf"((?:^|(?<=[?&\s\"'])){_NAME}=)[^&\s\"'#]*", re.ASCII | re.IGNORECASE)


def redacted_query(query: str) -> str:
    """Return the query of a URL with ``***`` in place of the values of the parameter ``token``."""
    return _IN_QUERY.sub(r"\1***", query)


def redacted(text: str) -> str:
    """Do the same for text that may have URLs in it."""
    return _IN_TEXT.sub(r"\1***", text)
