"""Decodes Server-Sent Events.

Source: WHATWG HTML, section 9.2 "Server-sent events". Lines end at CR, LF or CRLF and nowhere else, so Python's
``splitlines`` (which also splits at U+2028) and ``strip`` are never used on stream text.
"""

import codecs
import re
from collections.abc import Iterator
from typing import NamedTuple

MEDIA_TYPE = "text/event-stream"

_LINE_END = re.compile(r"\r\n|\r|\n")


class Message(NamedTuple):
    """A dispatched event. As in a browser, ``id`` is the last event id at that moment."""

    event: str
    data: str
    id: str


class Decoder:
    """Decodes an event stream from pieces of any size.

    ``last_id`` is the last event id, from which to resume. ``retry`` is the reconnection delay in ms that the server
    set. ``comments`` counts comment lines, and ``comment`` is the text of the last one.
    """

    def __init__(self, last_id: str = "") -> None:
        self.last_id = last_id
        self.retry: int | None = None
        self.comments = 0
        self.comment = ""
        self._id = last_id
        self._text = codecs.getincrementaldecoder("utf-8-sig")("replace")
        self._rest = ""
        self._event = ""
        self._data: list[str] = []

    def feed(self, data: bytes) -> Iterator[Message]:
        """Yield the messages that ``data`` completes."""
        text = self._rest + self._text.decode(data)
        # A CR at the end may be the first half of a CRLF, so it waits for the next piece.
        held = text.endswith("\r")
        lines = _LINE_END.split(text[:-1] if held else text)
        self._rest = lines.pop() + ("\r" if held else "")
        for line in lines:
            if line:
                self._field(line)
            elif (message := self._dispatch()) is not None:
                yield message

    def _field(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "":
            self.comments += 1
            self.comment = value
        elif name == "data":
            self._data.append(value)
        elif name == "event":
            self._event = value
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and value.isascii() and value.isdigit():
            self.retry = int(value)

    def _dispatch(self) -> Message | None:
        self.last_id = self._id
        event, data = self._event or "message", self._data
        self._event, self._data = "", []
        return Message(event, "\n".join(data), self.last_id) if data else None
