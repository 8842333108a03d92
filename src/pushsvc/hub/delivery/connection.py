"""One subscriber: a socket, where it stands, and what is left of a message that it could not take."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from ssl import SSLWantReadError, SSLWantWriteError
from typing import TYPE_CHECKING, Any

from gevent import get_hub
from gevent.event import Event

from pushsvc.hub import metrics

if TYPE_CHECKING:
    from pushsvc.hub.delivery.backlog import Chunk
    from pushsvc.hub.delivery.channel import Channel
    from pushsvc.hub.resume.replay import Replay

log = logging.getLogger(__name__)

FULL = (BlockingIOError, SSLWantWriteError, SSLWantReadError)
"""What a socket raises that takes nothing now. The same bytes are offered again, as TLS asks for."""

WRITE_DEADLINE = 60
"""Seconds in which a peer must take something of what waits for it."""

READ_AT_MOST = 65_536
"""Bytes that a client may send behind its request; they mean nothing, and are read only to see the end."""

_READ, _WRITE = 1, 2
_CLOSED = object()


class Connection:
    """A socket that the hub owns, known by its descriptor ``fd``; ``on_close`` is called once, when it is closed.

    A descriptor takes a tenth less memory of a subscriber than a socket object, and ``os.write`` a quarter of a
    microsecond less of each delivery than its ``send``. It is -1 where there is none, or none any more: a number that
    is closed may be somebody else's a moment later.
    ``at`` is the newest chunk that it has, or has the rest of in ``rest``; None while a replay brings it there. While
    it is in step with its channel that is known by its ``place`` there alone, which is -1 otherwise.
    ``tick`` is when it last took something that did not come with a walk.
    """

    __slots__ = (
        "_at",
        "_on_close",
        "channel",
        "closed",
        "ending",
        "fd",
        "first",
        "place",
        "read",
        "reader",
        "replay",
        "rest",
        "tick",
        "writer",
    )  # fmt: skip

    def __init__(self, fd: int, channel: Channel, on_close: Callable[[], None]) -> None:
        self.fd = fd
        self.channel = channel
        self.place = -1
        self._at: Chunk | None = None
        self.first = -1  # number of the chunk that it began behind; -1 where it has a position from the beginning
        self.rest: memoryview | None = None
        self.replay: Replay | None = None
        self.tick = 0
        self.closed = self.ending = False
        self.read = 0
        self.reader: Any = None
        self.writer: Any = None
        self._on_close = on_close

    @property
    def at(self) -> Chunk | None:
        return self._at if self.place < 0 else self.channel.reached(self.place)

    @at.setter
    def at(self, chunk: Chunk | None) -> None:
        self.fall_out()
        self._at = chunk

    def fall_in(self, place: int) -> None:
        """Be in step from now on, at a place among the members, if it has a descriptor."""
        if self.fd >= 0:
            self.channel.in_step[place] = self.fd
            self.place, self._at = place, None

    def fall_out(self) -> None:
        """Be in step no more: from now on it is looked at before it is sent anything."""
        if self.place >= 0:
            self._at = self.channel.reached(self.place)
            self.channel.in_step[self.place] = -1
            self.place = -1

    @property
    def took(self) -> int:
        """Return the tick of the hub at which it last took something, or was to take it."""
        at = self.at
        return self.tick if at is None else max(self.tick, at.tick)

    def listen(self) -> None:
        """See from now on whether the peer goes away."""
        self.reader = self._watch(_READ)
        self.reader.start(_on_readable, self)

    def send(self, data: bytes | memoryview) -> int:
        """Offer bytes to the socket; return how many it took, or raise one of FULL."""
        return os.write(self.fd, data)

    def receive(self) -> bytes:
        """Return what has come; empty at the end."""
        return os.read(self.fd, 4_096)

    def push(self, data: bytes) -> bool:
        """Send a message, and keep what is not taken; return whether all was. It follows what is left of another."""
        if self.rest is not None:
            self.rest = memoryview(bytes(self.rest) + data)
            return False
        try:
            count = self.send(data)
        except FULL:
            count = 0
        except OSError:
            self.close()
            return False
        return self.sent(data, count)

    def sent(self, data: bytes, count: int) -> bool:
        """Note that of ``data`` the first ``count`` bytes were taken; return whether that is all."""
        self.tick = self.channel.hub.tick
        metrics.STREAM_BYTES.inc(count)
        if count == len(data):
            return True
        self.fall_out()
        self.rest = memoryview(data)[count:]
        self.channel.slow.add(self)
        self._await_room()
        return False

    def on_room(self) -> None:
        """Go on where the socket was full."""
        try:
            self._go_on()
        except OSError:
            self.close()
        except Exception:
            log.exception("a stream of %s", self.channel.key)
            self.fail()

    def _go_on(self) -> None:
        while self.rest is not None:
            try:
                count = self.send(self.rest)
            except FULL:
                return
            self.tick = self.channel.hub.tick
            metrics.STREAM_BYTES.inc(count)
            self.rest = self.rest[count:] if count < len(self.rest) else None
        self._stop_waiting()
        if self.ending:
            self.close()
        elif self.replay is not None:
            self.channel.hub.replays.submit(self.replay)
        else:
            self.channel.catch_up(self)

    def fail(self) -> None:
        """End after an error of our own: the client comes back and resumes. It is nobody else's concern."""
        metrics.ERRORS.inc()
        self.close()

    def end(self, farewell: bytes) -> None:
        """Close once what was begun and ``farewell`` are sent. Nothing else follows."""
        if self.closed or self.ending:
            return
        self.ending, self.replay = True, None
        if self.push(farewell):
            self.close()

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self.at = None  # first of all: nothing may be written to a descriptor that is somebody else's
        for watcher in (self.reader, self.writer):
            if watcher is not None:
                watcher.stop()
                watcher.close()
        self.reader = self.writer = self.rest = self.replay = None
        self.channel.discard(self)
        try:
            self._shut()
        finally:
            self._on_close()

    def _shut(self) -> None:
        fd, self.fd = self.fd, -1
        with suppress(OSError):
            os.close(fd)

    def _watch(self, events: int) -> Any:
        return get_hub().loop.io(self.fd, events)

    def _await_room(self) -> None:
        if self.writer is None:
            self.writer = self._watch(_WRITE)
            self.writer.start(self.on_room)

    def _stop_waiting(self) -> None:
        if self.writer is not None:
            self.writer.stop()
            self.writer.close()
            self.writer = None


