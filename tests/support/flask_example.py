"""An example whose application runs with Flask's own server."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.ports import free_port
from support.waiting import until


@contextmanager
def running(example: Path, folder: Path, **environment: str) -> Iterator[str]:
    """Run the application of an example, with its data and output in a folder; give its URL."""
    port, output = free_port(), folder / "output"
    command = [sys.executable, "-m", "flask", "--app", "app", "run", "--port", str(port)]
    variables = os.environ | {"PUSHSVC_DATA_DIR": str(folder / "data")} | environment
    with output.open("wb") as log, subprocess.Popen(command, cwd=example, env=variables, stderr=log) as process:
        try:
            until(lambda: b"Running on" in output.read_bytes())
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
