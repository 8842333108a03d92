"""Takes over large windows that a process reads for the first time: one after the other, in slices."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

import gevent
from gevent.lock import BoundedSemaphore

from pushsvc.broker.keys import Log
from pushsvc.broker.log import LogEntry, StatisticsEntry
from pushsvc.errors import PushError
from pushsvc.hub.feed.reads import SharedReads
from pushsvc.hub.feed.tail import Tail
from pushsvc.hub.feed.tally import Tally
from pushsvc.hub.limits import FeedLimits
from pushsvc.hub.window_state import WindowState
from pushsvc.pause import Pause
from pushsvc.slices import Slices

log = logging.getLogger(__name__)


class LoadingFollower(Protocol):
    """Follows the logs whose windows are loaded. ``on_loaded`` reads on in a log; ``on_failed`` starts over."""

    @property
    def partition(self) -> int: ...
    @property
    def epoch(self) -> int | None: ...
    def follows(self, tail: Tail) -> bool: ...
    def on_loaded(self, tail: Tail) -> None: ...
    def on_failed(self) -> None: ...


class _Outdated(Exception):
    """The log started over, or is followed no more."""


class _NoRoom(Exception):
    """The rows of the window do not fit beside those of others."""


class WindowLoader:
    """Loads the windows of a process, and drops them. A window that does not fit into the ``tally`` is refused.

    No consumer has anything of a log meanwhile, so no other log waits for it. ``slices`` counts the pieces of the work.
    One window is loaded at a time: with a hundred of them each turn of the event loop would have a slice of each.
    """

    def __init__(self, reader: SharedReads, tally: Tally, limits: FeedLimits) -> None:
        self.slices = 0
        self._loads = 0
        self._reader = reader
        self._tally = tally
        self._limits = limits
        self._turn = BoundedSemaphore()

    @property
    def is_busy(self) -> bool:
        return self._loads > 0

    def is_large(self, entries: Sequence[LogEntry]) -> bool:
        return sum(len(entry.data) for entry in entries) > self._limits.large_frames

    def load(self, follower: LoadingFollower, tail: Tail, entries: Sequence[LogEntry]) -> None:
        """Apply entries to the window of a log soon. They are not kept while it waits for its turn, but read again."""
        tail.loading, tail.continuous = True, False
        self._loads += 1
        gevent.spawn(self._load, follower, tail, None if self._turn.locked() else entries)

    def _load(self, follower: LoadingFollower, tail: Tail, entries: Sequence[LogEntry] | None) -> None:
        state, of, epoch = tail.window_state, tail.log, follower.epoch
        assert state is not None
        pause = self._pauses(follower, tail, state)
        try:
            with self._turn:
                pause()
                if entries is None:
                    entries = self._read(follower, of, tail.after, epoch)
                for entry in entries:
                    if isinstance(entry, StatisticsEntry):
                        state.load(entry, pause)
            tail.loading = False
            if entries:
                tail.after = entries[-1].last
            follower.on_loaded(tail)
        except _Outdated:
            self.drop(state)
        except _NoRoom:
            tail.refuse(self._tally.refusal)  # so nothing follows it, which drops it
        except PushError as error:
            log.warning("%s cannot be read: %s", of, error)
            gevent.sleep(self._limits.pause)
            if tail.window_state is state:
                tail.loading = False
                follower.on_loaded(tail)
        except Exception:
            log.exception("%s", of)
            gevent.sleep(self._limits.pause)
            follower.on_failed()
        finally:
            self._loads -= 1

    def _pauses(self, follower: LoadingFollower, tail: Tail, state: WindowState) -> Pause:
        """Return what gives the event loop a turn. It raises if the window is of no use any more, or has no room."""
        slices = Slices(self._limits.slice)

        def pause() -> None:
            self.slices += 1
            slices()
            if tail.window_state is not state or not follower.follows(tail):
                raise _Outdated
            if not self._tally.has_room(state.memory - tail.counted):
                raise _NoRoom

        return pause

    def drop(self, state: WindowState) -> None:
        """Free the rows of a window without users, in slices if they are many."""
        if state.memory > self._limits.large_frames:
            state.retire()
            gevent.spawn(state.drop_replaced, Slices(self._limits.slice))

    def _read(self, follower: LoadingFollower, of: Log, after: int, epoch: int | None) -> Sequence[LogEntry]:
        read = self._reader.read(follower.partition, {of: after})
        if read.epoch != epoch:
            return ()  # the follower will notice it, too
        return read.logs[of].entries
