"""Thousands of topics of one partition: only what is in doubt is read, and nothing is lost, repeated or reordered."""

import subprocess
import sys
from pathlib import Path

import pytest

SCENARIO = """
from gevent import monkey; monkey.patch_all()
import sys
from support.quiet import main
main(*sys.argv[1:])
"""


@pytest.mark.parametrize(("seed", "topics", "steps"), [(1, 3_000, 250), (2, 100, 250), (3, 10, 250)])
def test_random_work_on_many_topics_is_received_once_and_in_order(redis_url, prefix, seed, topics, steps):
    done = subprocess.run(
        [sys.executable, "-c", SCENARIO, redis_url, prefix, str(seed), str(topics), str(steps)],
        cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.stdout.startswith("good"), done.stderr[-3_000:]
