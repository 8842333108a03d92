"""The process that counts one part of a split topic, as the topic's owner bids it over a socket.

It keeps nothing of its own: when the owner is gone the socket ends, and so does it.
"""

from __future__ import annotations

import logging
import socket
import time
from contextlib import suppress
from queue import Queue
from threading import Thread

from pushsvc.aggregate.shard import TopicPart
from pushsvc.event.columns import ColumnReader, Columns
from pushsvc.stats.serialize import InvalidState
from pushsvc.worker.shards.messages import (
    Answer,
    Begin,
    Count,
    Failed,
    Figures,
    Question,
    Reader,
    Saved,
    Tell,
    Told,
    Unusable,
    encode,
)

log = logging.getLogger(__name__)

Inbox = Queue[Question | None]

_AHEAD = 32
"""Messages that wait for their turn: about 2 MB of entries as producers of batches make them."""


class Counter:
    """One part, from its ``Begin`` on."""

    def __init__(self, begin: Begin) -> None:
        settings, self._name = begin.settings, begin.name
        if begin.state is None:
            self._part = TopicPart(settings, begin.time, begin.number)
            self._part.open(begin.name, begin.since)
        else:
            self._part = TopicPart.restore(settings, begin.state)
        self._reader = ColumnReader(settings.key, settings.values)
        self._none = Columns.from_events([], settings.key)
        self._failed: int | None = None
        self._unreadable = 0
        self._told_of = time.process_time()

    @classmethod
    def begin(cls, begin: Begin) -> tuple[Counter | None, Answer]:
        """Return a part, and what it answers; none of a state that cannot be had."""
        try:
            counter = cls(begin)
        except InvalidState as error:
            return None, Unusable(str(error))
        return counter, counter.tell(Tell(None, False, []))

    def answer(self, question: Question) -> Answer | None:
        """Do what is asked; return the answer, if there is one to it."""
        if isinstance(question, Count):
            if self._failed is None:
                self._count(question)
            return None
        if self._failed is not None:
            return Failed(self._failed)
        if isinstance(question, Tell):
            return self.tell(question)
        return Saved(b"".join(self._part.save()), self._spend())

    def tell(self, wanted: Tell) -> Told:
        if wanted.time is not None:
            self._part.advance(wanted.time)
        shares = [self._part.share(self._name, window, whole=wanted.whole) for window in wanted.windows]
        topic = self._part.topics[self._name]
        unreadable, self._unreadable = self._unreadable, 0
        return Told(topic.offset, shares, self._part.agenda(), Figures.of(topic), unreadable, self._spend())

    def _count(self, entry: Count) -> None:
        topic = self._part.topics[self._name]
        try:
            self._part.apply(self._name, entry.offset, entry.arrival, self._events_of(entry))
        except Exception:
            # What is half counted is of no use: the owner begins anew, without this entry.
            log.exception("%s: the entry up to offset %d cannot be counted", self._name, entry.offset)
            self._failed = entry.offset
        if entry.told:
            topic.told_late = topic.late

    def _events_of(self, entry: Count) -> Columns:
        if not entry.data:
            return self._none
        try:
            return self._reader.read(entry.data)
        except Exception:
            # Not written by us. It must not end the statistics of all that comes behind it.
            log.exception("%s: the entry up to offset %d cannot be read", self._name, entry.offset)
            self._unreadable += 1
            return self._none

    def _spend(self) -> float:
        before, self._told_of = self._told_of, time.process_time()
        return self._told_of - before


def run(descriptor: int) -> None:
    """Count until the owner is gone."""
    with socket.socket(fileno=descriptor) as owner:
        owner.setblocking(True)  # under gevent the owner's sockets are not, and this one was among them
        with suppress(ConnectionError):
            _serve(owner)


def _serve(owner: socket.socket) -> None:
    inbox: Inbox = Queue(_AHEAD)
    Thread(target=_receive, args=(Reader(owner, Question), inbox), daemon=True).start()
    counter: Counter | None = None
    answer: Answer | None
    while (question := inbox.get()) is not None:
        if isinstance(question, Begin):
            counter, answer = Counter.begin(question)
        else:
            answer = counter.answer(question) if counter else None
        if answer is not None:
            owner.sendall(encode(answer))


def _receive(reader: Reader, inbox: Inbox) -> None:
    """Take what the owner sends, somewhat ahead of the counting: neither is to wait for the other's turn."""
    try:
        while True:
            inbox.put(reader.read())
    except (EOFError, ConnectionError):
        pass  # the owner has ended, and so does its part
    finally:
        inbox.put(None)
