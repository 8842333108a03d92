"""Gives entries of a partition to the consumers of their logs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from time import monotonic
from typing import NamedTuple

from gevent import get_hub
from gevent.event import Event

from pushsvc.broker.keys import Log
from pushsvc.broker.log import LogEntry, StatisticsEntry
from pushsvc.hub.feed.tail import Joiner, LogConsumer, Tail
from pushsvc.hub.limits import FeedLimits
from pushsvc.hub.messages import Rendering

log = logging.getLogger(__name__)

Batch = list[tuple[int, Tail, LogEntry]]  # entries of several logs in order of their sequences
_Shares = Mapping[LogConsumer, list[tuple[Log, LogEntry]]]


class Progress(NamedTuple):
    """Up to which sequence a follower has handed out its partition, and up to which offset its logs."""

    through: int
    offsets: dict[Log, int]


class HandOut:
    """Hands out entries while ``room`` is set. ``tails`` are those that are followed.

    While it pauses between two consumers, ``held`` is the position of those that got nothing yet: also that of new
    ones. ``slices`` counts the pauses.
    """

    def __init__(self, partition: int, tails: Mapping[Log, Tail], room: Event, limits: FeedLimits) -> None:
        self.held: Progress | None = None
        self.slices = 0
        self._partition = partition
        self._tails = tails
        self._room = room
        self._limits = limits

    def give(self, batch: Batch, through: int, before: Progress | None) -> None:
        """Apply entries to the window states, and give each consumer its own. The partition is then at ``through``.

        With the position ``before`` them it may pause between two consumers.
        """
        shares: dict[LogConsumer, list[tuple[Log, LogEntry]]] = {}
        for _, tail, entry in batch:
            if tail.window_state is not None and isinstance(entry, StatisticsEntry):
                tail.window_state.apply(entry)
            for consumer in tail.consumers:
                shares.setdefault(consumer, []).append((tail.log, entry))
        rendering = Rendering()
        if before is not None and len(shares) > 1:
            self._give_in_slices(shares, rendering, through, before)
            return
        for consumer, share in shares.items():
            guarded(consumer, partial(consumer.take, self._partition, share, rendering))

    def _give_in_slices(self, shares: _Shares, rendering: Rendering, through: int, before: Progress) -> None:
        """Give consumers their entries, with pauses, before which those that have theirs take note of it.

        Later entries wait: this runs in the greenlet that reads.
        """
        paused = False
        served: list[LogConsumer] = []
        until, left = monotonic() + self._limits.slice, len(shares)
        for consumer, share in shares.items():
            left -= 1
            if paused and not any(self._feeds(consumer, of) for of, _ in share):
                continue  # it has left meanwhile
            guarded(consumer, partial(consumer.take, self._partition, share, rendering))
            served.append(consumer)
            if not left or monotonic() < until:
                continue
            self.held = before
            try:
                for one in served:
                    guarded(one, partial(one.note_taken, self._partition, through))
                served.clear()
                self.slices += 1
                get_hub().wait(get_hub().loop.timer(0))
                self._room.wait()
            finally:
                self.held = None
            paused, until = True, monotonic() + self._limits.slice

    def _feeds(self, consumer: LogConsumer, of: Log) -> bool:
        tail = self._tails.get(of)
        return tail is not None and consumer in tail.consumers


def guarded(consumer: Joiner, call: Callable[[], None]) -> None:
    """Call a consumer. If it raises, it ends; the other consumers are not affected."""
    try:
        call()
    except Exception:
        log.exception("%s", consumer)
        consumer.fail()
