"""Figures that are counted often: added up here, and written for Prometheus a few times a second.

Prometheus's own take a lock and write to a file that other processes read: 3 to 5 µs while all is in the cache, and ten
times that where it is not. Where a process has no event loop to write them later, they are written at once.
"""

from __future__ import annotations

import atexit
import logging
from collections.abc import Iterator
from typing import Any, Protocol

from gevent import get_hub, monkey
from prometheus_client import REGISTRY, Counter, Gauge, Histogram, Metric
from prometheus_client.registry import Collector

log = logging.getLogger(__name__)

PERIOD = 0.25
"""Seconds after which what was counted is written."""

_MOST = 1_000
"""Values that wait to be written."""


class _Writable(Protocol):
    def write(self) -> None:
        """Write what waits."""


class Writer(Collector):
    """Writes what waits: when its time has come, when this process is asked for its figures, and at its end."""

    def __init__(self) -> None:
        self._waiting: dict[_Writable, None] = {}
        self._timer: Any = None

    def add(self, one: _Writable, *, in_time: bool = True) -> bool:
        """Write something later, unless ``in_time`` only with what else there is; return False where nobody would."""
        if not monkey.is_module_patched("threading"):
            return False
        if in_time and self._timer is None:
            self._timer = get_hub().loop.timer(PERIOD)
            self._timer.start(self.write)
        self._waiting[one] = None
        return True

    def write(self) -> None:
        waiting, self._waiting = self._waiting, {}
        if self._timer is not None:
            self._timer.close()
            self._timer = None
        for one in waiting:
            try:
                one.write()
            except Exception:  # a full disk: the others are written all the same
                log.exception("a figure could not be written")

    def collect(self) -> Iterator[Metric]:
        """Say nothing, but be asked before the figures are."""
        self.write()
        return iter(())


WRITER = Writer()
REGISTRY.register(WRITER)
atexit.register(WRITER.write)


class Sum:
    """A counter."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._amount = 0.0

    def inc(self, amount: float = 1) -> None:
        if not amount:
            return
        if self._amount or WRITER.add(self):
            self._amount += amount
        else:
            self._counter.inc(amount)

    def write(self) -> None:
        amount, self._amount = self._amount, 0.0
        self._counter.inc(amount)


class Samples:
    """A histogram. One that is ``steady``, as something is observed all the time, is written when so many values wait:
    a timer of its own would wake an idle process."""

    def __init__(self, histogram: Histogram, *, steady: int = 0) -> None:
        self._histogram = histogram
        self._values: list[float] = []
        self._in_time = not steady
        self._most = steady or _MOST

    def observe(self, value: float) -> None:
        if not self._values and not WRITER.add(self, in_time=self._in_time):
            self._histogram.observe(value)
            return
        self._values.append(value)
        if len(self._values) >= self._most:
            self.write()

    def write(self) -> None:
        values, self._values = self._values, []
        for value in values:
            self._histogram.observe(value)


class Level:
    """A gauge, written where it has changed."""

    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge
        self._value: float | None = None

    def set(self, value: float) -> None:
        if value != self._value:
            self._gauge.set(value)
            self._value = value  # behind it: what could not be written is tried again
