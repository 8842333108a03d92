"""examples/restaurant: the command of its README."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from support.ports import free_port

FOLDER = Path(__file__).parents[2] / "examples/restaurant"


def test_reviews_are_cleaned_ranked_and_raise_an_alert() -> None:
    environment = os.environ | {"PORT": str(free_port())}
    command = [sys.executable, str(FOLDER / "run.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert any(line.split() == ["duplicates", "of", "all", "fields", "0", "changed", "6", "refused"] for line in lines)
    ranking = [line.split()[0] for line in lines if " ratings, mean " in line]
    assert ranking == ["tiramisu", "margherita", "lasagne", "risotto", "soup"]
    assert lines[-1] == "raised: soup, mean(rating, 15m) < 3 and count(15m) >= 5"
