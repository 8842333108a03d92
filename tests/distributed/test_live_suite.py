"""The live suite over a cluster: the same tests with another URL."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.fleet import Fleet

LIVE = Path(__file__).parent.parent / "live"
SUITE = [
    "streams", "many", "gap_free", "statistics_log", "takeover", "exactness", "values", "recent", "shards", "sessions",
    "latest",
]  # fmt: skip
"""The live tests of storage and streams. The others test sockets, or break a Redis of their own."""

OWN = "by_redis_publish"
"""Waits for a subscriber by the reply of PUBLISH, which in a cluster counts one node. test_cluster covers the like."""


@pytest.mark.timeout(3_600)
def test_live_suite_passes_over_a_cluster(cluster: Fleet) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", f"not {OWN}"]
    command += ["--numprocesses", "3", "--dist", "loadfile"]
    environment = os.environ | {"PUSHSVC_TEST_REDIS_URL": cluster.cluster_url, "PUSHSVC_REQUIRE_ALL": "0"}
    done = subprocess.run(
        [*command, *(str(LIVE / f"test_{name}.py") for name in SUITE)],
        env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
    assert " passed" in done.stdout
