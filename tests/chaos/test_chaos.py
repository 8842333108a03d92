"""Processes are killed and stopped, connections are cut, Redis restarts, its disk is full."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from chaos.faults import FAULTS
from chaos.run import run
from chaos.site import SUPPORTED

SEED = int(os.environ.get("PUSHSVC_CHAOS_SEED", "7"))
"""The seed decides the order of faults, not the timing of processes, so two runs differ. It is fixed so that runs
before and after a change are comparable; longer runs try other orders."""


@pytest.mark.skipif(not SUPPORTED, reason="needs /proc and prlimit")
def test_no_acknowledged_event_is_lost_under_any_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Deal every fault once. A longer run: python -m tests.chaos --minutes 30."""
    report = run(tmp_path, SEED, seconds=0, pause=2.0, on_round=lambda report: None)
    with capsys.disabled():
        print(f"\n{report}")  # noqa: T201
    assert not report.wrong, "\n".join(report.wrong)
    assert set(report.kills) == set(FAULTS)
    assert report.events > 50
    assert report.effects > 10
    assert report.corrections["PATCH"] > 0
    assert report.resets["broker-restarted"] > 0
