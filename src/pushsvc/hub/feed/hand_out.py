"""Gives entries of a partition to the consumers of their logs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from time import monotonic
from typing import NamedTuple

from gevent import get_hub
from gevent.event import Event

from pushsvc.broker.keys import Log
from pushsvc.broker.log import LogEntry, StatisticsEntry
from pushsvc.hub.feed.guarded import guarded
from pushsvc.hub.feed.tail import LogConsumer, Tail
from pushsvc.hub.limits import FeedLimits
from pushsvc.hub.messages import Rendering

Batch = list[tuple[int, Tail, LogEntry]]  # entries of several logs in order of their sequences
Share = list[tuple[Log, LogEntry]]  # the entries of one consumer


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
        self._skips: dict[LogConsumer, list[tuple[Log, int]]] = {}  # of those that got nothing yet
        self._partition = partition
        self._tails = tails
        self._room = room
        self._limits = limits

    def skip(self, consumer: LogConsumer, of: Log, offset: int) -> None:
        """Let a consumer ignore the entries of a log up to an offset. It still takes those that it is about to get."""
        if consumer in self._skips:
            self._skips[consumer].append((of, offset))
        else:
            consumer.skip(of, offset)

    def give(self, batch: Batch, through: int, before: Progress | None) -> None:
        """Apply entries to the window states, and give each consumer its own. The partition is then at ``through``.

        With the position ``before`` them it may pause between two consumers.
        """
        shares: dict[LogConsumer, Share] = {}
        for _, tail, entry in batch:
            if tail.window_state is not None and isinstance(entry, StatisticsEntry):
                tail.window_state.apply(entry)
            for consumer in tail.consumers:
                shares.setdefault(consumer, []).append((tail.log, entry))
        rendering = Rendering()
        large = {consumer for consumer, share in shares.items() if self._has_large(share)} if before is not None else ()
        if before is not None and (len(shares) > 1 or large):
            self._give_in_slices(shares, large, rendering, through, before)
            return
        for consumer, share in shares.items():
            guarded(consumer, consumer.take, self._partition, share, rendering)

    def _has_large(self, share: Share) -> bool:
        most = self._limits.large_frames
        return any(isinstance(entry, StatisticsEntry) and len(entry.data) > most for _, entry in share)

    def _give_in_slices(
        self, shares: Mapping[LogConsumer, Share], large: Collection[LogConsumer], rendering: Rendering, through: int,
        before: Progress,
    ) -> None:  # fmt: skip
        """Give consumers their entries, with pauses, before which those that have theirs take note of it. Those with
        ``large`` ones prepare their messages first.

        Later entries wait: this runs in the greenlet that reads.
        """
        paused = False
        served: list[LogConsumer] = []
        until, left = monotonic() + self._limits.slice, len(shares)

        def pause() -> None:
            nonlocal paused, until
            if monotonic() < until:
                return
            self.held = before
            try:
                for one in served:
                    guarded(one, one.note_taken, self._partition, through)
                served.clear()
                self.slices += 1
                get_hub().wait(get_hub().loop.timer(0))
                self._room.wait()
            finally:
                self.held = None
            paused, until = True, monotonic() + self._limits.slice

        self._skips = {consumer: [] for consumer in shares}
        for consumer, share in shares.items():
            left -= 1
            if consumer in large and not (paused and self._has_left(consumer, share)):
                guarded(consumer, consumer.prepare_messages, share, rendering, pause)
            skips = self._skips.pop(consumer)
            if paused and self._has_left(consumer, share):
                continue
            guarded(consumer, consumer.take, self._partition, share, rendering)
            for of, offset in skips:
                guarded(consumer, consumer.skip, of, offset)
            rendering.forget_prepared()
            served.append(consumer)
            if left:
                pause()

    def _has_left(self, consumer: LogConsumer, share: Share) -> bool:
        return not any(self._feeds(consumer, of) for of, _ in share)

    def _feeds(self, consumer: LogConsumer, of: Log) -> bool:
        tail = self._tails.get(of)
        return tail is not None and consumer in tail.consumers
