"""Killed workers lose nothing, and cancelled jobs leave nothing."""

from __future__ import annotations

import operator
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from pushsvc import jobs
from support.jobs import TABLE, TEN, TWO, group_of, total
from support.processes import needs_proc
from support.waiting import until


@needs_proc
@pytest.mark.parametrize("processes", [1, 2])
def test_a_worker_that_is_killed_loses_no_partition(tmp_path, processes):
    def work(table):
        (tmp_path / f"{table.index[0]}-{os.getpid()}").touch()
        if table.index[0] == 500 and not (tmp_path / "killed").exists():
            (tmp_path / "waits").write_text(str(os.getpid()))
            time.sleep(600)
        return table["x"].sum()

    job = jobs.Job(TEN, work, merge=operator.add, pool=jobs.Pool(processes))
    found = []
    thread = threading.Thread(target=lambda: found.append(job.run()))
    thread.start()
    pid = int(until(lambda: (tmp_path / "waits").exists() and (tmp_path / "waits").read_text()))
    (tmp_path / "killed").touch()
    os.kill(pid, signal.SIGKILL)
    thread.join()
    assert found == [total(TABLE)]
    assert (job.report.finished, job.report.failures) == (10, [])
    assert 1 <= job.report.repeated < 10
    assert len(list(tmp_path.glob("500-*"))) == 2


@needs_proc
def test_the_process_of_the_workers_may_be_killed_as_well(tmp_path):
    def work(table):
        (tmp_path / f"{table.index[0]}").touch()
        until(lambda: table.index[0] < 500 or (tmp_path / "killed").exists())
        return table["x"].sum()

    job = jobs.Job(TEN, work, merge=operator.add, pool=TWO)
    found = []
    thread = threading.Thread(target=lambda: found.append(job.run()))
    thread.start()
    until(lambda: (tmp_path / "500").exists() and (tmp_path / "600").exists())
    group = job.pid
    os.kill(group, signal.SIGKILL)
    until(lambda: job.pid != group)
    assert group_of(group) == []
    (tmp_path / "killed").touch()
    thread.join()
    assert found == [total(TABLE)]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_partition_that_kills_its_worker_is_found_and_named(processes):
    def work(table):
        if table.index[0] == 500:
            os.kill(os.getpid(), signal.SIGKILL)
        return 1

    with pytest.raises(jobs.JobFailed, match=r"rows 500 to 599: its process was lost 2 times"):
        jobs.run(TEN, work, pool=jobs.Pool(processes, attempts=2))
    job = jobs.Job(TEN, work, merge=operator.add, on_error="count", pool=jobs.Pool(processes, attempts=2))
    assert job.run() == 9
    assert [failure.partition for failure in job.report.failures] == ["rows 500 to 599"]


def test_a_worker_that_ends_the_python_process_is_lost_as_well():
    with pytest.raises(jobs.JobFailed, match="its process was lost 1 times"):
        jobs.run(TABLE, lambda _: os._exit(3), pool=jobs.Pool(2, attempts=1))


# -- cancellation


@needs_proc
@pytest.mark.parametrize("processes", [1, 2])
def test_a_cancelled_job_leaves_no_process(tmp_path, processes):
    def work(table):
        (tmp_path / str(os.getpid())).touch()
        time.sleep(600)

    job = jobs.Job(TEN, work, pool=jobs.Pool(processes))
    raised = []

    def run():
        try:
            job.run()
        except jobs.JobCancelled as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    until(lambda: len(list(tmp_path.glob("[0-9]*"))) == processes)
    pid = job.pid
    assert len(group_of(pid)) >= processes
    job.cancel()
    thread.join()
    assert len(raised) == 1
    assert group_of(pid) == []


SCRIPT = """
    import os, sys, time
    {before}
    from pathlib import Path
    import pandas as pd
    from pushsvc import jobs

    folder = Path(sys.argv[1])

    def work(table):
        (folder / "begun").write_text(f"{{os.getpgid(0)}}")
        {sleep}
        return len(table)

    if __name__ == "__main__":
        print(jobs.run(jobs.Frame(pd.DataFrame({{"x": [1.0, 2.0]}}), 1), work, pool=jobs.Pool(2)))
"""


def script(tmp_path, before="", sleep="time.sleep(600)"):
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT.format(before=before, sleep=sleep)))
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@needs_proc
def test_ctrl_c_ends_a_script_and_all_its_processes(tmp_path):
    with script(tmp_path) as process:
        group = int(until(lambda: (tmp_path / "begun").exists() and (tmp_path / "begun").read_text()))
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert process.returncode != 0
    assert "KeyboardInterrupt" in errors
    assert group_of(group) == []


@needs_proc
def test_processes_end_with_a_script_that_was_killed(tmp_path, folder):
    with script(tmp_path) as process:
        group = int(until(lambda: (tmp_path / "begun").exists() and (tmp_path / "begun").read_text()))
        process.kill()
    until(lambda: not group_of(group))
    for left in folder.glob("pushsvc-job-*"):  # nobody was there to remove it
        subprocess.run(["rm", "-r", str(left)], check=True)


@pytest.mark.parametrize("before", ["", "from gevent import monkey; monkey.patch_all()"])
def test_a_script_with_or_without_gevent_gets_its_results(tmp_path, before):
    with script(tmp_path, before, sleep="pass") as process:
        output, errors = process.communicate(timeout=300)
    assert (output, process.returncode) == ("[1, 1]\n", 0), errors
