"""Prometheus metrics: buffered writes in each process, and one exposition for all processes of a supervisor.

Each write to a metric of prometheus_client takes a lock and touches a file that other processes read. That costs 3 to
5 µs with a warm cache and ten times that with a cold one. So counters and histograms of hot paths add up their changes
here and write them four times a second. A process without a gevent loop writes at once.

The files of all processes are in the directory that PROMETHEUS_MULTIPROC_DIR names. The process that is scraped adds
them up.
"""

from __future__ import annotations

import atexit
import logging
import os
from bisect import bisect_right
from collections.abc import Iterator
from typing import Any

from gevent import get_hub, monkey
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest, values
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

log = logging.getLogger(__name__)

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
DIRECTORY_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
SLOT_VARIABLE = "PUSHSVC_SLOT"  # names the slot of a child process under its supervisor, such as ``web-1``
FLUSH_INTERVAL = 0.25  # seconds from the first buffered change to its write
_MAX_OBSERVATIONS = 1_000  # observations that a histogram buffers


class Flusher(Collector):
    """Flushes buffered metrics after FLUSH_INTERVAL, before each scrape of this process, and at its exit."""

    def __init__(self) -> None:
        self._pending: dict[BufferedCounter | BufferedHistogram, None] = {}
        self._timer: Any = None

    def schedule(self, metric: BufferedCounter | BufferedHistogram, *, start_timer: bool = True) -> bool:
        """Flush ``metric`` with the next flush; return False in a process without a gevent loop.

        Without ``start_timer``, ``metric`` waits for a flush that another metric or a scrape causes.
        """
        if not monkey.is_module_patched("threading"):
            return False
        if start_timer and self._timer is None:
            self._timer = get_hub().loop.timer(FLUSH_INTERVAL)
            self._timer.start(self.flush)
        self._pending[metric] = None
        return True

    def flush(self) -> None:
        """Write all buffered changes; log those that cannot be written."""
        pending, self._pending = self._pending, {}
        if self._timer is not None:
            self._timer.close()
            self._timer = None
        for metric in pending:
            try:
                metric.flush()
            except Exception:  # a full disk must not keep the other metrics from being written
                log.exception("cannot write a metric")

    def collect(self) -> Iterator[Metric]:
        """Return no metric. The registry calls this before it reads the metrics, which are then up to date."""
        self.flush()
        return iter(())


FLUSHER = Flusher()
REGISTRY.register(FLUSHER)
atexit.register(FLUSHER.flush)


class BufferedCounter:
    """A counter that adds up its increments until the next flush."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._amount = 0.0

    def inc(self, amount: float = 1) -> None:
        if not amount:
            return
        if self._amount or FLUSHER.schedule(self):
            self._amount += amount
        else:
            self._counter.inc(amount)

    def flush(self) -> None:
        amount, self._amount = self._amount, 0.0
        self._counter.inc(amount)


class BufferedHistogram:
    """A histogram that keeps its observations until the next flush.

    With ``flush_every``, it is flushed after that many observations and starts no timer. This is for a histogram that
    is observed all the time: a timer would wake an idle process.
    """

    def __init__(self, histogram: Histogram, *, flush_every: int = 0) -> None:
        self._histogram = histogram
        self._observations: list[float] = []
        self._starts_timer = not flush_every
        self._max = flush_every or _MAX_OBSERVATIONS

    def observe(self, value: float) -> None:
        if not self._observations and not FLUSHER.schedule(self, start_timer=self._starts_timer):
            self._histogram.observe(value)
            return
        self._observations.append(value)
        if len(self._observations) >= self._max:
            self.flush()

    def flush(self) -> None:
        observations, self._observations = sorted(self._observations), []
        # ``observe`` would write two values of the file for each observation.
        below = 0
        for bound, bucket in zip(self._histogram._upper_bounds, self._histogram._buckets, strict=True):
            count = bisect_right(observations, bound)
            if count > below:
                bucket.inc(count - below)
            below = count
        self._histogram._sum.inc(sum(observations))


class BufferedGauge:
    """A gauge that is written only when its value changes."""

    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge
        self._value: float | None = None

    def set(self, value: float) -> None:
        if value != self._value:
            self._gauge.set(value)
            self._value = value  # only after the write: a failed write is tried again


def name_files_by_slot() -> None:
    """Name this process's metrics files after its slot. Call it before any metric is created.

    prometheus_client names the files after process ids. They would pile up when a process crashes repeatedly, because
    no counter may be lost. A restarted child reuses its slot, so it continues the counters of the process before it.
    """
    slot = os.environ.pop(SLOT_VARIABLE, None)
    if slot is not None:
        values.ValueClass = values.MultiProcessValue(lambda: slot)  # type: ignore[no-untyped-call]


def exposition() -> bytes:
    """Return the metrics of every process that shares the directory, or of this process if there is no directory."""
    FLUSHER.flush()
    if DIRECTORY_VARIABLE not in os.environ:
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)
