"""Spreads requests over turns of the event loop: those that arrive together must not keep it from everything else."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import time
from typing import Any

from gevent import get_hub
from gevent.hub import Waiter

_LENGTH = 0.01
_LONG = 1_000  # bytes of a target from which on a request waits for those with shorter ones: it may name 600 topics


class TurnBudget:
    """Lets requests begin while a turn of this thread's loop is younger than ``length`` seconds.

    Others wait, in order, and those with a long target for those with a short one; but one of them begins in each turn.
    ``waits`` counts the requests that had to wait.
    """

    def __init__(self, length: float = _LENGTH) -> None:
        self.waits = 0
        self._length = length
        self._short: deque[Waiter[None]] = deque()
        self._long: deque[Waiter[None]] = deque()
        loop = get_hub().loop
        self._timer: Any = loop.timer(0)
        # When the loop has polled its sockets: work of this turn does not move it.
        self._polled_at: Callable[[], float] = loop.now

    def wait(self, target: int) -> None:
        """Return in a turn that has time left for a request with so many bytes of target."""
        waiting = self._short if target < _LONG else self._long
        if not waiting and self._has_time():
            return
        self.waits += 1
        waiter: Waiter[None] = Waiter()
        waiting.append(waiter)
        self._continue_soon()
        try:
            waiter.get()
        finally:
            if waiter in waiting:  # the greenlet was killed
                waiting.remove(waiter)

    def _has_time(self) -> bool:
        return time() - self._polled_at() < self._length

    def _continue_soon(self) -> None:
        if not self._timer.active:
            self._timer.start(self._continue)

    def _continue(self) -> None:
        """Run in gevent's hub: let requests go on, each until it waits for something."""
        self._timer.stop()
        for waiting in (self._short, self._long):
            begun = False
            while waiting and (not begun or self._has_time()):
                begun = True
                waiting.popleft().switch(None)
        if self._short or self._long:
            self._continue_soon()
