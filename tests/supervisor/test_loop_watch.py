"""Which children are replaced because their loop stands still."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from pushsvc.supervisor.loop_watch import LoopWatch, ProcessState, Verdict, process_state
from support.parent import Parent, ask, child, children
from support.processes import needs_proc
from support.waiting import until

RUNS, DUMP, REPLACE = Verdict.RUNS, Verdict.DUMP, Verdict.REPLACE

# Python loads this module at the start of each process. It makes a web process or an aggregator stand still on SIGUSR2.
BLOCKER = """
import signal, sys, time
sleep = time.sleep

def stands_in_python(*_):
    sleep(1_000)

def stands_in_c(*_):
    sum(range(10**12))

if "_web" in sys.orig_argv:
    signal.signal(signal.SIGUSR2, stands_in_python)
if "_aggregator" in sys.orig_argv:
    signal.signal(signal.SIGUSR2, stands_in_c)
"""


class Watched:
    """A child with 7 as its process id, under a watch with a limit of ten seconds."""

    def __init__(self) -> None:
        self.state, self.now, self.count = ProcessState(), 100.0, 1
        self.watch = LoopWatch(10, self.now, lambda pid: self.state)
        self.look()

    def look(self, passed: float = 1.0) -> Verdict:
        self.now += passed
        return self.watch.look({7: self.count}, self.now)[7]


def test_a_loop_that_stands_still_is_dumped_and_then_replaced() -> None:
    watched = Watched()
    assert [watched.look() for _ in range(14)] == [RUNS] * 10 + [DUMP, RUNS, REPLACE, REPLACE]


def test_a_beat_begins_anew_even_after_the_dump() -> None:
    watched = Watched()
    assert [watched.look() for _ in range(11)][-1] is DUMP
    watched.count += 1
    assert [watched.look() for _ in range(11)] == [RUNS] * 11


def test_a_child_that_never_begins_to_beat_is_replaced_after_six_times_the_limit() -> None:
    watched = Watched()
    watched.count = 0
    assert [watched.look() for _ in range(65)] == [RUNS] * 61 + [DUMP, RUNS, REPLACE, REPLACE]


def test_a_child_may_start_slowly() -> None:
    watched = Watched()
    watched.count = 0
    assert {watched.look() for _ in range(60)} == {RUNS}
    watched.count = 1
    assert {watched.look() for _ in range(10)} == {RUNS}


def test_of_a_time_in_which_the_supervisor_itself_slept_one_interval_counts() -> None:
    watched = Watched()
    assert [watched.look(passed=3_600) for _ in range(10)] == [RUNS] * 10


def test_the_time_in_which_a_process_is_stopped_does_not_count() -> None:
    watched = Watched()
    watched.state = ProcessState(stopped=True)
    assert {watched.look() for _ in range(100)} == {RUNS}


def test_the_time_in_which_a_process_waits_for_a_processor_does_not_count() -> None:
    watched = Watched()
    for second in range(100):
        watched.state = ProcessState(waited=float(second))
        assert watched.look() is RUNS
    assert DUMP in [watched.look() for _ in range(11)]


@needs_proc
def test_the_state_of_a_process_tells_whether_it_is_stopped_and_how_long_it_waited() -> None:
    here = process_state(os.getpid())
    assert not here.stopped
    assert process_state(2**22 + 1) == ProcessState()
    if Path("/proc/self/schedstat").exists():
        assert here.waited > 0


@pytest.fixture
def blocker(tmp_path: Path) -> str:
    folder = tmp_path / "blocker"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(BLOCKER)
    return str(folder)


@needs_proc
@pytest.mark.parametrize(
    ("role", "name", "function"),
    [("_web", "web 1", "stands_in_python"), ("_aggregator", "aggregator 1", "stands_in_c")],
)
def test_a_child_that_blocks_is_replaced_and_its_log_has_its_stack(
    parents: Any, blocker: str, role: str, name: str, function: str
) -> None:
    parent = parents("serve", "--port", "0", "--watchdog", "2", PYTHONPATH=blocker)
    port = parent.ready()
    first = until(lambda: child(parent.pid, role))
    others = set(children(parent.pid)) - {first}
    until(lambda: works(parent, port))
    os.kill(first, signal.SIGUSR2)
    until(lambda: child(parent.pid, role) not in (None, first))
    assert f"the loop of {name} (process {first}) stands still for 2 s" in parent.output
    assert f"in {function}" in parent.output
    assert f"{name} ended with code -9" in parent.output
    assert others <= set(children(parent.pid))
    until(lambda: works(parent, port))
    assert parent.end() == 0


@needs_proc
def test_a_stop_of_the_whole_group_replaces_nothing(parents: Any) -> None:
    parent = parents("serve", "--port", "0", "--watchdog", "2")
    port = parent.ready()
    until(lambda: works(parent, port))
    family = children(parent.pid)
    watched = [pid for pid, text in family.items() if "pushsvc" in text and "valkey" not in text]
    for stopped in ([parent.pid, *watched], watched):
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        begun = time.monotonic()
        until(lambda: time.monotonic() > begun + 6)  # noqa: B023
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
        until(lambda: works(parent, port))
    assert children(parent.pid) == family
    assert "stands still" not in parent.output
    assert parent.end() == 0


def works(parent: Parent, port: int) -> bool:
    """Return whether a web process and an aggregator work."""
    assert parent.process.poll() is None, parent.output
    try:
        stored = ask(port, "POST", "/v1/topics/t/events", {"x": 1})[0] == 202
        frame = ask(port, "GET", "/v1/topics/t/stats")[1]
        return stored and bool(frame.get("data")) and not frame.get("stale")
    except OSError:
        return False
