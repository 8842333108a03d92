"""Buffered metrics are written later, but before every scrape."""

import subprocess
import sys

import pytest
from prometheus_client import REGISTRY, Counter, Gauge, Histogram

from pushsvc.metrics import BufferedCounter, BufferedGauge, BufferedHistogram
from support.waiting import DEADLINE

WITH_A_LOOP = """
from gevent import monkey; monkey.patch_all()
import gevent
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram
from pushsvc import metrics
unbuffered = CollectorRegistry()
written = Counter("written", "plain", registry=unbuffered)
plain = Histogram("lasted", "plain", buckets=(1, 2), registry=unbuffered)
REGISTRY.register(written)
REGISTRY.register(plain)
taken = metrics.BufferedCounter(written)
lasted = metrics.BufferedHistogram(plain)
for _ in range(10):
    taken.inc(2)
    lasted.observe(1.5)
assert unbuffered.get_sample_value("written_total") == 0, "increments are buffered"
assert REGISTRY.get_sample_value("written_total") == 20, "a scrape flushes first"
assert REGISTRY.get_sample_value("lasted_bucket", {"le": "2.0"}) == 10
assert REGISTRY.get_sample_value("lasted_sum") == 15
taken.inc()
gevent.sleep(2 * metrics.FLUSH_INTERVAL)
assert unbuffered.get_sample_value("written_total") == 21, "the timer flushes"
for _ in range(2_500):
    lasted.observe(0.5)
assert unbuffered.get_sample_value("lasted_count") > 1_510, "the buffer is bounded"
taken.inc(0)
taken.inc()
"""

FLUSH_EVERY = """
from gevent import monkey; monkey.patch_all()
import gevent
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram
from pushsvc import metrics
unbuffered = CollectorRegistry()
plain = Histogram("late", "plain", buckets=(1, 2), registry=unbuffered)
REGISTRY.register(plain)
late = metrics.BufferedHistogram(plain, flush_every=10)
for _ in range(9):
    late.observe(1.5)
gevent.sleep(2 * metrics.FLUSH_INTERVAL)
assert unbuffered.get_sample_value("late_sum") == 0, "it starts no timer"
late.observe(1.5)
assert unbuffered.get_sample_value("late_sum") == 15, "a full buffer is flushed"
late.observe(1.5)
assert REGISTRY.get_sample_value("late_sum") == 16.5, "a scrape flushes it"
late.observe(1.5)
taken = metrics.BufferedCounter(Counter("written", "plain"))
taken.inc()
gevent.sleep(2 * metrics.FLUSH_INTERVAL)
assert unbuffered.get_sample_value("late_sum") == 18, "it is flushed with other metrics"
"""

AFTER_EXIT = """
import glob, os
from prometheus_client import CollectorRegistry, multiprocess
registry = CollectorRegistry()
multiprocess.MultiProcessCollector(registry)
assert registry.get_sample_value("written_total") == 22
assert registry.get_sample_value("lasted_count") == 2510
"""


@pytest.mark.parametrize("shared", [False, True])
def test_a_process_with_a_loop_flushes_after_an_interval_and_at_exit(tmp_path, shared):
    environment = {"PATH": "", **({"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)} if shared else {})}
    for script in (WITH_A_LOOP, AFTER_EXIT)[: 1 + shared]:
        done = subprocess.run(
            [sys.executable, "-c", script],
            env=environment,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
        assert done.returncode == 0, done.stderr


def test_a_process_without_a_loop_writes_at_once():
    counter, histogram = Counter("here", "plain"), Histogram("took", "plain", buckets=(1,))
    BufferedCounter(counter).inc(3)
    BufferedHistogram(histogram).observe(0.5)
    assert REGISTRY.get_sample_value("here_total") == 3
    assert REGISTRY.get_sample_value("took_count") == 1


def test_flush_every_starts_no_timer():
    done = subprocess.run(
        [sys.executable, "-c", FLUSH_EVERY], capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_gauge_is_written_only_when_it_changes():
    gauge = Gauge("level", "plain")
    level = BufferedGauge(gauge)
    gauge.set(7)  # left by an earlier process
    level.set(0)
    assert REGISTRY.get_sample_value("level") == 0
    gauge.set(7)
    level.set(0)
    assert REGISTRY.get_sample_value("level") == 7
    level.set(1)
    assert REGISTRY.get_sample_value("level") == 1
