"""The watch beside the attacks reports what is lost, not what is on its way."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from hostile.site import Site
from hostile.watch import Watch
from support.processes import needs_proc
from support.stack import Stack


def test_a_report_counts_no_event_that_is_on_its_way(shared_server: Stack) -> None:
    """A report in the middle of the delivery of an event said that the other subscribers lacked it."""
    watch = Watch(shared_server.url, 300, [])
    try:
        reports = []
        for number in range(60):
            time.sleep(0.02 + number % 20 / 1_000)
            reports.append(watch.report())
    finally:
        watch.close()
    assert sum(report.sent for report in reports) > 60
    assert [report.missing for report in reports] == [0] * 60


@needs_proc
def test_a_server_that_does_not_become_ready_is_ended(tmp_path: Path) -> None:
    site = Site(tmp_path, deadline=0.0)
    with pytest.raises(AssertionError, match="did not become ready"), site:
        pass
    assert not Path(f"/proc/{site.pid}").exists()
