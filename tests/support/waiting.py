"""Waits for a condition, never for a time: a busy machine makes a test slower, not red."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
DEADLINE = 120.0
"""Seconds until a test gives up: many times what anything takes on a busy machine."""


def until(look: Callable[[], T], *, seconds: float = DEADLINE, sleep: Callable[[float], None] = time.sleep) -> T:
    """Return the first true value of ``look``; fail after ``seconds``. ``sleep`` pauses between two looks."""
    end = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < end, f"nothing within {seconds} s; last: {found!r}"
        sleep(0.01)


def turn_until(look: Callable[[], T], *, seconds: float = DEADLINE) -> T:
    """Do the same while gevent's loop goes on turning."""
    import gevent

    return until(look, seconds=seconds, sleep=lambda _: gevent.sleep(0.001))
