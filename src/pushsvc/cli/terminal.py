"""Text of others on the operator's terminal: what would command the terminal is shown as its JSON escape instead.

An escape sequence in an event, a key, a field or an answer of a server could set the clipboard or the title, or hide
what stands before it.
"""

import json
import logging
import re
import time

from pushsvc.web.redaction import redacted

_COMMANDS = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, those that change the direction of text, and lone surrogates, which have no encoding."""


def visible(text: str) -> str:
    """Return one line of text without control characters: JSON stays JSON of the same value."""
    return _COMMANDS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def visible_lines(text: str) -> str:
    """Return text without control characters but line ends."""
    return "\n".join(map(visible, text.split("\n")))


class VisibleFormatter(logging.Formatter):
    """Formats a record, with its traceback, without control characters but line ends, and without tokens of URLs."""

    def format(self, record: logging.LogRecord) -> str:
        return visible_lines(redacted(super().format(record)))


class JsonFormatter(logging.Formatter):
    """Formats a record as a JSON object on one line. ``fields`` of a record become members."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
            "message": redacted(record.getMessage()),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = redacted(self.formatException(record.exc_info))
        return json.dumps(line, default=str)  # in ASCII, so that nothing in it commands a terminal


def log_to_terminal(name: str, form: str = "text", level: str = "info") -> None:
    """Write the log of this process to the standard error, each record with ``name``. Replaces an earlier call."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter(name) if form == "json" else VisibleFormatter(f"{name}: %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
