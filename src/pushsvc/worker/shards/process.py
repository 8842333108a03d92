"""The process of one shard: it does what the topic's owner asks over a socket, and ends with the owner."""

from __future__ import annotations

import logging
import socket
import time
from contextlib import suppress
from queue import Queue
from threading import Thread

from pushsvc.aggregate.lifetime_record import NoRoom, decode_record
from pushsvc.aggregate.shard import Shard
from pushsvc.stats.cells import CellLedger
from pushsvc.stats.serialize import InvalidState
from pushsvc.stats.window import LIFETIME
from pushsvc.worker.entry_reader import EntryReader
from pushsvc.worker.shards import messages

log = logging.getLogger(__name__)

Inbox = Queue[messages.Request | None]

_READ_AHEAD = 32  # messages that wait for their turn: about 2 MB of entries of producers that send batches


class ShardServer:
    """A shard of a topic, after ``OpenShard``."""

    def __init__(self, opening: messages.OpenShard) -> None:
        settings, self._name = opening.settings, opening.name
        cells = CellLedger(opening.cells)
        self._lifetime = settings.windows == (LIFETIME,)
        if opening.state is None or self._lifetime:
            self._shard = Shard(settings, opening.time, opening.number, cells=cells)
            self._shard.open(opening.name, opening.since)
            if self._lifetime:
                self._shard.share_lifetime()
            if opening.state is not None:
                self._shard.load_lifetime(opening.name, *decode_record(opening.state))
        else:
            self._shard = Shard.restore(settings, opening.state, cells=cells)
        self._reader = EntryReader(opening.name, settings)
        self._failed: int | None = None
        self._answered_at = time.process_time()

    @classmethod
    def open(cls, opening: messages.OpenShard) -> tuple[ShardServer | None, messages.Response]:
        """Return a shard and its answer; None if the state cannot be restored."""
        try:
            server = cls(opening)
        except (InvalidState, NoRoom) as error:
            return None, messages.StateRejected(str(error), isinstance(error, NoRoom))
        return server, server.report(messages.GetReports(None, False, []))

    def answer(self, request: messages.Request) -> messages.Response | None:
        """Do what is asked; return the answer if there is one."""
        if isinstance(request, messages.ApplyEntry):
            if self._failed is None:
                self._apply(request)
            return None
        if isinstance(request, messages.SetDemand):
            if self._failed is None:
                (self._shard.resume if request.wanted else self._shard.suspend)(self._name, request.window)
            return None
        if self._failed is not None:
            return messages.ApplyFailed(self._failed)
        if isinstance(request, messages.GetReports):
            return self.report(request)
        if isinstance(request, messages.GetRows):
            if request.time is not None:
                self._shard.advance(request.time)
            return messages.RowsRead(self._shard.rows(self._name, request.wanted), self._take_spent())
        if self._lifetime:
            return messages.State(b"", self._take_spent(), self._shard.encode_lifetime(self._name))
        return messages.State(b"".join(self._shard.save()), self._take_spent())

    def report(self, request: messages.GetReports) -> messages.Reports:
        if request.time is not None:
            self._shard.advance(request.time)
        reports = [self._shard.report(self._name, window, full=request.full) for window in request.windows]
        counts = self._shard.topics[self._name]
        unreadable, schedule = self._reader.take_unreadable(), self._shard.schedule()
        return messages.Reports(
            counts.offset, reports, schedule, messages.ShardCounts.of(counts), unreadable, self._take_spent()
        )

    def _apply(self, entry: messages.ApplyEntry) -> None:
        if entry.form:
            self._apply_form(entry)
            return
        try:
            self._shard.apply(self._name, entry.offset, entry.arrival, self._reader.read(entry.offset, entry.data))
        except Exception:
            # The entry may be half counted: the owner begins anew without it.
            log.exception("%s: the entry up to offset %d cannot be counted", self._name, entry.offset)
            self._failed = entry.offset
        if entry.reported:
            counts = self._shard.topics[self._name]
            counts.reported_late = counts.late

    def _apply_form(self, entry: messages.ApplyEntry) -> None:
        events = self._reader.read(entry.offset, entry.data)
        try:
            self._shard.apply_form(self._name, entry.offset, entry.arrival, events, subtract=entry.form < 0)
        except Exception:
            # The owner says that the rows are not exact.
            log.exception("%s: the correction with offset %d cannot be counted", self._name, entry.offset)

    def _take_spent(self) -> float:
        before, self._answered_at = self._answered_at, time.process_time()
        return self._answered_at - before


def run(descriptor: int) -> None:
    """Serve the owner at an inherited socket until it closes. Then the process must end.

    The socket stays open until then: closing it would fail the thread that reads it.
    """
    owner = socket.socket(fileno=descriptor)
    owner.setblocking(True)  # the owner's gevent made it non-blocking
    with suppress(ConnectionError):
        _serve(owner)


def _serve(owner: socket.socket) -> None:
    inbox: Inbox = Queue(_READ_AHEAD)
    Thread(target=_receive, args=(messages.MessageReader(owner, messages.Request), inbox), daemon=True).start()
    server: ShardServer | None = None
    answer: messages.Response | None
    while (request := inbox.get()) is not None:
        if isinstance(request, messages.OpenShard):
            server, answer = ShardServer.open(request)
        else:
            answer = server.answer(request) if server else None
        if answer is not None:
            owner.sendall(messages.encode(answer))


def _receive(reader: messages.MessageReader, inbox: Inbox) -> None:
    """Read ahead of the counting, so that neither process waits for the other."""
    try:
        while True:
            inbox.put(reader.read())
    except (EOFError, ConnectionError):
        pass  # the owner has ended
    finally:
        inbox.put(None)
