"""What is counted often is written later, and nobody who looks can tell."""

import subprocess
import sys

import pytest
from prometheus_client import REGISTRY, Counter, Gauge, Histogram

from pushsvc.metrics.buffered import BufferedCounter, BufferedGauge, BufferedHistogram

IN_A_LOOP = """
from gevent import monkey; monkey.patch_all()
import gevent
from prometheus_client import REGISTRY, Counter, Histogram
from pushsvc.metrics import buffered
written = Counter("written", "plain")
taken = buffered.BufferedCounter(written)
lasted = buffered.BufferedHistogram(Histogram("lasted", "plain", buckets=(1, 2)))
for _ in range(10):
    taken.inc(2)
    lasted.observe(1.5)
assert written._value.get() == 0, "nothing is written at once"
assert REGISTRY.get_sample_value("written_total") == 20, "but before anybody looks"
assert REGISTRY.get_sample_value("lasted_bucket", {"le": "2.0"}) == 10
assert REGISTRY.get_sample_value("lasted_sum") == 15
taken.inc()
gevent.sleep(2 * buffered.FLUSH_INTERVAL)
assert written._value.get() == 21, "and after a while"
for _ in range(2_500):
    lasted.observe(0.5)
assert len(lasted._observations) < 1_000, "what waits is bounded"
taken.inc(0)
taken.inc()
"""

STEADY = """
from gevent import monkey; monkey.patch_all()
import gevent
from prometheus_client import REGISTRY, Counter, Histogram
from pushsvc.metrics import buffered
plain = Histogram("late", "plain", buckets=(1, 2))
late = buffered.BufferedHistogram(plain, flush_every=10)
for _ in range(9):
    late.observe(1.5)
assert not buffered.FLUSHER._timer, "nobody is woken for it"
gevent.sleep(2 * buffered.FLUSH_INTERVAL)
assert plain._sum.get() == 0
late.observe(1.5)
assert plain._sum.get() == 15, "when there are enough"
late.observe(1.5)
assert REGISTRY.get_sample_value("late_sum") == 16.5, "or somebody looks"
late.observe(1.5)
taken = buffered.BufferedCounter(Counter("written", "plain"))
taken.inc()
gevent.sleep(2 * buffered.FLUSH_INTERVAL)
assert plain._sum.get() == 18, "or something else is written"
"""

AT_THE_END = """
import glob, os
from prometheus_client import CollectorRegistry, multiprocess
registry = CollectorRegistry()
multiprocess.MultiProcessCollector(registry)
assert registry.get_sample_value("written_total") == 22
assert registry.get_sample_value("lasted_count") == 2510
"""


@pytest.mark.parametrize("shared", [False, True])
def test_in_a_process_with_a_loop_it_waits_a_little(tmp_path, shared):
    environment = {"PATH": "", **({"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)} if shared else {})}
    for script in (IN_A_LOOP, AT_THE_END)[: 1 + shared]:
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr


def test_without_a_loop_it_is_written_at_once():
    counter, histogram = Counter("here", "plain"), Histogram("took", "plain", buckets=(1,))
    BufferedCounter(counter).inc(3)
    BufferedHistogram(histogram).observe(0.5)
    assert counter._value.get() == 3
    assert REGISTRY.get_sample_value("took_count") == 1


def test_what_is_observed_all_the_time_wakes_nobody():
    done = subprocess.run([sys.executable, "-c", STEADY], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_a_level_is_written_where_it_has_changed():
    gauge = Gauge("level", "plain")
    level = BufferedGauge(gauge)
    gauge.set(7)  # what a process before left
    level.set(0)
    assert gauge._value.get() == 0
    gauge.set(7)
    level.set(0)
    assert gauge._value.get() == 7
    level.set(1)
    assert gauge._value.get() == 1
