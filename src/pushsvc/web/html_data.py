"""Makes the field ``html`` of each event the data of its message, as htmx expects it."""

from __future__ import annotations

import json

from pushsvc import sse

FIELD = "html"

_LONGEST = 16_000_000  # bytes of a message: more than a request may publish


class HtmlData:
    """Rewrites an event stream in pieces of any size. Events without HTML are left out; what is no event stays."""

    def __init__(self) -> None:
        self._rest = b""
        self._message: list[bytes] = []

    def feed(self, piece: bytes) -> bytes:
        """Return what a piece of the stream completes. Raise ValueError for a message without an end."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        if len(self._rest) > _LONGEST:
            raise ValueError("a message of the push server has no end")
        return b"".join(map(self._line, lines))

    def _line(self, line: bytes) -> bytes:
        if line.startswith((b":", b"retry:")):
            return line + b"\n"
        if line:
            self._message.append(line)
            return b""
        message, self._message = self._message, []
        return _rewritten(message)


def _rewritten(lines: list[bytes]) -> bytes:
    whole = b"\n".join([*lines, b"", b""])
    data = b"\n".join(line.removeprefix(b"data:").lstrip() for line in lines if line.startswith(b"data:"))
    try:
        event = json.loads(data)
    except ValueError:
        return whole  # a heartbeat
    if not isinstance(event, dict) or "$offset" not in event:
        return whole  # a reset
    if not isinstance(event.get(FIELD), str):
        return b""
    fields = {name: value.strip() for name, _, value in (line.decode().partition(":") for line in lines)}
    return sse.encode(event[FIELD].encode(), event=fields.get("event"), id=fields.get("id"))
