"""Encodes Server-Sent Events; ``pushsvc_client.sse`` decodes them. Only this module writes event-stream bytes.

A blank line ends a message and stands nowhere else: many clients take any other blank line for a message without data.

Source: WHATWG HTML, section 9.2 "Server-sent events". Lines end at CR, LF or CRLF and nowhere else, so Python's
``splitlines`` (which also splits at U+2028) and ``strip`` are never used on stream text.
"""

import re
from collections.abc import Callable, Iterable

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

    def apply(self, messages: bytes, on_id: Callable[[str], str]) -> Pieces:
        """Return complete messages with the label; ``on_id`` returns the id of the stream for that of a message.

        The streams of equal subscriptions get the same messages, which are labelled once if they are small.
        """
        known, parts, ids = self._last
        if messages != known:
            parts, ids = self._labelled(messages)
            if len(messages) <= _SMALL:
                parts = [(b"".join(part),) for part in parts]
                self._last = messages, parts, ids
        made = list(parts[0])
        for id, part in zip(ids, parts[1:], strict=True):
            made += (_one_line(on_id(id)).encode(), *part)
        return tuple(made)

    def _labelled(self, messages: bytes) -> tuple[list[Pieces], list[str]]:
        """Return messages with the label as the parts between their ids, and the ids. The data are not copied."""
        view = memoryview(messages)
        parts: list[list[bytes | memoryview]] = [[]]
        ids: list[str] = []
        start = 0
        while True:
            end = messages.find(b"\n\n", start)
            stop = len(messages) if end < 0 else end
            if (data := _find_data(messages, start, stop)) < 0:
                parts[-1].append(view[start:stop])  # comments
            else:
                name = b""
                for line in messages[start:data].split(b"\n")[:-1]:
                    if line.startswith(b"id: "):
                        ids.append(line[4:].decode())
                        parts[-1].append(b"id: ")
                        parts.append([b"\n"])
                        continue
                    if line.startswith(b"event: "):
                        name = line[7:]
                        if self._of_events and name in _OF_STATISTICS:
                            continue
                    parts[-1] += (line, b"\n")
                parts[-1] += (self._start_of_data(name), view[data + len(_DATA) : stop])
            if end < 0:
                break
            parts[-1].append(b"\n\n")
            start = end + 2
        return [tuple(part) for part in parts], ids

    def _start_of_data(self, name: bytes) -> bytes:
        if name == b"heartbeat":  # it is of the stream
            return b"data: {"
        return self._plain if name in _OF_THE_SERVER else self._member


def _find_data(messages: bytes, start: int, stop: int) -> int:
    """Return where the line begins that has the data, an object, of the message between two places; -1 without one."""
    if messages.startswith(_DATA, start, stop):
        return start
    before = messages.find(b"\n" + _DATA, start, stop)
    return before + 1 if before >= 0 else -1


def _one_line(text: str) -> str:
    if _FORBIDDEN.search(text):
        raise ValueError("an event name or id must not contain a line end or NUL")
    return text
