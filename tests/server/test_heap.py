"""What large messages leave free goes back to the system."""

from __future__ import annotations

import subprocess
import sys

import pytest

from support.processes import needs_proc

SCRIPT = """
import ctypes
import sys
from pathlib import Path
from pushsvc.server.heap import return_large_blocks, trimmer

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

ctypes.CDLL(None).mallopt(-3, 64_000_000)  # M_MMAP_THRESHOLD: as after large blocks, blocks are taken from the heap
return_now = trimmer() if sys.argv[1] == "trim" else lambda: None
if sys.argv[1] == "map":
    return_large_blocks()
pieces = [b"x" * 1_000_000 for _ in range(100)]
last = b"y" * 1_000_000  # above them
full = resident()
pieces = None
return_now()
print(full - resident())
"""


@needs_proc
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the calls are glibc's")
@pytest.mark.parametrize("way", ["trim", "map"])
def test_free_memory_below_memory_in_use_is_returned(way: str) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, way], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 80_000_000
