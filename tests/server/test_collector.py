"""Collections of the garbage collector are short however much a process holds, and still find its garbage.

The scripts run in processes of their own: what they do to the collector holds for a whole process.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

LIVE = """
import gc, json
from pushsvc.server.collector import Collector

looked_at = []

def note(phase, info):
    if phase == "start" and info["generation"] == 2:
        looked_at.append(len(gc.get_objects()))

collector = Collector()
collector.start()
gc.callbacks.append(note)
kept = [[number] for number in range(600_000)]
print(json.dumps({"most": max(looked_at), "times": len(looked_at)}))
"""

GARBAGE = """
import gc, json
from pushsvc.server.collector import Collector

class Group:
    left = 0

    def __init__(self):
        self.itself = self
        Group.left += 1

    def __del__(self):
        Group.left -= 1

collector = Collector()
collector.start()
groups = [Group() for _ in range(100_000)]
groups = None
gc.collect()
kept = Group.left
collector.take_back()
print(json.dumps({"kept": kept, "left": Group.left}))
"""


def run(script: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_no_collection_looks_at_all_that_a_process_holds() -> None:
    """With a threshold of 5,000 alone, the first full collection looked at 550,000 objects: 0.1 s."""
    seen = run(LIVE)
    assert seen["times"] >= 5
    assert seen["most"] < 45_000


def test_garbage_among_the_objects_left_out_is_found_when_they_are_taken_back() -> None:
    found = run(GARBAGE)
    assert found["kept"] > 50_000
    assert found["left"] == 0
