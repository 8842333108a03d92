"""Asks for the frames of the windows that this process follows, as long as it follows them.

A window that nobody asked for within the last minute has no current frames. So a new statistics log is read only once
its frames are current: when Redis says so, or when its next frame comes.
"""

import logging
from collections.abc import Callable, Iterable
from itertools import islice, takewhile
from time import monotonic
from typing import Any

import gevent
from gevent.event import Event

from pushsvc.broker.demand import DemandStore
from pushsvc.broker.keys import Log
from pushsvc.errors import PushError
from pushsvc.hub.limits import FeedLimits

log = logging.getLogger(__name__)

_AT_ONCE = 1_000  # windows that are asked for in one round trip


class WindowDemand:
    """Asks for windows soon after they are added, and again and again.

    ``read(log, current)`` is called once the log of a new window may be read. If it is not ``current``, no aggregator
    has written a frame in time; ``read`` is called again once one has.
    """

    def __init__(self, store: DemandStore, read: Callable[[Log, bool], None], limits: FeedLimits) -> None:
        self._store = store
        self._read = read
        self._limits = limits
        self._followed: dict[Log, float] = {}  # monotonic time at which it is asked for again, the next ones first
        self._unasked: dict[Log, None] = {}
        self._awaited: dict[Log, float] = {}  # not read yet: the monotonic time until which its frames are awaited
        self._stale: dict[Log, None] = {}  # read without current frames
        self._remind_at = 0.0
        self._wake = Event()
        self._failing = False
        self._greenlet: gevent.Greenlet[..., None] | None = None

    def close(self) -> None:
        if self._greenlet is not None:
            self._greenlet.kill()

    @property
    def healthy(self) -> bool:
        """False when the greenlet ended."""
        return self._greenlet is None or not self._greenlet.dead

    def add(self, of: Log, *, awaited: bool) -> None:
        """Ask for a window from now on; ``awaited``: call ``read`` once its frames are current."""
        if awaited:
            self._awaited[of] = monotonic() + self._limits.current_wait
        self._unasked[of] = None
        self._wake.set()
        if self._greenlet is None:
            self._greenlet = gevent.spawn(self._run)

    def discard(self, of: Log) -> None:
        for known in (self._followed, self._unasked, self._awaited, self._stale):
            known.pop(of, None)

    def awaits(self, of: Log) -> bool:
        """Return whether the log of a window is not to be read yet."""
        return of in self._awaited

    def on_frame(self, of: Log) -> None:
        """Note that a frame of a window was written."""
        if of in self._awaited or of in self._stale:
            self._report(of, current=True)

    def ask_again(self, partitions: Iterable[int]) -> None:
        """Ask soon for all windows of partitions: Redis may have lost the demand."""
        partitions = set(partitions)
        self._unasked.update((of, None) for of in self._followed if of.partition in partitions)
        self._wake.set()

    def _run(self) -> None:
        while True:
            waits = self._awaited or self._stale
            self._wake.wait(self._limits.remind_interval if waits else self._limits.renew_interval / 4)
            self._wake.clear()
            gevent.sleep(0)  # streams that come in the same turn share a round trip
            try:
                self._ask_due()
                self._failing = False
            except PushError as error:
                if not self._failing:
                    log.warning("frames of statistics cannot be asked for: %s", error)
                self._failing = True
                self._wake.set()
                gevent.sleep(self._limits.pause)
            now = monotonic()
            for of in [of for of, until in self._awaited.items() if until <= now]:
                self._report(of, current=False)

    def _ask_due(self) -> None:
        now = monotonic()
        self._unasked.update((of, None) for of, due in takewhile(lambda item: item[1] <= now, self._followed.items()))
        self._ask(self._unasked, remind=False)
        if now >= self._remind_at:
            self._remind_at = now + self._limits.remind_interval
            just_asked = now + self._limits.current_wait - self._limits.remind_interval
            waiting = {of: None for of, until in self._awaited.items() if until <= just_asked}
            self._ask(waiting | self._stale, remind=True)

    def _ask(self, asked: dict[Log, Any], *, remind: bool) -> None:
        """Ask for windows, in pieces, and remove them from ``asked``."""
        while asked:
            answers = self._store.ask(list(islice(asked, _AT_ONCE)), unborn=True, remind=remind)
            for answer in answers:
                of = answer.log
                if self._followed.pop(of, None) is None and of not in self._unasked:
                    continue  # it was discarded meanwhile
                self._followed[of] = monotonic() + self._limits.renew_interval
                if not answer.pending:
                    self._report(of, current=answer.current)
            for answer in answers:
                asked.pop(answer.log, None)

    def _report(self, of: Log, *, current: bool) -> None:
        """Let the log of a window be read, or say that its frames are current now."""
        waited = self._awaited.pop(of, None) is not None
        was_stale = of in self._stale
        if current:
            self._stale.pop(of, None)
        elif waited:
            self._stale[of] = None
        if waited or (current and was_stale):
            self._read(of, current)
