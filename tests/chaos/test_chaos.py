"""Processes are killed and stopped, connections cut, Redis restarted, its disk full: nothing acknowledged is lost."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from chaos.faults import FAULTS
from chaos.run import run
from chaos.site import SUPPORTED

SEED = int(os.environ.get("PUSHSVC_CHAOS_SEED", "7"))
"""A seed says what is done in which order, and not how processes answer: no two runs are the same. It stays the same
from run to run so that a change is judged by what the one before it was; other orders are for the long run."""


@pytest.mark.skipif(not SUPPORTED, reason="processes are found in /proc, and a full disk is played with prlimit")
def test_no_acknowledged_event_is_lost_under_any_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every fault once. More of it: python -m tests.chaos --minutes 30."""
    report = run(tmp_path, SEED, seconds=0, pause=2.0, say=lambda report: None)
    with capsys.disabled():
        print(f"\n{report}")  # noqa: T201
    assert not report.wrong
    assert set(report.kills) == set(FAULTS)
    assert report.events > 50
    assert report.resets["broker-restarted"] > 0
