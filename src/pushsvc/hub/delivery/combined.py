"""A stream of several subscriptions: the messages of many channels on one connection, with one cursor.

Each subscription is a member of the channel of its group, as a stream of its own would be, and keeps its own place in
the backlog. So conflation, recovery and replays are those of single streams, and groups serve both alike. In place of a
socket such a member has the connection of the stream.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from types import SimpleNamespace

from pushsvc import sse
from pushsvc.cursor import combine
from pushsvc.hub import messages as sse_messages
from pushsvc.hub.delivery.channel import Channel, NoRecovery, WatchedChannels, Writer
from pushsvc.hub.delivery.chunked import frame, unframe
from pushsvc.hub.delivery.connection import Connection
from pushsvc.hub.delivery.slow import CountedBytes
from pushsvc.hub.delivery.wheel import Clock

_PART_SIZE = 4_000
"""Bytes that a subscription takes, about: most of them are of a group that may have no other member."""

_WAITING = SimpleNamespace(stop=lambda: None, close=lambda: None)
"""Takes the place of a write watcher: the connection of the stream continues its parts."""


class Part(Connection):
    """One subscription of a stream. Takes messages while the connection of the stream has nothing unsent.

    ``cursor`` is the position of a client that has all its messages so far, empty if it has none. ``name`` stands
    before it in the cursor of the stream.
    """

    __slots__ = ("_label", "_parts", "cursor", "name", "owner")

    is_stream = False
    most_at_once = 2**62  # data are whole messages: the connection of the stream divides them

    def __init__(self, parts: CombinedChannel, channel: Channel, name: str, label: sse.Label, cursor: str) -> None:
        super().__init__(-1, channel, lambda: None, chunked=False)
        self.owner = channel
        self._parts = parts
        self._label = label
        self.name = name
        self.cursor = cursor

    @property
    def taken_at(self) -> int:
        return self._parts.stream.pushed_at

    def send(self, data: bytes | memoryview) -> int:
        opening = len(sse_messages.OPENING)
        messages = memoryview(data)[opening:] if data[:opening] == sse_messages.OPENING else data
        if not messages:
            return len(data)  # also without room: a stream that resumes begins to read once it has pushed its opening
        stream = self._parts.stream
        if stream.rest is not None or stream.ending:
            raise BlockingIOError  # whatever is sent then would come too late, or after the end
        stream.push(*self._label.apply(messages, self._move))
        if self.closed:
            raise BrokenPipeError
        return len(data)

    def move_to_heartbeat(self) -> bool:
        """Move the cursor where a heartbeat would; return whether it moved."""
        before = self.cursor
        if not self.closed and self.rest is None and (heartbeat := self.channel.heartbeat(self)):
            self._label.apply(unframe(heartbeat), self._move)
        return self.cursor != before

    def end(self, farewell: bytes) -> None:
        """End the stream: its client comes back, and what ended here begins anew."""
        if not self.closed:
            self._parts.stream.end(farewell)

    def close(self) -> None:
        """Close the stream, as a client cannot know that one subscription is missing."""
        if not self.closed:
            super().close()
            self._parts.stream.close()

    def _move(self, cursor: str) -> str:
        self.cursor = cursor
        return self._parts.cursor()

    def _note_taken(self, count: int) -> None:
        """Do nothing: the connection of the stream counts its bytes."""

    def _shut(self) -> None:
        """Do nothing: there is no socket."""

    def _await_room(self) -> None:
        self.write_watcher = _WAITING
        self._parts.add_waiting(self)

    def _stop_awaiting_room(self) -> None:
        self.write_watcher = None


class CombinedChannel(Channel):
    """The channel of one stream of several subscriptions. Its only member is the connection of the stream.

    Nothing is broadcast on it: its parts push what they get. Parts that wait for room take turns.
    """

    stream: Connection

    def __init__(
        self, writer: Writer, clock: Clock, on_left: Callable[[], None], *, name: Hashable, visible_heartbeat: bool,
        watched: WatchedChannels,
    ) -> None:  # fmt: skip
        super().__init__(
            writer, clock, NoRecovery(), on_left, lambda _: None, name=name, visible_heartbeat=visible_heartbeat,
            watched=watched,
        )  # fmt: skip
        self._parts: Sequence[Part] = ()
        self._waiting: dict[Part, None] = {}
        self._held: CountedBytes | None = None

    def begin(self, stream: Connection, parts: Sequence[Part]) -> None:
        """Let the parts join their channels, and take messages for the connection of the stream. Raise MemoryFull."""
        memory = self._watched.slow.memory
        if memory is not None:
            self._held = memory.hold("", _PART_SIZE * len(parts))
        self.stream = stream
        self._parts = parts
        for part in parts:
            part.owner.join(part)

    def cursor(self) -> str:
        """Return the position of a client that has every message so far."""
        return combine(part.name + part.cursor for part in self._parts)

    def heartbeat(self, connection: Connection) -> bytes:
        """Return a framed heartbeat, with an id if the position of a part has moved without a message."""
        moved = [part.move_to_heartbeat() for part in self._parts]
        visible = self._visible_heartbeat
        return frame(sse_messages.heartbeat(visible, self.cursor() if visible or any(moved) else None))

    def add_waiting(self, part: Part) -> None:
        self._waiting[part] = None

    def resume(self, connection: Connection) -> None:
        """Let the parts go on that wait for room."""
        while self._waiting and connection.rest is None and not connection.ending:
            part = next(iter(self._waiting))
            del self._waiting[part]
            if not part.closed:
                part.on_room()
        if connection.rest is None:
            self.discard_slow(connection)

    def discard(self, connection: Connection) -> None:
        self.closed = True
        super().discard(connection)
        self._waiting.clear()
        for part in self._parts:
            part.close()
        if self._held is not None:
            self._held.release()
