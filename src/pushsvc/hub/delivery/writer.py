"""Hands what channels have to say to their sockets: a walk that pauses, so that everything else stays prompt."""

from __future__ import annotations

import logging
from array import array
from collections import deque
from errno import EAGAIN, EBADF
from itertools import takewhile
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Any

from gevent import get_hub
from gevent.event import Event

from pushsvc.hub import metrics
from pushsvc.hub.delivery.sender import Sender, best

if TYPE_CHECKING:
    from pushsvc.hub.delivery.backlog import Chunk
    from pushsvc.hub.delivery.channel import Channel
    from pushsvc.hub.delivery.connection import Connection

log = logging.getLogger(__name__)

SLICE = 0.002
"""Seconds of work after which the loop gets its turn."""

JOIN = 0.001
"""Seconds for which frames join while the hub is busy. After silence they leave at the end of the loop's turn."""

UNSENT_AT_MOST = 4_000_000
"""Bytes that channels may have ready before the logs are read on: what is not read yet waits in Redis."""

_AT_ONCE, _FEWEST = 1_000_000, 16  # bytes and members between two looks at the clock


class Flush:
    """Channels with something to send, in turns."""

    def __init__(self, *, io_uring: bool = True) -> None:
        self.room = Event()
        self.room.set()
        self._channels: deque[Channel] = deque()
        self._unsent = 0
        self._scheduled = False
        self._begun = 0.0
        self._ended = 0.0
        self._timer: Any = None
        self._pause: Any = None
        self._delivered = self._bytes = 0
        self._io_uring = io_uring
        self._chosen: Sender | None = None

    @property
    def _sender(self) -> Sender:
        # Made when it is needed: a ring belongs to one process, and an application may be made before a server forks.
        if self._chosen is None:
            self._chosen = best(io_uring=self._io_uring)
        return self._chosen

    @property
    def stuck(self) -> bool:
        """True when a walk that was begun does not go on."""
        return self._scheduled and monotonic() - self._begun > 10

    def schedule(self, channel: Channel, size: int) -> None:
        """Send what a channel has, with whatever else comes in this turn of the loop. ``size`` is what is new of it."""
        self._unsent += size
        if self._unsent > UNSENT_AT_MOST:
            self.room.clear()
        if not channel.walking:
            channel.walking = True
            self._channels.append(channel)
        if not self._scheduled:
            self._scheduled = True
            self._begun = monotonic()
            wait = self._ended + JOIN - self._begun
            if wait <= 0:
                get_hub().loop.run_callback(self._run)
            else:
                self._later(wait)

    def _later(self, seconds: float) -> None:
        # A callback cannot yield and sleep(0) starves sockets; a timer lets everything have its turn.
        if seconds:
            if self._timer is not None:
                self._timer.close()
            self._timer = get_hub().loop.timer(seconds)
            self._timer.start(self._run)
        else:
            if self._pause is None:
                self._pause = get_hub().loop.timer(0)
            self._pause.start(self._run)

    def _run(self) -> None:
        until = perf_counter() + SLICE
        try:
            while self._channels:
                if not self._walk(self._channels[0], until):
                    self._channels.rotate(-1)
                    break
                self._channels.popleft().walking = False
        except Exception:
            metrics.ERRORS.inc()
            log.exception("flush")
            channel = self._channels.popleft()
            channel.walking = False
            channel.fail()
        self._begun = monotonic()
        if self._channels:
            self._later(0)
        else:
            self._scheduled = False
            self._ended = monotonic()
            self._unsent = 0
            self.room.set()

    def close(self) -> None:
        """Give back what the kernel has for us. From now on each socket is written to."""
        if self._chosen is not None:
            self._chosen.close()
        self._chosen = best(io_uring=False)

    def _walk(self, channel: Channel, until: float) -> bool:
        """Send a channel's chunks to everybody who stands before them; return whether that is done."""
        tape = channel.tape
        channel.seal()
        while (chunk := tape.front.next) is not None:
            chunk.tick = channel.hub.tick
            while channel.place < len(channel.members):
                begun = perf_counter()
                self._deliver(channel, tape.front, chunk)
                now = perf_counter()
                if now + (now - begun) > until:
                    return False
            channel.place = 0
            tape.front = chunk
            tape.trim(behind=bool(channel.slow))
            channel.compact()
            self._count(chunk)
            channel.seal()  # what came while this walk paused leaves as one
        return True

    def _count(self, chunk: Chunk) -> None:
        """Write down what a walk did."""
        metrics.LATENCY.observe(monotonic() - chunk.read_at)
        metrics.DELIVERIES.inc(self._delivered)
        metrics.STREAM_BYTES.inc(self._bytes)
        self._delivered = self._bytes = 0

    def _deliver(self, channel: Channel, before: Chunk, chunk: Chunk) -> None:
        """Send a chunk to the next few members. This is the loop that every delivery goes through: of a member that is
        in step it reads nothing but its descriptor, as all else would have to come from memory."""
        start, size = channel.place, len(chunk.data)
        if channel.in_step[start] < 0:  # as all are over TLS, where each takes longer: so they are few
            descriptors = array("i", takewhile((0).__gt__, channel.in_step[start : start + _FEWEST]))
            apart = dict.fromkeys(range(len(descriptors)), -EBADF)
        else:
            sender = self._sender
            at_once = min(sender.room, max(_FEWEST, _AT_ONCE // (size + 1)))
            descriptors = channel.in_step[start : start + at_once]
            apart = sender.send(descriptors, chunk.data)
            if sender.broken:
                self.close()
        passed = 0
        for index, sent in apart.items():
            connection = channel.members[start + index]
            try:
                if descriptors[index] < 0:
                    passed += not _bring(connection, start + index, before, chunk)
                else:
                    _set_apart(connection, chunk, sent)
            except Exception:
                log.exception("a stream of %s", channel.key)
                connection.fail()
        channel.place = start + len(descriptors)
        self._delivered += (len(descriptors) - passed) * chunk.frames
        self._bytes += (len(descriptors) - len(apart)) * size  # the others count their own


def _bring(connection: Connection, place: int, before: Chunk, chunk: Chunk) -> bool:
    """Send a chunk to a member that is not in step; return whether it was its turn."""
    if connection.at is not before or connection.rest is not None:
        return False
    connection.at = chunk
    if connection.push(chunk.data):
        connection.fall_in(place)
    return True


def _set_apart(connection: Connection, chunk: Chunk, sent: int) -> None:
    """Note of a member that was in step that it took only a part of a chunk, or is broken."""
    if sent >= 0 or sent == -EAGAIN:
        connection.at = chunk
        connection.sent(chunk.data, max(sent, 0))
    else:
        connection.close()
