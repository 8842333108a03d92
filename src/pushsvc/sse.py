"""Encodes Server-Sent Events; ``pushsvc_client.sse`` decodes them. Only this module writes event-stream bytes.

A blank line ends a message and stands nowhere else: many clients take any other blank line for a message without data.

Source: WHATWG HTML, section 9.2 "Server-sent events". Lines end at CR, LF or CRLF and nowhere else, so Python's
``splitlines`` (which also splits at U+2028) and ``strip`` are never used on stream text.
"""

import re
from collections.abc import Callable, Iterable, Iterator

from pushsvc_client.sse import MEDIA_TYPE as MEDIA_TYPE
from pushsvc_client.sse import Decoder as Decoder
from pushsvc_client.sse import Message as Message

RESERVED_NAMES = frozenset({"open", "error", "reset", "heartbeat", "corrected", "deleted"})
"""Event names with a meaning for pushsvc or EventSource. An event whose type is one of them is sent as ``message``."""

RESERVED_BESIDE_STATISTICS = RESERVED_NAMES | {"snapshot", "update", "gone"}
"""The same of a stream that events share with statistics."""

Pieces = tuple[bytes | memoryview, ...]
"""One message in pieces. The sender joins them, so that a large message is copied once."""

_OF_STATISTICS = frozenset({b"snapshot", b"update", b"gone"})
_OF_THE_SERVER = frozenset({b"reset", b"deleted"})
"""Events of a stream of events whose data has no member of the publisher."""

_DATA = b"data: {"
_SMALL = 4_000  # bytes of messages that a label keeps
_SEARCHED = 65_536  # bytes that are copied at once to be searched

_LINE_END = re.compile(r"\r\n|\r|\n")
_FORBIDDEN = re.compile(r"[\r\n\0]")


def encode(data: bytes, *, event: str | None = None, id: str | None = None) -> bytes:
    """Return one message. ``data`` is UTF-8; each of its lines becomes a ``data:`` line."""
    head = "" if id is None else f"id: {_one_line(id)}\n"
    if event is not None:
        head += f"event: {_one_line(event)}\n"
    # One copy of the data: the list of topics takes megabytes.
    if b"\n" not in data and b"\r" not in data:
        return b"%bdata: %b\n\n" % (head.encode(), data)
    lines = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    return b"".join((head.encode(), *(b"data: " + line + b"\n" for line in lines), b"\n"))


def encode_json(pieces: Iterable[bytes], *, event: str) -> Pieces:
    """Return one message. Its data are a JSON text without line ends, given in pieces."""
    return (f"event: {_one_line(event)}\ndata: ".encode(), *pieces, b"\n\n")


def comment(text: str) -> bytes:
    """Return a comment. Clients ignore it, but it keeps proxies from closing an idle stream."""
    return f": {_LINE_END.sub(' ', text)}\n".encode()


def retry(milliseconds: int) -> bytes:
    """Return the line that sets a client's reconnection delay."""
    return b"retry: %d\n" % milliseconds


def with_id(message: bytes, id: str) -> bytes:
    """Return a message without an id with this one. So a message is encoded once for many cursors."""
    return id_line(id) + message


def id_line(id: str) -> bytes:
    """Return the line that gives the message after it an id."""
    return f"id: {_one_line(id)}\n".encode()


class Label:
    """Names the subscription of messages on a stream of several.

    Their JSON objects get a first member: ``$sub`` of events, whose other members are the publisher's, else ``sub``. So
    no event can name another subscription. Event names that statistics have are no names of events on such a stream.
    """

    __slots__ = ("_last", "_member", "_of_events", "_plain")

    def __init__(self, subscription: bytes, *, of_events: bool) -> None:
        """``subscription`` is a JSON string."""
        self._of_events = of_events
        self._plain = b'data: {"sub":%b,' % subscription
        self._member = b'data: {"$sub":%b,' % subscription if of_events else self._plain
        self._last: tuple[bytes, list[Pieces], list[str]] = b"", [(b"",)], []

    def apply(self, messages: bytes | memoryview, on_id: Callable[[str], str]) -> Pieces:
        """Return complete messages with the label; ``on_id`` returns the id of the stream for that of a message.

        The streams of equal subscriptions get the same messages, which are labelled once if they are small.
        """
        messages = bytes(messages) if len(messages) <= _SEARCHED else memoryview(messages)
        known, parts, ids = self._last
        if messages != known:
            parts, ids = self._labelled(messages)
            if len(messages) <= _SMALL:
                parts = [(b"".join(part),) for part in parts]
                self._last = bytes(messages), parts, ids
        made = list(parts[0])
        for id, part in zip(ids, parts[1:], strict=True):
            made += (_one_line(on_id(id)).encode(), *part)
        return tuple(made)

    def _labelled(self, messages: bytes | memoryview) -> tuple[list[Pieces], list[str]]:
        """Return messages with the label as the parts between their ids, and the ids. Large data are not copied."""
        part: list[bytes | memoryview] = []
        parts, ids = [part], []
        name = b""
        for line in messages.split(b"\n")[:-1] if isinstance(messages, bytes) else _lines(messages):
            start = line[:7]
            if start == _DATA:
                part += (self._start_of_data(name), line[7:], b"\n")
                name = b""
            elif start == b"event: ":
                name = bytes(line[7:])
                if not self._of_events or name not in _OF_STATISTICS:
                    part += (line, b"\n")
            elif line[:4] == b"id: ":
                part.append(b"id: ")
                ids.append(str(line[4:], "utf-8"))
                part = [b"\n"]
                parts.append(part)
            else:
                part += (line, b"\n")
        return [tuple(part) for part in parts], ids

    def _start_of_data(self, name: bytes) -> bytes:
        if name == b"heartbeat":  # it is of the stream
            return b"data: {"
        return self._plain if name in _OF_THE_SERVER else self._member


def _lines(messages: memoryview) -> Iterator[memoryview]:
    """Yield the lines without line ends. Only bytes can be searched: they are copied in pieces, as 16 MB take 10 ms."""
    start = 0
    for begin in range(0, len(messages), _SEARCHED):
        piece = bytes(messages[begin : begin + _SEARCHED])
        end = piece.find(b"\n")
        while end >= 0:
            yield messages[start : begin + end]
            start = begin + end + 1
            end = piece.find(b"\n", end + 1)


def _one_line(text: str) -> str:
    if _FORBIDDEN.search(text):
        raise ValueError("an event name or id must not contain a line end or NUL")
    return text
