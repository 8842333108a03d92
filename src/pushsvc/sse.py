"""Encodes and decodes Server-Sent Events. Only this module writes event-stream bytes.

A blank line ends a message and stands nowhere else: many clients take any other blank line for a message without data.

Source: WHATWG HTML, section 9.2 "Server-sent events". Lines end at CR, LF or CRLF and nowhere else, so Python's
``splitlines`` (which also splits at U+2028) and ``strip`` are never used on stream text.
"""

import codecs
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

MEDIA_TYPE = "text/event-stream"
RESERVED_NAMES = frozenset({"open", "error", "reset", "heartbeat", "corrected", "deleted"})
"""Event names with a meaning for pushsvc or EventSource. An event whose type is one of them is sent as ``message``."""

RESERVED_BESIDE_STATISTICS = RESERVED_NAMES | {"snapshot", "update", "gone"}
"""The same of a stream that events share with statistics."""

_OF_STATISTICS = frozenset({b"snapshot", b"update", b"gone"})
_OF_THE_SERVER = frozenset({b"reset", b"deleted"})
"""Events of a stream of events whose data has no member of the publisher."""

_LINE_END = re.compile(r"\r\n|\r|\n")
_FORBIDDEN = re.compile(r"[\r\n\0]")


def encode(data: bytes, *, event: str | None = None, id: str | None = None) -> bytes:
    """Return one message. ``data`` is UTF-8; each of its lines becomes a ``data:`` line."""
    head = ""
    if id is not None:
        head += f"id: {_one_line(id)}\n"
    if event is not None:
        head += f"event: {_one_line(event)}\n"
    return b"".join((head.encode(), *_data_lines(data), b"\n"))  # one copy: the list of topics takes megabytes


def comment(text: str) -> bytes:
    """Return a comment. Clients ignore it, but it keeps proxies from closing an idle stream."""
    return f": {_LINE_END.sub(' ', text)}\n".encode()


def retry(milliseconds: int) -> bytes:
    """Return the line that sets a client's reconnection delay."""
    return b"retry: %d\n" % milliseconds


def with_id(message: bytes, id: str) -> bytes:
    """Return a message without an id with this one. So a message is encoded once for many cursors."""
    return b"id: %b\n%b" % (_one_line(id).encode(), message)


class Label:
    """Names the subscription of messages on a stream of several.

    Their JSON objects get a first member: ``$sub`` of events, whose other members are the publisher's, else ``sub``. So
    no event can name another subscription. Event names that statistics have are no names of events on such a stream.
    """

    __slots__ = ("_member", "_of_events", "_plain")

    def __init__(self, subscription: bytes, *, of_events: bool) -> None:
        """``subscription`` is a JSON string."""
        self._of_events = of_events
        self._plain = b'data: {"sub":%b,' % subscription
        self._member = b'data: {"$sub":%b,' % subscription if of_events else self._plain

    def apply(self, messages: bytes, on_id: Callable[[str], str]) -> bytes:
        """Return complete messages with the label; ``on_id`` returns the id of the stream for that of a message."""
        return b"\n\n".join(self._labelled(message, on_id) for message in messages.split(b"\n\n"))

    def _labelled(self, message: bytes, on_id: Callable[[str], str]) -> bytes:
        head, separator, data = (b"\n" + message).partition(b"\ndata: {")
        if not separator:
            return message  # comments
        name, lines = b"", []
        for line in head.split(b"\n")[1:]:
            if line.startswith(b"id: "):
                line = b"id: " + _one_line(on_id(line[4:].decode())).encode()
            elif line.startswith(b"event: "):
                name = line[7:]
                if self._of_events and name in _OF_STATISTICS:
                    continue
            lines.append(line)
        if name == b"heartbeat":  # it is of the stream
            return b"\n".join((*lines, b"data: {")) + data
        return b"\n".join((*lines, self._plain if name in _OF_THE_SERVER else self._member)) + data


def _one_line(text: str) -> str:
    if _FORBIDDEN.search(text):
        raise ValueError("an event name or id must not contain a line end or NUL")
    return text


def _data_lines(data: bytes) -> Iterable[bytes]:
    if b"\n" not in data and b"\r" not in data:
        return b"data: ", data, b"\n"
    lines = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    return (b"data: " + line + b"\n" for line in lines)


@dataclass(frozen=True, slots=True)
class Message:
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
