"""examples/sensors: the command of its README."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from support.ports import free_port

FOLDER = Path(__file__).parents[2] / "examples/sensors"


def test_components_clean_fill_and_combine_the_values_of_two_sensors(tmp_path: Path) -> None:
    environment = os.environ | {"PORT": str(free_port())}
    command = [sys.executable, str(FOLDER / "run.py"), "--plot", str(tmp_path / "plot.svg")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    created, triggered, passed, processed, updated = done.stdout.splitlines()
    assert created == "created   460 values of two sensors"
    # A slow machine lets a sensor be silent in between.
    assert re.fullmatch("triggered 29 events for impossible values, [2-9] for silence", triggered)
    assert passed == "passed    480 values, of which 49 are interpolated"
    assert processed == "processed 240 samples: radius 0.997 on average"
    assert updated == "updated   1 impossible value, deleted 1"
    assert (tmp_path / "plot.svg").read_text() == (FOLDER / "plot.svg").read_text()
