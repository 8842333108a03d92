"""One subscriber: a socket, its place in the backlog, and the unsent rest of a message."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Hashable, Iterator
from contextlib import suppress
from ssl import SSLWantReadError, SSLWantWriteError
from types import SimpleNamespace
from typing import Any, Protocol

from gevent import get_hub
from gevent.event import Event

from pushsvc.hub import metrics
from pushsvc.hub.delivery.backlog import Chunk
from pushsvc.hub.delivery.chunked import LAST_CHUNK, frame, unframe
from pushsvc.hub.delivery.roster import Roster
from pushsvc.hub.delivery.wheel import Clock

log = logging.getLogger(__name__)

FULL = (BlockingIOError, SSLWantWriteError, SSLWantReadError)
"""Errors of a socket without room. The same bytes are offered again, as TLS requires."""

MAX_RECEIVED = 65_536
"""Bytes that a client may send after its request. They mean nothing and are read only to notice the end."""

MOST_AT_ONCE = 262_144
"""Bytes that one system call offers. The kernel takes megabytes at once, for milliseconds in which nobody else is
served: the list of 20,000 topics for 20 streams took 0.2 seconds."""

_READ, _WRITE = 1, 2


class Source(Protocol):
    """Where the next bytes of a connection come from once its socket has room again."""

    def resume(self, connection: Connection) -> None: ...


class ConnectionOwner(Source, Protocol):
    """The channel of a connection, as far as the connection needs it."""

    @property
    def name(self) -> Hashable: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def roster(self) -> Roster[Connection]: ...
    def add_slow(self, connection: Connection) -> None: ...
    def chunk_at(self, position: int) -> Chunk: ...
    def heartbeat(self, connection: Connection) -> bytes: ...
    def note_rest(self, size: int) -> None: ...
    def discard(self, connection: Connection) -> None: ...


class Connection:
    """A socket of the hub. ``on_close`` is called once, when the socket is closed.

    The socket is a bare descriptor, ``fd``: that takes a tenth less memory of a subscriber than a socket object, and
    ``os.write`` takes a quarter of a microsecond less than ``socket.send``. ``fd`` is -1 without a socket and after
    closing, because the kernel gives a closed number to the next file that is opened.

    ``at`` is the newest chunk that was sent, whose unsent end is in ``rest``; None while a replay leads there. While
    the connection is caught up, ``at`` follows from its ``position`` in the roster, else ``position`` is -1.
    ``source`` continues when the socket has room: the channel, or a replay.
    ``joined_after`` is the number of the chunk after which a stream without a position began, else -1.
    ``pushed_at`` is the tick at which the socket last took bytes outside a pass.
    ``chunked`` is true if the response has chunks; then ``rest`` has their frames, too.
    """

    __slots__ = (
        "_at", "channel", "chunked", "closed", "ending", "fd", "joined_after", "on_close", "position", "pushed_at",
        "read_watcher", "received", "rest", "source", "write_watcher",
    )  # fmt: skip

    is_stream = True  # it counts as a stream of the process
    most_at_once = MOST_AT_ONCE

    def __init__(
        self, fd: int, channel: ConnectionOwner, on_close: Callable[[], None], *, chunked: bool = True
    ) -> None:
        self.fd = fd
        self.channel = channel
        self.chunked = chunked
        self.source: Source = channel
        self.position = -1
        self._at: Chunk | None = None
        self.joined_after = -1
        self.rest: memoryview | None = None
        self.pushed_at = 0
        self.closed = self.ending = False
        self.received = 0
        self.read_watcher: Any = None
        self.write_watcher: Any = None
        self.on_close = on_close

    @property
    def at(self) -> Chunk | None:
        return self._at if self.position < 0 else self.channel.chunk_at(self.position)

    @at.setter
    def at(self, chunk: Chunk | None) -> None:
        self.mark_behind()
        self._at = chunk

    def mark_caught_up(self, position: int) -> None:
        """Let passes send to this connection without looking at it, if it has a descriptor and takes chunks."""
        if self.chunked:
            self.channel.roster.mark_caught_up(self, position)
        if self.position >= 0:
            self._at = None

    def mark_behind(self) -> None:
        """Let passes look at this connection before they send to it."""
        if self.position >= 0:
            self._at = self.channel.chunk_at(self.position)
            self.channel.roster.mark_behind(self)

    @property
    def last_sent(self) -> int:
        """Return the tick at which this connection was last sent something."""
        at = self.at
        return self.pushed_at if at is None else max(self.pushed_at, at.tick)

    @property
    def taken_at(self) -> int:
        """Return the tick at which the peer last took bytes that waited for it."""
        return self.pushed_at

    def listen(self) -> None:
        """Watch from now on whether the peer goes away."""
        self.read_watcher = self._watch(_READ)
        self.read_watcher.start(_on_readable, self)

    def send(self, data: bytes | memoryview) -> int:
        """Offer bytes to the socket; return how many it took, or raise one of FULL."""
        return os.write(self.fd, data)

    def receive(self) -> bytes:
        """Return the bytes that have arrived; empty at the end."""
        return os.read(self.fd, 4_096)

    def push(self, *pieces: bytes | memoryview) -> bool:
        """Send messages, after the rest of an unfinished one; return whether all was sent. Keep the rest."""
        data = frame(*pieces) if self.chunked else b"".join(pieces)
        if self._push(data):
            return True
        self.channel.note_rest(len(data))
        return False

    def push_framed(self, chunk: bytes) -> bool:
        """As ``push``, of messages that several connections share: they were framed once for all of them."""
        return self._push(chunk if self.chunked else unframe(chunk))

    def _push(self, data: bytes | memoryview) -> bool:
        if self.rest is not None:
            self.rest = memoryview(bytes(self.rest) + data)
            return False
        if not data:
            return True
        try:
            count = self.send(data if len(data) <= self.most_at_once else memoryview(data)[: self.most_at_once])
        except FULL:
            count = 0
        except OSError:
            self.close()
            return False
        return self.note_sent(data, count)

    def note_sent(self, data: bytes | memoryview, count: int) -> bool:
        """Note that the socket took ``count`` bytes of ``data``, and keep the rest; return whether it took all."""
        self._note_taken(count)
        if count == len(data):
            return True
        self.mark_behind()
        self.rest = memoryview(data)[count:]
        self.channel.add_slow(self)
        self._await_room()
        return False

    def on_room(self) -> None:
        """Continue: the socket has room again."""
        try:
            self._continue()
        except OSError:
            self.close()
        except Exception:
            log.exception("a stream of %s failed", self.channel.name)
            self.fail()

    def _continue(self) -> None:
        if self.rest is not None:
            try:
                count = self.send(self.rest[: self.most_at_once])
            except FULL:
                return
            self._note_taken(count)
            self.rest = self.rest[count:] if count < len(self.rest) else None
            if self.rest is not None:
                return  # the next turn of the loop continues
        self._stop_awaiting_room()
        if self.ending:
            self.close()
        else:
            self.source.resume(self)

    def _note_taken(self, count: int) -> None:
        self.pushed_at = self.channel.clock.tick
        metrics.STREAM_BYTES.inc(count)

    def fail(self) -> None:
        """Close after an error of our own. The client comes back and resumes; no other stream is affected."""
        metrics.ERRORS.inc()
        self.close()

    def end(self, farewell: bytes) -> None:
        """Close once the unfinished message and ``farewell`` are sent."""
        if self.closed or self.ending:
            return
        self.ending, self.source = True, self.channel
        if self._push(frame(farewell) + LAST_CHUNK if self.chunked else farewell):
            self.close()

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self.at = None  # first: a pass must not write to a descriptor that the kernel may give to another file
        for watcher in (self.read_watcher, self.write_watcher):
            if watcher is not None:
                watcher.stop()
                watcher.close()
        self.read_watcher = self.write_watcher = self.rest = None
        self.source = self.channel
        self.channel.discard(self)
        try:
            self._shut()
        finally:
            self.on_close()

    def _shut(self) -> None:
        fd, self.fd = self.fd, -1
        with suppress(OSError):
            os.close(fd)

    def _watch(self, events: int) -> Any:
        return get_hub().loop.io(self.fd, events)

    def _await_room(self) -> None:
        if self.write_watcher is None:
            self.write_watcher = self._watch(_WRITE)
            self.write_watcher.start(self.on_room)

    def _stop_awaiting_room(self) -> None:
        if self.write_watcher is not None:
            self.write_watcher.stop()
            self.write_watcher.close()
            self.write_watcher = None


def _on_readable(connection: Connection) -> None:
    """Discard what arrives. Close the stream at its end, on an error, or when too much arrives."""
    try:
        data = connection.receive()
    except FULL:
        return
    except OSError:
        data = b""
    connection.received += len(data)
    if not data or connection.received > MAX_RECEIVED:
        connection.close()


class SecureConnection(Connection):
    """A connection over TLS. It has no ``fd``, as only ``sock`` can encrypt, and bytes may wait inside ``sock``."""

    __slots__ = ("sock",)

    def __init__(
        self, sock: Any, channel: ConnectionOwner, on_close: Callable[[], None], *, chunked: bool = True
    ) -> None:
        super().__init__(-1, channel, on_close, chunked=chunked)
        self.sock = sock

    def send(self, data: bytes | memoryview) -> int:
        sent: int = self.sock.send(data)
        return sent

    def receive(self) -> bytes:
        data: bytes = self.sock.recv(4_096)
        return data

    def _shut(self) -> None:
        with suppress(OSError):
            self.sock.close()

    def _watch(self, events: int) -> Any:
        return get_hub().loop.io(self.sock.fileno(), events)


class IteratedConnection(Connection):
    """A connection whose bytes a WSGI server iterates: it takes one piece, sends it, and asks for the next.

    There is room for one piece. The server frames the pieces itself.
    """

    __slots__ = ("_data", "_ready")

    def __init__(self, channel: ConnectionOwner) -> None:
        super().__init__(-1, channel, lambda: None, chunked=False)
        self._data: bytes | None = None
        self._ready = Event()

    def send(self, data: bytes | memoryview) -> int:
        if self._data is not None:
            raise BlockingIOError
        self._data = bytes(data)
        self._ready.set()
        return len(data)

    def listen(self) -> None:
        """Do nothing: the server notices when its peer goes away, and closes the iterable."""

    def __iter__(self) -> Iterator[bytes]:
        while (data := self._take()) is not None:
            yield data
            if self.write_watcher is not None and self._data is None:
                self.on_room()

    def _take(self) -> bytes | None:
        """Wait for a piece and return it; None at the end."""
        while self._data is None:
            if self.closed:
                return None
            self._ready.wait()
            self._ready.clear()
        data, self._data = self._data, None
        return data

    def _shut(self) -> None:
        self._ready.set()

    def _await_room(self) -> None:
        self.write_watcher = _ITERATION

    def _stop_awaiting_room(self) -> None:
        self.write_watcher = None


_ITERATION = SimpleNamespace(stop=lambda: None, close=lambda: None)
"""Takes the place of a write watcher: the iteration itself continues the connection."""
