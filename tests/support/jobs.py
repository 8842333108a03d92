"""What tests of jobs share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from pushsvc import jobs

TABLE = pd.DataFrame({"key": [f"k{n % 7}" for n in range(1_000)], "x": np.arange(1_000) / 8})
TEN = jobs.Frame(TABLE, 100)
ONE, TWO = jobs.Pool(1), jobs.Pool(2)


def total(table):
    return table["x"].sum()


def group_of(pid):
    """Return the processes of a group that have not ended."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, group = stat.read_text().rpartition(") ")[2].split()[:3]
        except OSError:
            continue
        if int(group) == pid and state != "Z":
            found.append(int(stat.parent.name))
    return found
