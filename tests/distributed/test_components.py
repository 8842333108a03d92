"""Components over a cluster: the same tests with another URL."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from support.fleet import Fleet

COMPONENTS = Path(__file__).parent.parent / "components"


def test_components_work_over_a_cluster(cluster: Fleet) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--numprocesses", "2"]
    environment = os.environ | {"PUSHSVC_TEST_REDIS_URL": cluster.cluster_url, "PUSHSVC_REQUIRE_ALL": "0"}
    done = subprocess.run(
        [*command, str(COMPONENTS / "test_worker.py"), str(COMPONENTS / "test_kills.py")],
        env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
    assert " passed" in done.stdout
