"""Text of others on the operator's terminal: what would command the terminal is shown as its JSON escape instead.

An escape sequence in an event, a key, a field or an answer of a server could set the clipboard or the title, or hide
what stands before it.
"""

import logging
import re

_COMMANDS = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, those that change the direction of text, and lone surrogates, which have no encoding."""


def visible(text: str) -> str:
    """Return one line of text without control characters: JSON stays JSON of the same value."""
    return _COMMANDS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def visible_lines(text: str) -> str:
    """Return text without control characters but line ends."""
    return "\n".join(map(visible, text.split("\n")))


class VisibleFormatter(logging.Formatter):
    """Formats a record, with its traceback, without control characters but line ends."""

    def format(self, record: logging.LogRecord) -> str:
        return visible_lines(super().format(record))


def log_to_terminal(name: str) -> None:
    """Write the log of this process to the standard error, each record after ``name``."""
    handler = logging.StreamHandler()
    handler.setFormatter(VisibleFormatter(f"{name}: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