def _on_readable(connection: Connection) -> None:
    """Throw away what comes; the end, an error or too much of it end the stream."""
    try:
        data = connection.receive()
    except FULL:
        return
    except OSError:
        data = b""
    connection.read += len(data)
    if not data or connection.read > READ_AT_MOST:
        connection.close()


class SecureConnection(Connection):
    """The same over TLS: ``sock`` encrypts, and what it holds is not to be seen at the descriptor."""

    __slots__ = ("sock",)

    def __init__(self, sock: Any, channel: Channel, on_close: Callable[[], None]) -> None:
        super().__init__(-1, channel, on_close)
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
    """The same where a WSGI server iterates: it takes one piece at a time, and asks for the next when that is sent."""

    __slots__ = ("_pipe",)

    def __init__(self, channel: Channel) -> None:
        super().__init__(-1, channel, lambda: None)
        self._pipe = Pipe()

    def send(self, data: bytes | memoryview) -> int:
        return self._pipe.send(data)

    def listen(self) -> None:
        """The server sees whether its peer goes away, and closes the iterable."""

    def __iter__(self) -> Iterator[bytes]:
        while (data := self._pipe.take()) is not None:
            yield data
            if self.writer is not None and self._pipe.room:
                self.on_room()

    def _shut(self) -> None:
        self._pipe.close()

    def _await_room(self) -> None:
        self.writer = _Waiting

    def _stop_waiting(self) -> None:
        self.writer = None


class _Waiting:
    """In place of a watcher: there is none, the iteration itself goes on."""

    @staticmethod
    def stop() -> None:
        """Nothing to stop."""

    close = stop


class Pipe:
    """What stands for the socket of an iterated stream: room for one piece of bytes."""

    __slots__ = ("_closed", "_data", "_ready")

    def __init__(self) -> None:
        self._data: bytes | None = None
        self._ready = Event()
        self._closed = False

    @property
    def room(self) -> bool:
        return self._data is None

    def send(self, data: bytes | memoryview) -> int:
        if self._data is not None:
            raise BlockingIOError
        self._data = bytes(data)
        self._ready.set()
        return len(data)

    def take(self) -> bytes | None:
        """Wait for a piece; None is the end."""
        while self._data is None:
            if self._closed:
                return None
            self._ready.wait()
            self._ready.clear()
        data, self._data = self._data, None
        return data

    def close(self) -> None:
        self._closed = True
        self._ready.set()
