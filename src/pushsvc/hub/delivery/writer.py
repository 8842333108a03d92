"""Sends the messages of channels to their sockets, in passes that pause so that the event loop stays prompt."""

import logging
import os
from array import array
from collections import deque
from errno import EAGAIN, EBADF
from itertools import takewhile
from time import monotonic, perf_counter
from typing import Any

from gevent import get_hub
from gevent.event import Event

from pushsvc.hub import metrics
from pushsvc.hub.delivery.backlog import Chunk
from pushsvc.hub.delivery.channel import Channel
from pushsvc.hub.delivery.connection import Connection
from pushsvc.hub.delivery.sender import Sender, choose_sender
from pushsvc.hub.limits import FanoutLimits

log = logging.getLogger(__name__)

_STUCK = 10.0  # seconds without progress after which a pass counts as stuck


class FanoutWriter:
    """Runs one pass over each channel with messages to send, in turns.

    A pass brings a chunk to every member that has the one before. ``room`` is set while the waiting bytes are within
    their limit.
    """

    def __init__(self, limits: FanoutLimits | None = None, *, io_uring: bool = True) -> None:
        self.limits = limits or FanoutLimits()
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
    def sender(self) -> Sender:
        # Chosen at the first use: an io_uring belongs to one process, and an app may be created before a server forks.
        if self._chosen is None:
            self._chosen = choose_sender(io_uring=self._io_uring)
        return self._chosen

    @property
    def stuck(self) -> bool:
        """True when a pass that began does not continue."""
        return self._scheduled and monotonic() - self._begun > _STUCK

    def schedule(self, channel: Channel, size: int) -> None:
        """Send the messages of a channel after this turn of the loop. ``size`` is the number of new bytes."""
        self._unsent += size
        if self._unsent > self.limits.unsent_bytes:
            self.room.clear()
        if not channel.in_pass:
            channel.in_pass = True
            self._channels.append(channel)
        if not self._scheduled:
            self._scheduled = True
            self._begun = monotonic()
            wait = self._ended + self.limits.join - self._begun
            if wait <= 0:
                get_hub().loop.run_callback(self._run)
            else:
                self._run_later(wait)

    def _run_later(self, seconds: float) -> None:
        # A callback cannot yield, and sleep(0) starves sockets. After a timer everything else has had its turn.
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
        until = perf_counter() + self.limits.slice
        try:
            while self._channels:
                if not self._advance(self._channels[0], until):
                    self._channels.rotate(-1)
                    break
                self._channels.popleft().in_pass = False
                if perf_counter() > until:
                    break
        except Exception:
            log.exception("the fan-out failed")
            channel = self._channels.popleft()
            channel.in_pass = False
            channel.fail()
        metrics.DELIVERIES.inc(self._delivered)
        metrics.STREAM_BYTES.inc(self._bytes)
        self._delivered = self._bytes = 0
        self._begun = monotonic()
        if self._channels:
            self._run_later(0)
        else:
            self._scheduled = False
            self._ended = monotonic()
            self._unsent = 0
            self.room.set()

    def close(self) -> None:
        """Release the io_uring. A later send makes a system call for each socket."""
        if self._chosen is not None:
            self._chosen.close()
        self._chosen = choose_sender(io_uring=False)

    def _advance(self, channel: Channel, until: float) -> bool:
        """Send the chunks of a channel to all members; return False where time ended before all have them."""
        backlog, roster = channel.backlog, channel.roster
        channel.seal()
        while (chunk := backlog.front.next) is not None:
            chunk.tick = channel.clock.tick
            if len(roster.members) == 1 and roster.descriptors[0] >= 0 and not roster.position:
                self._deliver_to_one(roster.members[0], chunk)
                roster.position = 1
            while roster.position < len(roster.members):
                begun = perf_counter()
                self._deliver(channel, backlog.front, chunk)
                now = perf_counter()
                if now + (now - begun) > until:
                    return False
            roster.position = 0
            backlog.front = chunk
            backlog.trim(behind=bool(channel.slow))
            if channel.slow:
                channel.note_backlog()
            roster.compact()
            metrics.LATENCY.observe(monotonic() - chunk.read_at)
            channel.seal()  # messages that came during the pauses of this pass leave together
        return True

    def _deliver_to_one(self, connection: Connection, chunk: Chunk) -> None:
        """Send a chunk to the only member of a channel, which is caught up: what a sender of many needs is left out."""
        size = len(chunk.data)
        try:
            sent = os.write(connection.fd, chunk.data)
        except OSError as error:
            sent = -(error.errno or EBADF)
        self._delivered += chunk.count
        if sent == size:
            self._bytes += size
        else:
            _mark_short(connection, chunk, sent)

    def _deliver(self, channel: Channel, before: Chunk, chunk: Chunk) -> None:
        """Send a chunk to the next few members.

        Every delivery goes through this loop. Of a caught-up member it reads the descriptor alone, as everything else
        would have to be fetched from memory.
        """
        roster = channel.roster
        start, size = roster.position, len(chunk.data)
        if roster.descriptors[start] < 0:  # over TLS this is true for all; each takes longer, so they are few
            descriptors = array(
                "i", takewhile((0).__gt__, roster.descriptors[start : start + self.limits.step_members])
            )
            exceptions = dict.fromkeys(range(len(descriptors)), -EBADF)
        else:
            sender = self.sender
            most = min(sender.room, max(self.limits.step_members, self.limits.step_bytes // (size + 1)))
            descriptors = roster.descriptors[start : start + most]
            exceptions = sender.send(descriptors, chunk.data)
            if sender.broken:
                self.close()
        passed_over = 0
        for index, sent in exceptions.items():
            connection = roster.members[start + index]
            try:
                if descriptors[index] < 0:
                    passed_over += not _send_if_next(connection, start + index, before, chunk)
                else:
                    _mark_short(connection, chunk, sent)
            except Exception:
                log.exception("a stream of %s failed", channel.name)
                connection.fail()
        roster.position = start + len(descriptors)
        self._delivered += (len(descriptors) - passed_over) * chunk.count
        self._bytes += (len(descriptors) - len(exceptions)) * size  # the others count their own bytes


def _send_if_next(connection: Connection, position: int, before: Chunk, chunk: Chunk) -> bool:
    """Send a chunk to a member that is not caught up; return False if the chunk is not its next one yet."""
    if connection.at is not before or connection.rest is not None:
        return False
    connection.at = chunk
    if connection.push_framed(chunk.data):
        connection.mark_caught_up(position)
    return True


def _mark_short(connection: Connection, chunk: Chunk, sent: int) -> None:
    """Note that a caught-up member took only a part of a chunk, or that its socket is broken."""
    if sent >= 0 or sent == -EAGAIN:
        connection.at = chunk
        connection.note_sent(chunk.data, max(sent, 0))
    else:
        connection.close()
