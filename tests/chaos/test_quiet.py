"""Every fault, while thousands of topics have a subscriber each."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from chaos.run import run
from chaos.site import SUPPORTED

TOPICS = 5_000


@pytest.mark.skipif(not SUPPORTED, reason="needs /proc and prlimit")
def test_subscribers_of_thousands_of_topics_miss_nothing_under_any_fault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = TOPICS + 1_000
    if most < needed:
        pytest.skip(f"needs {needed} descriptors, the limit is {most}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before, needed), most))
    try:
        report = run(tmp_path, 11, seconds=0, pause=2.0, on_round=lambda report: None, quiet_topics=TOPICS)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))
    with capsys.disabled():
        print(f"\n{report}")  # noqa: T201
    assert not report.wrong, "\n".join(report.wrong)
    assert report.connects > 2 * TOPICS, "all streams were cut and came back"
