"""The process of the handlers, with a test in place of its worker."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

from pushsvc.components.messages import Entry, GetStates, Hello, MessageReader, Response, Run, encode
from pushsvc.event import Event
from support.waiting import DEADLINE


def test_a_handler_does_not_take_the_end_of_its_worker_for_a_failure(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        dedent("""
            from __future__ import annotations
            from pushsvc import on

            @on("t", group="g")
            def count(event, ctx):
                try:
                    ctx.state["n"] = 1
                except Exception:
                    open("went-on", "w").close()
        """)
    )
    worker, other = socket.socketpair()
    with worker, other:
        process = subprocess.Popen(
            [sys.executable, "-m", "pushsvc", "_components", "app", str(other.fileno())],
            cwd=tmp_path, pass_fds=[other.fileno()], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        other.close()
        worker.settimeout(DEADLINE)
        reader = MessageReader(worker, Response)
        assert isinstance(reader.read(), Hello)
        entry = Entry("t", 1, 0, 1_000, Event(key="a", data={}).encode())
        run = Run(
            group="g", partition=1, now=5_000, entries=[entry], parked=[], due=[], gaps=[], held={}, parks=9, timers=9
        )
        worker.sendall(encode(run))
        assert isinstance(reader.read(), GetStates)
    output, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, output
    assert "Traceback" not in output
    assert not (tmp_path / "went-on").exists()
