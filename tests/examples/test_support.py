"""examples/support: the command of its README."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from support.ports import free_port

FOLDER = Path(__file__).parents[2] / "examples/support"


def test_each_user_gets_the_own_answers_and_the_agent_sees_everybody() -> None:
    environment = os.environ | {"PORT": str(free_port())}
    command = [sys.executable, str(FOLDER / "run.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "ann: We are open from 9 to 18 on weekdays.",
        "waiting: bob, My left shoe is a right shoe",
        "bob did: shoes, returns, shoes, request",
        "bob: An agent will answer soon. / We send you a left one",
        "bob asks for ann's answers: 403",
        "eve asks for the requests: 403",
        "team: 0 waiting, 2 answered, p95 below a minute: True, users: 3",
    ]
